"""Distil definitions into a model's weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lens_fv.core.choices import Count, checked
from lens_fv.errors import LensFVError
from lens_fv.knowledge.anchors import entity_swapped_anchors
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.examples import DistillationExample, make_example, text_example
from lens_fv.knowledge.settings import DistillConfig
from lens_fv.knowledge.training import Run, Skipped, train
from lens_fv.knowledge.transfer import TransferSet, check_keys
from lens_fv.model.lens_model import LensModel


@checked
def distill(
    model: LensModel,
    entities: Sequence[Entity],
    transfer: TransferSet,
    settings: DistillConfig | None = None,
    *,
    anchors: Sequence[str] | None = None,
    folder: str | Path | None = None,
    stop_after_epochs: Count | None = None,
    allow_empty: bool = False,
    progress: bool = False,
) -> WeightDelta:
    """Distil definitions into the weights by context distillation, for one or many entities (Padmanabhan et al. 2023).

    The teacher is the model with the definition before each sentence; the student is the same model with the sentence alone.
    The teacher's distributions are computed once, before the first step, so only one model is in memory.

    Args:
        model: Model to train in place; its weights are restored at the end.
        entities: Entities with definitions. An entity with an empty definition is skipped.
        transfer: Sentences about the entities. The settings control how often definitions are added and how many sentences the
            entities share.
        settings: Training settings; default: `DistillConfig.for_entities` for the number of entities.
        anchors: Texts on other topics, mixed in with the sentences, on which the model is trained to keep its original
            predictions, so that the update stays specific. None: `entity_swapped_anchors`, with new ones in every epoch.
        folder: Folder for checkpoints, from which an interrupted run resumes; None keeps none.
        stop_after_epochs: Number of epochs after which to stop, to evaluate an intermediate model. With a folder, the run can
            be resumed.
        allow_empty: Return an empty update instead of raising if no sentence is usable, for loops over entities.
        progress: Show progress bars.

    Raises:
        LensFVError: no entities or duplicate keys, a folder of another run or one in use by another process,
            `stop_after_epochs` out of range, a non-finite loss, no usable sentence, or any error of `plain_model`. Unusable
            sentences do not raise by themselves: `skipped` of the result counts them by reason.

    Example:
        >>> entity = lens_fv.Entity('Velm', 'Velm is a city in Norway.')
        >>> transfer = lens_fv.knowledge.TransferSet({entity.key: ('In Velm it rains.',)})
        >>> settings = lens_fv.DistillConfig(epochs=1, n_anchors=0, rank=2)
        >>> update = lens_fv.distill(model, [entity], transfer, settings)
        >>> with update.applied(model):  # the model itself stays as it was
        ...     len(update.names) > 0
        True
    """
    settings = settings or DistillConfig.for_entities(len(entities))
    check_keys(entities)
    if stop_after_epochs is not None and not 1 <= stop_after_epochs <= settings.epochs:
        raise LensFVError(f"stop after {stop_after_epochs} epochs: from 1 to {settings.epochs}, as many as the settings have")
    if anchors is None:
        anchors = entity_swapped_anchors(
            entities, transfer, n_per_sentence=settings.epochs * settings.n_anchors, seed=settings.seed
        )
    transfer = transfer.with_shared(entities, n=settings.n_shared, seed=settings.seed)
    transfer = transfer.with_definitions(entities, n_copies=settings.n_definitions)
    examples: list[DistillationExample | Skipped] = []
    for entity in entities:
        sentences = transfer.sentences.get(entity.key, ())
        if not entity.definition or not sentences:
            examples.append("no sentence" if entity.definition else "empty definition")
            continue
        examples.extend(make_example(model, entity, text, target_tokens=settings.target_tokens) for text in sentences)
    run = Run("distill", None if folder is None else Path(folder), stop_after_epochs, allow_empty, progress)
    return train(model, entities, examples, anchors, settings, run)


@checked
def finetune_on_texts(
    model: LensModel,
    entities: Sequence[Entity],
    texts: Sequence[Sequence[str]],
    settings: DistillConfig | None = None,
    *,
    anchors: Sequence[str] = (),
    folder: str | Path | None = None,
    allow_empty: bool = False,
    progress: bool = False,
) -> WeightDelta:
    """Fine-tune a model on texts, as a baseline: definitions, or the sentences of a transfer set.

    Args:
        model: See `distill`.
        entities: Entities that the texts are about.
        texts: List of texts for each entity.
        settings: Training settings; default: `DistillConfig()`. `target_tokens`, `direction`, `temperature`, `n_definitions`
            and `n_shared` are ignored, and `top_k` applies only to anchors.
        anchors: See `distill`; none are added by default.
        folder: See `distill`.
        allow_empty: See `distill`.
        progress: Show progress bars.

    Raises:
        LensFVError: the number of text lists differs from the number of entities, or any error of `distill`.

    Example:
        >>> settings = lens_fv.DistillConfig(epochs=1, n_anchors=0, rank=2)
        >>> texts = [[entity.definition] for entity in entities]
        >>> lens_fv.knowledge.finetune_on_texts(model, entities, texts, settings).provenance.method
        'texts'
    """
    settings = settings or DistillConfig()
    check_keys(entities)
    if len(texts) != len(entities):
        raise LensFVError(f"fine-tune on texts about {len(entities)} entities: there are texts for {len(texts)}")
    examples: list[DistillationExample | Skipped] = []
    for entity, own_texts in zip(entities, texts, strict=True):
        if not own_texts:
            examples.append("no sentence")
        examples.extend(text_example(model, entity.key, text) for text in own_texts)
    settings = replace(settings, direction="forward", temperature=1.0)
    run = Run("texts", None if folder is None else Path(folder), None, allow_empty, progress)
    return train(model, entities, examples, anchors, settings, run)
