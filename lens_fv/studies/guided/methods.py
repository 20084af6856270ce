"""Every way to train, on every sequence: what is learned, and what is lost."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np

from lens_fv.core.progress import progress_bar
from lens_fv.studies.bench import Subject, bench_guided
from lens_fv.studies.bench.guiding import METHODS as BENCHED
from lens_fv.studies.guided.settings import CHOOSING, Method, Study
from lens_fv.studies.guided.training import trained_and_asked

CONTROLS: Mapping[str, tuple[str, Literal["random vectors", "other heads"]]] = {
    "random": ("fv", "random vectors"),
    "other-heads": ("crossed-heads", "other heads"),
}
"""Of which guide, and what it is guided by instead."""
REPEATS = 5
"""Of each step that is timed."""


def choose(study: Study) -> None:
    """Try every method's settings on the sequence to choose by, with the first seed: a record is one of them."""
    seed, asked = study.settings.ground.seeds[0], {}
    for name, each in study.settings.methods.items():
        for i, method in enumerate(each):
            asked[f"{name}/{i}"] = partial(trained_and_asked, study, method, CHOOSING, seed, f"choosing-{name}-{i}")
    _record(study, "choosing", asked)


def chosen(study: Study) -> dict[str, Method]:
    """Of every method the settings that keep most: by the mean of what is right of tasks learned and of tasks held out.

    Both behind instructions at the end of the sequence, on validation pairs.
    """
    records = dict(study.records("choosing").items())
    found: dict[str, Method] = {}
    for name, each in study.settings.methods.items():
        found[name] = each[best([kept(records[f"{name}/{i}"]) for i in range(len(each))])]
    return found | {name: replace(found[of], control=by) for name, (of, by) in CONTROLS.items() if of in found}


def best(tried: Sequence[tuple[float, float]]) -> int:
    """Which of what was tried keeps most; see `kept`."""
    return max(range(len(tried)), key=lambda i: sum(tried[i]))


def kept(record: Mapping[str, Any]) -> tuple[float, float]:
    """What is right at the end of a run, of tasks learned and of all others."""
    end, trained = record["end"], record["trained"]
    learned = [np.mean(right) for name, right in end.items() if name in trained]
    return float(np.mean(learned)), float(np.mean([np.mean(right) for name, right in end.items() if name not in trained]))


def compare_methods(study: Study) -> None:
    """Train every sequence that is reported with every method and seed: a record is one run.

    Of the first sequence, with the first seed, FOLDER/trajectories/METHOD.safetensors follows the tasks' vectors.
    """
    s, methods, asked = study.settings, chosen(study), {}
    for seed, name, method in product(s.ground.seeds, s.reported, methods):
        first = (seed, name) == (s.ground.seeds[0], s.reported[0])
        path = study.folder / "trajectories" / f"{method}.safetensors" if first else None
        make = partial(trained_and_asked, study, methods[method], name, seed, f"{seed}-{name}-{method}", path)
        asked[f"{seed}/{name}/{method}"] = make
    _record(study, "methods", asked)


def ablate(study: Study) -> None:
    """Change one thing of a method, on the first sequence with the first seed: a record is a change."""
    s, taken, asked = study.settings, chosen(study), {}
    changed = {name: taken[of].guided(**changes) for name, (of, changes) in s.ablations.items() if of in taken}
    for of in (name for name in ("fv", "crossed-heads") if name in taken):
        changed |= {f"{of}, {n} heads": replace(taken[of], n_heads=n) for n in s.head_counts}
    if "fv" in taken:
        changed |= {f"fv, at {depth:.0%} of the depth": replace(taken["fv"], depth=depth) for depth in s.depths}
    for of in (name for name in ("lora", "kl", "crossed-kl") if name in taken):
        changed |= {f"{of}, {n} epochs": replace(taken[of], training={**taken[of].training, "epochs": n}) for n in s.epochs}
    seed, sequence = s.ground.seeds[0], s.reported[0]
    for name, method in changed.items():
        folder = re.sub(r"[^\w.-]+", "-", f"ablation-{name}")
        asked[name] = partial(trained_and_asked, study, method, sequence, seed, folder)
    _record(study, "ablations", asked)


def method_of(ablation: str) -> str:
    """What an ablation changes one thing of, by its name: "METHOD, WHAT"."""
    return ablation.partition(",")[0]


def measure_costs(study: Study) -> None:
    """Time and memory of a step, of every method whose steps are not those of plain low-rank fine-tuning."""
    ground, names = study.ground, [name for name in study.settings.methods if name in BENCHED]
    subject = Subject(ground.load(ground.start(study.settings.ground.seeds[0])), ())
    rows = study.settings.ground.training.batch_size

    def measured() -> list[dict[str, Any]]:
        with progress_bar("costs", REPEATS, show=study.progress) as tick:
            return bench_guided(subject, methods=names, rows=rows, repeats=REPEATS, tick=tick).to_json()["steps"]

    study.records("costs").get_or_compute("steps", measured)


def _record(study: Study, part: str, asked: Mapping[str, Callable[[], Any]]) -> None:
    """Make what a part of the study does not have yet; of runs nothing is kept behind it."""
    records = study.records(part)
    with progress_bar(part, len(asked), show=study.progress) as tick:
        for key, make in asked.items():
            records.get_or_compute(key, make)
            tick()
    shutil.rmtree(study.folder / "runs", ignore_errors=True)
