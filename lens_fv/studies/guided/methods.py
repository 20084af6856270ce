"""Train every sequence by every method, and compare learning and forgetting."""

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
    "other-heads": ("swap-heads", "other heads"),
}
"""Control methods: the guide each is based on, and what replaces its vectors or heads."""
REPEATS = 5
"""Number of repetitions of each timed step."""


def choose(study: Study) -> None:
    """Try every method's candidate settings on the tuning sequence with the first seed, with one record per candidate."""
    seed, asked = study.settings.ground.seeds[0], {}
    for name, each in study.settings.methods.items():
        for i, method in enumerate(each):
            asked[f"{name}/{i}"] = partial(trained_and_asked, study, method, CHOOSING, seed, f"choosing-{name}-{i}")
    _record(study, "choosing", asked)


def chosen(study: Study) -> dict[str, Method]:
    """Return each method's best settings: those with the highest mean of accuracy on learned and on held-out tasks.

    Both are measured after the instruction at the end of the sequence, on validation pairs.
    """
    records = dict(study.records("choosing").items())
    found: dict[str, Method] = {}
    for name, each in study.settings.methods.items():
        found[name] = each[best([kept(records[f"{name}/{i}"]) for i in range(len(each))])]
    return found | {name: replace(found[of], control=by) for name, (of, by) in CONTROLS.items() if of in found}


def best(tried: Sequence[tuple[float, float]]) -> int:
    """Return the index of the best candidate; see `kept` for the scores."""
    return max(range(len(tried)), key=lambda i: sum(tried[i]))


def kept(record: Mapping[str, Any]) -> tuple[float, float]:
    """Return a run's final accuracy on the trained tasks and on all others."""
    end, trained = record["end"], record["trained"]
    learned = [np.mean(right) for name, right in end.items() if name in trained]
    return float(np.mean(learned)), float(np.mean([np.mean(right) for name, right in end.items() if name not in trained]))


def compare_methods(study: Study) -> None:
    """Train every reported sequence by every method and seed, with one record per run.

    For the first sequence and seed, the tasks' vectors are tracked in FOLDER/trajectories/METHOD.safetensors.
    """
    s, methods, asked = study.settings, chosen(study), {}
    for seed, name, method in product(s.ground.seeds, s.reported, methods):
        first = (seed, name) == (s.ground.seeds[0], s.reported[0])
        path = study.folder / "trajectories" / f"{method}.safetensors" if first else None
        make = partial(trained_and_asked, study, methods[method], name, seed, f"{seed}-{name}-{method}", path)
        asked[f"{seed}/{name}/{method}"] = make
    _record(study, "methods", asked)


def ablate(study: Study) -> None:
    """Change one setting of a method at a time, on the first sequence with the first seed, with one record per change."""
    s, taken, asked = study.settings, chosen(study), {}
    changed = {name: taken[of].guided(**changes) for name, (of, changes) in s.ablations.items() if of in taken}
    for of in (name for name in ("fv", "swap-heads") if name in taken):
        changed |= {f"{of}, {n} heads": replace(taken[of], n_heads=n) for n in s.head_counts}
    if "fv" in taken:
        changed |= {f"fv, at {depth:.0%} of the depth": replace(taken["fv"], depth=depth) for depth in s.depths}
    for of in (name for name in ("lora", "kl", "swap-kl") if name in taken):
        changed |= {f"{of}, {n} epochs": replace(taken[of], training={**taken[of].training, "epochs": n}) for n in s.epochs}
    seed, sequence = s.ground.seeds[0], s.reported[0]
    for name, method in changed.items():
        folder = re.sub(r"[^\w.-]+", "-", f"ablation-{name}")
        asked[name] = partial(trained_and_asked, study, method, sequence, seed, folder)
    _record(study, "ablations", asked)


def method_of(ablation: str) -> str:
    """Return the method that an ablation modifies, from its name "METHOD, WHAT"."""
    return ablation.partition(",")[0]


def measure_costs(study: Study) -> None:
    """Measure time and memory per step, for every method with steps that differ from plain low-rank fine-tuning."""
    ground, names = study.ground, [name for name in study.settings.methods if name in BENCHED]
    subject = Subject(ground.load(ground.start(study.settings.ground.seeds[0])), ())
    rows = study.settings.ground.training.batch_size

    def measured() -> list[dict[str, Any]]:
        with progress_bar("costs", REPEATS, show=study.progress) as tick:
            return bench_guided(subject, methods=names, rows=rows, repeats=REPEATS, tick=tick).to_json()["steps"]

    study.records("costs").get_or_compute("steps", measured)


def _record(study: Study, part: str, asked: Mapping[str, Callable[[], Any]]) -> None:
    """Compute the missing records of a part, and delete its fine-tuning runs afterwards."""
    records = study.records(part)
    with progress_bar(part, len(asked), show=study.progress) as tick:
        for key, make in asked.items():
            records.get_or_compute(key, make)
            tick()
    shutil.rmtree(study.folder / "runs", ignore_errors=True)
