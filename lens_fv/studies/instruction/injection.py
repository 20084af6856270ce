"""Effects of instruction vectors before the sequences: against function vectors, in the untaught model, by counterpart."""

from functools import partial
from typing import Any

from lens_fv.core.progress import progress_bar
from lens_fv.evaluation import Evaluation, evaluate
from lens_fv.heads import head_overlap, rank_heads
from lens_fv.heads.instructed import Uninformative
from lens_fv.studies.instruction.sequences import vector
from lens_fv.studies.instruction.settings import Study
from lens_fv.studies.instruction.start import entered
from lens_fv.studies.records import stored_row, stored_rows
from lens_fv.tasks import Task
from lens_fv.vectors import InstructionVector, extract, sweep_injection

N_SHOTS = 5
"""Number of demonstrations in the prompts that function vectors are extracted from."""


def inject(study: Study) -> None:
    """Add vectors to test prompts without instructions, with one record per task and seed.

    "taught": in the model that the vectors come from, the instruction vector, the function vector of the same task, and both;
    its record includes "overlap", the overlap between the two vectors' heads. "untaught": the instruction vector in the
    original model.
    """
    records = study.records("injection")
    for seed in study.settings.seeds:
        tasks = entered(study, seed)
        vectors = {name: vector(study, task, seed) for name, task in tasks.items()}
        with progress_bar(f"injection, seed {seed}", 2 * len(tasks), show=study.progress) as tick:
            for when, look in (("taught", _taught), ("untaught", _untaught)):
                for name, task in tasks.items():
                    records.get_or_compute(f"{seed}/{when}/{name}", partial(look, study, task, vectors[name], seed))
                    tick()


def _taught(study: Study, task: Task, instruction: InstructionVector, seed: int) -> dict[str, Any]:
    s, model = study.settings, study.load(study.start(seed))
    shown = rank_heads(model, task, n_shots=N_SHOTS, n_clean=s.n_clean, n_trials=s.n_trials, seed=seed)
    function = extract(model, task, shown, n_heads=s.n_heads)
    best = sweep_injection(model, task, function, scales=s.scales, max_items=s.max_items).best("logprob")
    function = function.at(layer=best.layer, scale=best.scale)
    added = {"function": function, "instruction": instruction, "both": (instruction, function)}
    found = evaluate(model, task, added, n_shots=N_SHOTS, max_items=s.max_items, seed=seed)
    overlap = head_overlap(instruction.heads, function.heads, model.n_layers * model.n_heads)
    return {"results": _rows(found), "overlap": stored_row(overlap)}


def _untaught(study: Study, task: Task, instruction: InstructionVector, seed: int) -> dict[str, Any]:
    model, most = study.load(study.model), study.settings.max_items
    found = evaluate(model, task, {"instruction": instruction}, n_shots=N_SHOTS, max_items=most, seed=seed, force=True)
    return {"results": _rows(found)}


def compare_counterparts(study: Study) -> None:
    """Rank heads against every counterpart with the first seed, with one record per task and counterpart."""
    seed, records = study.settings.seeds[0], study.records("counterparts")
    tasks, kinds = entered(study, seed), study.settings.counterparts
    with progress_bar("counterparts", len(kinds) * len(tasks), show=study.progress) as tick:
        for kind in kinds:
            for name, task in tasks.items():
                records.get_or_compute(f"{kind}/{name}", partial(_against, study, task, seed, kind))
                tick()


def _against(study: Study, task: Task, seed: int, kind: Uninformative) -> dict[str, Any]:
    usual, made = (vector(study, task, seed, each) for each in (study.settings.counterpart, kind))
    model = study.load(study.start(seed))
    found = evaluate(model, task, {"instruction": made}, n_shots=N_SHOTS, max_items=study.settings.max_items, seed=seed)
    overlap = head_overlap(usual.heads, made.heads, model.n_layers * model.n_heads)
    return {"results": _rows(found), "overlap": stored_row(overlap), "heads": [list(head) for head in made.heads]}


def _rows(found: Evaluation) -> list[dict[str, Any]]:
    return stored_rows(found.results)
