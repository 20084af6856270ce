"""Report sections on the starting model: which tasks it performs, and the effects of vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lens_fv.core.statistics import Estimate, estimate, proportion
from lens_fv.studies.instruction.page.recorded import Recorded
from lens_fv.studies.instruction.start import enters
from lens_fv.studies.page.markdown import NONE, Block, interval, table

ADDED = {
    "none": "nothing",
    "random": "a random vector",
    "instruction": "the instruction vector",
    "function": "the function vector",
    "both": "both",
    "k_shot": "nothing, but 5 demonstrations",
}


def start(run: Recorded) -> list[Block]:
    """Report accuracy before and after the mixture, and which tasks entered."""
    records = run.part("start")
    if not records:
        return []
    seeds, tasks = run.settings["seeds"], list(dict.fromkeys(key.split("/", 2)[2] for key in records))
    rows: list[list[object]] = []
    for task in tasks:
        before, after = (
            [records[key] for seed in seeds if (key := f"{seed}/{when}/{task}") in records] for when in ("before", "after")
        )
        majority = f"{np.mean([each['majority'] for each in after]):.2f}" if after else NONE
        rows.append([task, _accuracy(before), _accuracy(after), majority, f"{sum(map(enters, after))} of {len(after)}"])
    taught = "a mixture of all tasks" if run.settings["mixture"] else "nothing: it was taken as it is"
    return [
        f"### Something to forget\n\nThe model was taught {taught}. First-token accuracy of validation pairs behind the "
        "instruction, without demonstrations unless the settings say so, over all seeds' items with Wilson's interval. A task "
        "enters with a seed whose whole interval is above what one same first token would score.",
        table(["task", "before", "after", "one same token", "seeds it enters with"], rows),
    ]


def _accuracy(records: Sequence[Mapping[str, Any]]) -> str:
    right = [each for record in records for each in record["right"]]
    if not right:
        return NONE
    return interval(proportion(sum(right), len(right)))


def injection(run: Recorded) -> list[Block]:
    """Report the effect of vectors in prompts without instructions."""
    records = run.part("injection")
    if not records:
        return []
    blocks: list[Block] = [
        "### Vectors instead of instructions\n\nFirst-token accuracy of test pairs without any instruction, mean over tasks "
        "of means over seeds, with intervals over tasks. Function vectors are made of 5-shot prompts."
    ]
    taught, untaught = (_by_condition(records, when) for when in ("taught", "untaught"))
    rows: list[list[object]] = [
        [ADDED[name], interval(taught.get(name)), interval(untaught.get(name))] for name in ADDED if name in taught
    ]
    blocks.append(table(["added", "in the taught model", "the same vector in the untaught model"], rows))
    found = [record["overlap"] for key, record in records.items() if "/taught/" in key]
    shared, chance = (float(np.mean([each[key] for each in found])) for key in ("jaccard", "chance"))
    more = sum(each["p"] < 0.05 for each in found)
    blocks.append(
        f"The heads of a task's instruction vector and of its function vector have a Jaccard index of {shared:.2f} on average "
        f"(random sets {chance:.2f}); {more} of {len(found)} share more heads than chance would give (p < 0.05, each alone)."
    )
    return blocks


def counterparts(run: Recorded) -> list[Block]:
    """Report the effect of the counterpart that heads are ranked against."""
    records = run.part("counterparts")
    if not records:
        return []
    kinds = list(dict.fromkeys(key.split("/", 1)[0] for key in records))
    rows: list[list[object]] = []
    for kind in kinds:
        own = [record for key, record in records.items() if key.startswith(f"{kind}/")]
        shares = [next(r["top1"] for r in record["results"] if r["condition"] == "instruction") for record in own]
        alike = estimate([record["overlap"]["jaccard"] for record in own])
        rows.append([kind.replace("_", " "), interval(estimate(shares)), interval(alike), len(own)])
    usual = run.settings["counterpart"]
    return [
        "### What heads are ranked against\n\nFirst-token accuracy of test pairs without instruction, with the vector of heads "
        f'that were ranked so, and the Jaccard index of these heads and those ranked against "{usual}"; of the first seed, '
        "mean over tasks.",
        table(["counterpart", "accuracy", "same heads", "tasks"], rows),
    ]


def _by_condition(records: Mapping[str, Any], when: str) -> dict[str, Estimate]:
    """Average over each task's seeds first and over tasks second."""
    found: dict[str, dict[str, list[float]]] = {}
    for key, record in records.items():
        _, kind, task = key.split("/", 2)
        for result in record["results"] if kind == when else ():
            found.setdefault(result["condition"], {}).setdefault(task, []).append(result["top1"])
    return {name: estimate([float(np.mean(v)) for v in tasks.values()]) for name, tasks in found.items()}
