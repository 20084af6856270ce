"""Report sections: what each method keeps, whether the target is met, and what each part of a guide contributes."""

import numpy as np

from lens_fv.core.statistics import estimate
from lens_fv.plotting import interval_dots, interval_lines
from lens_fv.studies.guided.methods import CONTROLS, method_of
from lens_fv.studies.guided.page.recorded import METRICS, Followed, Recorded
from lens_fv.studies.page.markdown import Block, Picture, interval, points, table

NAMES = ("AP", "FP", "Forget", "GP", "IP", "lost")
GUIDES = ("iv", "fv", "swap", "swap-heads", "swap-kl")
PLAIN, KL = "lora", "kl"


def aims(run: Recorded) -> list[Block]:
    """Report whether guides lose at most half as much as plain fine-tuning, learn as well, and beat plain divergence."""
    if PLAIN not in run.runs or KL not in run.runs:
        return []
    said: list[str] = []
    plain = run.mean(PLAIN, "lost").mean
    for guide in (name for name in GUIDES if name in run.runs):
        lost, kept = run.mean(guide, "lost"), run.difference(guide, KL, "general")
        at_once, learned = (run.difference(guide, PLAIN, metric) for metric in ("average", "final"))
        half, little = lost.mean <= plain / 2, learned is not None and learned.mean > -0.02
        more = kept is not None and kept.n > 1 and kept.ci_low > 0
        yes = {True: "yes", False: "no"}
        said.append(
            f"- {guide}, {'met' if half and little and more else 'not met'}: loses {points(lost)} points on tasks held out, "
            f"plain low-rank fine-tuning {100 * plain:.0f} (at most half: {yes[half]}); on learned tasks it is "
            f"{points(learned)} points from it at the end (less than 2 lost: {yes[little]}), "
            f"{points(at_once)} right after each was learned; on tasks held out {points(kept)} from plain divergence (more, "
            f"by its interval: {yes[more]}), on learned ones {points(run.difference(guide, KL, 'final'))}."
        )
    aim = "at most half of what plain low-rank fine-tuning loses on tasks held out, less than 2 points on learned tasks"
    return [f"### The aim\n\nA guide should lose {aim}, and keep more than plain divergence from the base.", "\n".join(said)]


def methods(run: Recorded) -> list[Block]:
    """Report every method's metrics, and the differences from plain fine-tuning."""
    if not run.runs:
        return []
    costs = {name: [f"{ratio:.2f}x" for ratio in both] for name, both in run.costs.items()}
    rows = [
        [name, *(interval(run.mean(name, metric)) for metric in METRICS), *costs.get(name, (None, None))] for name in run.runs
    ]
    blocks: list[Block] = [
        "### Methods\n\nMeans over sequences and seeds. AP: learned tasks right after each was learned; FP: at the end; GP: "
        "tasks held out, at the end; IP: the same with demonstrations; lost: GP at the beginning less GP. Time and memory are "
        "a step's, beside those of plain low-rank fine-tuning.",
        table(["method", *NAMES, "time", "memory"], rows),
    ]
    others = [name for name in run.runs if name != PLAIN]
    if PLAIN in run.runs and others:
        differences = [
            [name, *(points(run.difference(name, PLAIN, metric)) for metric in ("average", "final", "general", "in_context"))]
            for name in others
        ]
        blocks += [
            "Differences from plain low-rank fine-tuning, in points:",
            table(["method", "AP", "FP", "GP", "IP"], differences),
        ]
    for control, (of, by) in CONTROLS.items():
        if control in run.runs and of in run.runs:
            gain = points(run.difference(of, control, "general"))
            blocks.append(f'"{control}" is "{of}" by {by}: its own are worth {gain} points of GP.')
    shown = {"learned": "final", "held out": "general", "held out, in context": "in_context"}
    dots = {label: {name: run.mean(name, metric) for name in run.runs} for label, metric in shown.items()}
    figure = interval_dots({run.name: dots}, title="What is kept", axis="share right at the end", limits=(-0.02, 1.02))
    return [
        *blocks,
        Picture(f"{run.slug}-methods", f"Means over sequences and seeds, with 95 % intervals. {run.name}.", figure),
    ]


def choosing(run: Recorded) -> list[Block]:
    """Report the results that settings were chosen by."""
    rows: list[list[object]] = [[*each[:-1], "yes" if each.taken else ""] for each in run.tried]
    about = (
        "### How settings were chosen\n\nOne sequence, the first seed, validation pairs: what is right at its end. The "
        "settings with the best mean of both were taken."
    )
    return [about, table(["method", "settings", "learned", "held out", "taken"], rows)] if rows else []


def trajectories(run: Recorded) -> list[Block]:
    """Report the changes of the tasks' vectors by method."""
    rows = [_at(name, found, -1) for name, found in run.followed.items()]
    rows[:0] = [_at("(the beginning)", found, 0) for found in list(run.followed.values())[:1]]
    header = ["method", "accuracy", "with the vector", "knowledge", "vectors' cosine", "heads' cosine", "change of alignment"]
    about = (
        "### Trajectories\n\nThe first sequence with the first seed, at its end: mean over all tasks of accuracy behind the "
        "instruction, without and with the vector of the beginning; change of knowledge (nats a token); cosine of vectors and "
        "of their heads to the beginning; change of the residual stream's cosine to the vector."
    )
    return [about, table(header, rows), *_side_by_side(run)] if rows else []


def _at(name: str, found: Followed, moment: int) -> list[object]:
    now = [float(np.nanmean(found[measure][moment])) for measure in ("accuracy", "with_vector", "vectors", "heads")]
    changes = [float(np.nanmean(found[measure][moment] - found[measure][0])) for measure in ("knowledge", "alignment")]
    return [name, *now[:2], changes[0], *now[2:], changes[1]]


def _side_by_side(run: Recorded) -> list[Block]:
    """Plot the guides' trajectories together with those of plain fine-tuning and plain divergence."""
    shown = {name: found for name, found in run.followed.items() if name in (PLAIN, KL, *GUIDES)}
    drawn = {"accuracy": "accuracy behind the instruction", "vectors": "cosine of vectors to the beginning"}
    blocks: list[Block] = []
    for measure, title in drawn.items() if shown else ():
        lines = {
            method: {float(i): estimate(tasks.tolist()) for i, tasks in enumerate(found[measure])}
            for method, found in shown.items()
        }
        figure = interval_lines(lines, title=title.capitalize(), x_axis="tasks learned", y_axis=title)
        about = f"{title.capitalize()}: the mean over tasks, with 95 % intervals over them. {run.name}."
        blocks.append(Picture(f"{run.slug}-{measure}", about, figure))
    return blocks


def ablations(run: Recorded) -> list[Block]:
    """Report what each part of a guide contributes."""
    if not run.ablations:
        return []
    rows: list[list[object]] = []
    for method in run.settings["methods"]:
        changed = {name: found for name, found in run.ablations.items() if method_of(name) == method}
        if changed and run.first in run.runs.get(method, {}):
            rows.append([method, *run.runs[method][run.first], None, None])
        rows += [
            [name, *found, *(points(each) for each in run.beside(name) or (None, None))] for name, found in changed.items()
        ]
    about = (
        "### Ablations\n\nOne thing of a method changed; the first sequence with the first seed. Beside the method as it is, "
        "in points: AP and GP, with intervals over the items that both were asked."
    )
    return [about, table(["method", *NAMES, "AP beside it", "GP beside it"], rows)]
