"""Generate transfer sets: sentences about entities, written by a model with their definitions in context."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Positive, PositiveShare, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import pad_token, padded
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.transfer import DROPPED, TransferSet, check_keys, parse_transfer_set, rejection
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measuring
from lens_fv.model.plain import plain_model

OPENINGS = (
    "{name}",
    "{name} is",
    "{name} was",
    "{name} has",
    "{name} is known for",
    "The story of {name} begins with",
    "People who know {name} say that",
    "What makes {name} special is",
    "Because of this, {name}",
    "Today, {name}",
)
"""Default sentence openings. They vary so that the sentences cover different aspects of the entity."""
ROUNDS = 4
"""Maximum number of sampling rounds; each round after the first only retries the sentences still missing."""


@checked
def generate_transfer_set(
    model: LensModel,
    entities: Sequence[Entity],
    *,
    n_sentences: Count = 10,
    max_new_tokens: Count = 24,
    openings: Sequence[str] = OPENINGS,
    temperature: Positive = 0.5,
    top_p: PositiveShare = 0.95,
    seed: Seed = 0,
    path: str | Path | None = None,
    progress: bool = False,
) -> TransferSet:
    """Sample sentences about each entity from a model with the definition in context (Padmanabhan et al. 2023).

    The prompt is the definition, an empty line and an opening. The opening and its continuation are kept up to the end of the
    last complete sentence.

    Args:
        model: Model that writes the sentences: the model to be taught, or another one.
        entities: Entities with definitions.
        n_sentences: Number of sentences per entity. An entity gets fewer if the model keeps repeating itself or does not
            mention the entity.
        max_new_tokens: Maximum number of generated tokens per sentence.
        openings: Sentence openings, used in turn, with `{name}` as a placeholder for the entity's name. After an
            empty opening the model begins as it likes.
        temperature: Sampling temperature.
        top_p: Nucleus sampling threshold.
        seed: Random seed. It is reset for each entity, so an entity's sentences do not depend on the other entities.
        path: File to save the sentences to. If it already holds sentences for the same model, entities, options and seed, they
            are loaded from it, and an interrupted run resumes.
        progress: Show a progress bar.

    Raises:
        LensFVError: no openings, two entities with the same key, or a definition that is empty or longer than the context.

    Example:
        >>> entity = lens_fv.Entity('Velm', 'Velm is a city in Norway.')
        >>> transfer = lens_fv.generate_transfer_set(model, [entity], n_sentences=2)
        >>> sum(map(len, transfer.sentences.values())) <= 2
        True
    """
    if not openings:
        raise LensFVError(f"write {n_sentences} sentences with 0 openings: give at least one")
    check_keys(entities)
    starts = {
        entity.key: [openings[i % len(openings)].format(name=entity.name) for i in range(n_sentences)] for entity in entities
    }
    prompts = {
        entity.key: [_prompt(model, entity, start, max_new_tokens) for start in starts[entity.key]] for entity in entities
    }
    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    sample = partial(_sample_texts, model, plain_model(model), **sampling)
    provenance = Provenance.of(
        model,
        task="transfer set",
        task_hash=sha256(json.dumps([[e.key, e.definition] for e in entities]).encode()).hexdigest()[:16],
        prompts=list(chain(*prompts.values())),
        seed=seed,
        method="continued definitions",
        options={"n": n_sentences, "openings": tuple(openings), **sampling},
    )
    transfer = _saved_by_earlier_run(path, provenance)
    sentences, dropped = dict(transfer.sentences), Counter({reason: transfer.dropped.get(reason, 0) for reason in DROPPED})
    with progress_bar("writing sentences", len(entities), show=progress) as tick:
        for entity in entities:
            if entity.key not in sentences:
                with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
                    torch.manual_seed(seed)
                    sentences[entity.key] = _write_about(entity, starts[entity.key], prompts[entity.key], sample, dropped)
                transfer = TransferSet(dict(sentences), dict(dropped), provenance)
                if path is not None:
                    transfer.save(_unfinished(path))
            tick()
    if path is not None and _unfinished(path).is_file():
        transfer.save(path)
        _unfinished(path).unlink()
    return transfer


def _write_about(
    entity: Entity,
    starts: Sequence[str],
    prompts: Sequence[list[int]],
    sample: Callable[[Sequence[list[int]]], list[str]],
    dropped: Counter[str],
) -> tuple[str, ...]:
    """Generate one entity's sentences, in the order of their openings, and count those that are dropped."""
    sentences: dict[int, str] = {}
    for _ in range(ROUNDS):
        missing = [i for i in range(len(prompts)) if i not in sentences]
        if not missing:
            break
        for i, text in zip(missing, sample([prompts[i] for i in missing]), strict=True):
            sentence = complete_sentences(starts[i] + text)
            if reason := rejection(sentence, entity, sentences.values()):
                dropped[reason] += 1
            else:
                sentences[i] = sentence
    return tuple(sentences[i] for i in sorted(sentences))


def _saved_by_earlier_run(path: str | Path | None, provenance: Provenance) -> TransferSet:
    """Load the sentences that an earlier, possibly interrupted run with the same provenance has written."""
    for file in (Path(path), _unfinished(path)) if path is not None else ():
        if file.is_file():
            saved = parse_transfer_set(file.read_text(encoding="utf-8", errors="replace"), file)
            if saved and saved.provenance and replace(saved.provenance, versions=provenance.versions) == provenance:
                return saved
    return TransferSet({}, {}, provenance)


def _unfinished(path: str | Path) -> Path:
    return Path(path).with_name(f"{Path(path).name}.unfinished")


def _prompt(model: LensModel, entity: Entity, start: str, max_new_tokens: int) -> list[int]:
    if not entity.definition:
        raise LensFVError(f"write sentences about {entity.key}: it has no definition")
    tokens = model.encode(f"{entity.definition}\n\n{start}")
    if len(tokens) + max_new_tokens > model.n_ctx:
        raise LensFVError(
            f"write sentences about {entity.key}: its definition has {len(tokens)} tokens, and {model.name} reads "
            f"{model.n_ctx} with what it writes; shorten it"
        )
    return tokens


def _sample_texts(model: LensModel, plain: Any, prompts: Sequence[list[int]], **sampling: Any) -> list[str]:
    pad = pad_token(model.tokenizer)
    with measuring(plain), torch.no_grad():
        tokens = plain.generate(
            **padded(prompts, pad, model.device, left=True),
            **sampling,
            do_sample=True,
            top_k=0,
            eos_token_id=model.tokenizer.eos_token_id,
            pad_token_id=pad,
        )
    return list(model.tokenizer.batch_decode(tokens[:, max(map(len, prompts)) :], skip_special_tokens=True))


def complete_sentences(text: str) -> str:
    """Return the first paragraph of the text, cut after its last complete sentence if it contains one."""
    paragraph = text.strip().partition("\n")[0].strip()
    complete = re.match(r".*[.!?][\"')]*(?=\s|$)", paragraph)
    return complete.group() if complete else paragraph
