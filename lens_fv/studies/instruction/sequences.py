"""Effects of fine-tuning on task sequences."""

from dataclasses import replace

from lens_fv.core.files import file_name
from lens_fv.dynamics import TaskProbe, make_task_probe, track_checkpoints
from lens_fv.finetuning import finetune
from lens_fv.heads import HeadRanking, PatchingPrompts, make_instruction_prompts, rank_instruction_heads
from lens_fv.heads.instructed import Uninformative
from lens_fv.studies.instruction.settings import Study
from lens_fv.studies.instruction.start import entered
from lens_fv.tasks import Task
from lens_fv.vectors import InstructionVector, extract_instruction, sweep_injection


def follow_sequences(study: Study) -> None:
    """Train every sequence with every seed, track its checkpoints, and save FOLDER/SEED-SEQUENCE/trajectory.safetensors."""
    for seed in study.settings.seeds:
        for name in study.settings.sequences:
            folder = study.folder / f"{seed}-{file_name(name)}"
            if (folder / "trajectory.safetensors").is_file():
                continue
            settings = replace(study.settings.training, mixed=False, seed=seed)
            run = finetune(
                study.start(seed), study.sequence(name), folder / "run", settings, **study.place, progress=study.progress
            )
            model = study.load(study.start(seed))
            probes = [probe(study, task, seed) for task in entered(study, seed).values()]
            path = track_checkpoints(model, run, probes, folder=folder / "moments", seed=seed, progress=study.progress)
            path.save(folder / "trajectory.safetensors")


def _ranking(study: Study, task: Task, seed: int, counterpart: Uninformative) -> HeadRanking:
    """Rank a task's heads in the initial model; the ranking is cached."""
    s = study.settings
    return rank_instruction_heads(
        study.load(study.start(seed)),
        task,
        counterpart=counterpart,
        n_shots=s.n_shots,
        n_clean=s.n_clean,
        n_trials=s.n_trials,
        seed=seed,
        folder=study.folder / f"rankings-{seed}",
        progress=study.progress,
    )


def vector(
    study: Study, task: Task, seed: int, counterpart: Uninformative | None = None, *, n_heads: int | None = None
) -> InstructionVector:
    """Return a task's vector in the initial model, at the layer and scale with the most likely validation answers; cached."""
    s, against = study.settings, counterpart or study.settings.counterpart
    kind = against if n_heads is None else f"{against}-{n_heads}"
    file = study.folder / f"vectors-{seed}" / kind / f"{file_name(task.name)}.safetensors"
    if file.is_file():
        return InstructionVector.load(file)
    model = study.load(study.start(seed))
    made = extract_instruction(model, task, _ranking(study, task, seed, against), n_heads=n_heads or s.n_heads)
    best = sweep_injection(model, task, made, scales=s.scales, max_items=s.max_items).best("logprob")
    made = made.at(layer=best.layer, scale=best.scale)
    made.save(file)
    return made


def probe(study: Study, task: Task, seed: int, *, ranked: bool = True) -> TaskProbe:
    """Build a task's probe, optionally with prompts for ranking all heads again."""
    s, model = study.settings, study.load(study.start(seed))
    contrast: PatchingPrompts | None = None
    if ranked:
        contrast = make_instruction_prompts(
            model, task, counterpart=s.counterpart, n_shots=s.n_shots, n_clean=s.n_clean, n_trials=s.n_trials, seed=seed
        )
    return make_task_probe(
        model,
        task,
        vector(study, task, seed),
        patching_prompts=contrast,
        n_shots=s.n_shots,
        n_context=s.n_context,
        max_items=s.max_items,
        seed=seed,
    )
