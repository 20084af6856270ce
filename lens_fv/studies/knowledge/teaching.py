"""What the model knows without and with definitions, and after it was taught in one way or another."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lens_fv.knowledge import (
    Entity,
    KnowledgeResult,
    TeachSettings,
    TransferSet,
    WeightDelta,
    distill,
    evaluate_knowledge,
    evaluate_update,
    learn_texts,
    random_definitions,
    said_of_others,
)
from lens_fv.progress import progress_bar
from lens_fv.records import Records
from lens_fv.studies.knowledge.settings import OWN, Study

EVERYWHERE = ("distill", "definition", "definition_few", "sentences")
"""Ways to teach that are compared with all seeds."""
CONTROLS = ("unanchored", "anchored_definition", "other_sentences", "wrong_definition")
"""Ways to teach the study's own entities with the first seed: see `_ways`."""
ALONE = "alone"
CHECKPOINTS = 2
"""Of a distillation, to go on from: in the middle and at the end."""


def measure_base(study: Study) -> None:
    """Every source without any update: a record is a condition."""
    records = study.records("base")
    for source, entities in study.everything.items():
        if entities and f"{source}/base" not in records:
            for result in evaluate_knowledge(study.model, entities, {}, elsewhere=study.elsewhere, progress=study.progress):
                records.once(f"{source}/{result.condition}", partial(said, result))


def compare_ways(study: Study) -> None:
    """Teach all entities of a source at once, in every way: a record is a source, a seed and a way."""
    records, s = study.records("ways"), study.settings
    asked = [(source, seed, way) for source in study.sources for seed in s.seeds for way in EVERYWHERE]
    asked += [(OWN, s.seeds[0], way) for way in CONTROLS]
    with progress_bar("ways to teach", len(asked), show=study.progress) as tick:
        for source, seed, way in asked:
            entities, transfer = study.sources[source], study.sentences(source, seed)
            _record(study, records, f"{source}/{seed}/{way}", entities, _ways(study, entities, transfer, seed)[way])
            tick()


def count_entities(study: Study) -> None:
    """Distil more and more entities at once, with the first seed: a record is one update.

    Those of one entity are there twice, at last with the settings for one alone.
    """
    records, s = study.records("numbers"), study.settings
    seed, everything = s.seeds[0], [each for entities in study.everything.values() for each in entities]
    groups: list[tuple[str, list[Entity], TeachSettings]] = []
    for n in s.numbers:
        most = {s.numbers[0]: s.few[0], s.numbers[1]: s.few[1]}.get(n, 1)
        those = [everything[i * n : (i + 1) * n] for i in range(most) if (i + 1) * n <= len(everything)]
        groups += [(f"{n}/{i}", each, s.distill) for i, each in enumerate(those)]
    groups += [(f"{ALONE}/{i}", [each], s.alone) for i, each in enumerate(everything[: s.few[0]])]
    transfer = merged([study.sentences(source, seed) for source, entities in study.everything.items() if entities])
    few = TransferSet({key: texts[: s.n_alone] for key, texts in transfer.sentences.items()})
    with progress_bar("numbers of entities", len(groups), show=study.progress) as tick:
        for name, entities, settings in groups:
            read = few if name.startswith(ALONE) else transfer
            teach = partial(distilled, study, entities, read, seed, settings=settings)
            own = settings == s.distill and tuple(entities) == study.sources[OWN]
            _record(study, records, name, entities, partial(_last_own, study) if own else teach)
            tick()


def own_update(study: Study, epochs: int) -> WeightDelta:
    """The update of the study's own entities with the first seed, as it is behind so many epochs.

    Made once, with all others that are looked at on its way, and kept: FOLDER/updates/EPOCHS.safetensors.
    """
    seed, folder = study.settings.seeds[0], study.folder / "updates"
    for n in study.settings.looked_at:
        if not (folder / f"{n}.safetensors").is_file():
            transfer = study.sentences(OWN, seed)
            delta = distilled(study, study.sources[OWN], transfer, seed, folder / "unfinished", until=n)
            delta.save(folder / f"{n}.safetensors")
    shutil.rmtree(folder / "unfinished", ignore_errors=True)
    return WeightDelta.load(folder / f"{epochs}.safetensors")


def distilled(
    study: Study,
    entities: Sequence[Entity],
    transfer: TransferSet,
    seed: int,
    folder: Path,
    *,
    settings: TeachSettings | None = None,
    until: int | None = None,
    anchored: bool = True,
    n_definitions: int | None = None,
) -> WeightDelta:
    """An update.

    Args:
        study: the study.
        entities: what is taught.
        transfer: sentences about them.
        seed: of the order and of anchors.
        folder: of checkpoints; see `distill`.
        settings: default: the study's.
        until: see `distill`.
        anchored: with the same sentences said of others for anchors.
        n_definitions: how often definitions are among the sentences; default: as often as the settings say.
    """
    times = study.settings.n_definitions if n_definitions is None else n_definitions
    settings = replace(settings or study.settings.distill, seed=seed, n_checkpoints=CHECKPOINTS)
    anchors = said_of_others(entities, transfer, times=settings.epochs * settings.n_anchors, seed=seed) if anchored else ()
    whole, progress = transfer.with_definitions(entities, times=times), study.progress
    return distill(study.model, entities, whole, settings, anchors=anchors, folder=folder, until=until, progress=progress)


def merged(sets: Sequence[TransferSet]) -> TransferSet:
    """All sentences of several sets."""
    return TransferSet({key: texts for each in sets for key, texts in each.sentences.items()})


def said(result: KnowledgeResult) -> dict[str, Any]:
    """A result as JSON has it."""
    return {
        "scores": result.scores.rows(),
        "elsewhere": result.elsewhere.rows() if result.elsewhere else None,
        "drift": result.drift._asdict() if result.drift else None,
    }


def _record(study: Study, records: Records, key: str, entities: Sequence[Entity], teach: Callable[[Path], WeightDelta]) -> None:
    """Teach, and write down what is known then. What is stopped before that goes on from a folder of its own."""
    folder = study.folder / "unfinished" / key.replace("/", "-")
    records.once(key, partial(_taught, study, entities, teach, folder))
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # others are in it
        folder.parent.rmdir()


def _taught(study: Study, entities: Sequence[Entity], teach: Callable[[Path], WeightDelta], folder: Path) -> dict[str, Any]:
    delta = teach(folder)
    result = evaluate_update(study.model, entities, delta, elsewhere=study.elsewhere)
    return said(result) | {"skipped": dict(delta.skipped)}


def _last_own(study: Study, _: Path) -> WeightDelta:
    return own_update(study, study.settings.distill.epochs)


def _ways(
    study: Study, entities: Sequence[Entity], transfer: TransferSet, seed: int
) -> Mapping[str, Callable[[Path], WeightDelta]]:
    """Ways to teach, by name; those that distil go on from what is in a folder.

    "distill"; "definition" and "sentences": fine-tuning on these texts, the definition as often as all sentences together;
    "definition_few": as often as one sentence; "unanchored": distillation without anchors;
    "anchored_definition": fine-tuning on the definition, with it said of others for anchors;
    "other_sentences": the right definition, and sentences that were written about another entity; "wrong_definition": another
    entity's definition. For these two no definition is among the sentences: it would say what is right.
    """
    s, progress = study.settings, study.progress
    own_first = entities == study.sources[OWN] and seed == s.seeds[0]
    texts = replace(s.texts, seed=seed)
    wrong = random_definitions(entities, seed)
    own = TransferSet({each.key: (each.definition,) for each in entities})
    definitions = list(own.sentences.values())
    whole = transfer.with_definitions(entities, times=s.n_definitions)
    sentences = [whole.sentences.get(each.key, ()) for each in entities]
    often = replace(texts, epochs=texts.epochs * s.n_sentences)
    others = [replace(each, definition=wrong[each.key]) for each in entities]
    return {
        "distill": partial(_last_own, study) if own_first else partial(distilled, study, entities, transfer, seed),
        "definition": lambda _: learn_texts(study.model, entities, definitions, often, progress=progress),
        "definition_few": lambda _: learn_texts(study.model, entities, definitions, texts, progress=progress),
        "anchored_definition": lambda _: learn_texts(
            study.model,
            entities,
            definitions,
            often,
            anchors=said_of_others(entities, own, times=often.epochs, seed=seed),
            progress=progress,
        ),
        "sentences": lambda _: learn_texts(study.model, entities, sentences, texts, progress=progress),
        "unanchored": lambda folder: distilled(study, entities, transfer, seed, folder, anchored=False),
        "other_sentences": lambda folder: distilled(
            study, entities, _exchanged(entities, transfer), seed, folder, n_definitions=0
        ),
        "wrong_definition": lambda folder: distilled(study, others, transfer, seed, folder, n_definitions=0),
    }


def _exchanged(entities: Sequence[Entity], transfer: TransferSet) -> TransferSet:
    """To each entity the sentences that were written about the next one, with its own name in them."""
    found: dict[str, tuple[str, ...]] = {}
    for entity, other in zip(entities, [*entities[1:], entities[0]], strict=True):
        texts = transfer.sentences.get(other.key, ())
        places = [(text, other.mention(text)) for text in texts]
        found[entity.key] = tuple(text[: at[0]] + entity.name + text[at[1] :] for text, at in places if at)
    return TransferSet(found)
