"""Generate transfer sets: sentences about entities, written by a model with their definitions in context."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Positive, PositiveShare, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import pad_token, padded
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.transfer import DROPPED, TransferSet, check_keys, parse_transfer_set, unfit
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measuring
from lens_fv.model.plain import plain_model

Say = Callable[[Sequence[list[int]]], list[str]]
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
        model: model that writes the sentences: the model to be taught, or another one.
        entities: entities with definitions.
        n_sentences: number of sentences per entity. An entity gets fewer if the model keeps repeating itself or does not
            mention the entity.
        max_new_tokens: maximum number of generated tokens per sentence.
        openings: sentence openings, used in turn, with `{name}` as a placeholder for the entity's name. After an
            empty opening the model begins as it likes.
        temperature: sampling temperature.
        top_p: nucleus sampling threshold.
        seed: random seed. It is reset for each entity, so an entity's sentences do not depend on the other entities.
        path: file to save the sentences to. If it already holds sentences for the same model, entities, options and seed, they
            are loaded from it, and an interrupted run resumes.
        progress: whether to show a progress bar.

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
    starts = [openings[i % len(openings)] for i in range(n_sentences)]
    prompts = [[_prompt(model, entity, start, max_new_tokens) for start in starts] for entity in entities]
    say: Say = partial(_continuations, model, plain_model(model), max_new_tokens, temperature, top_p)
    definitions = sha256(json.dumps([[e.key, e.definition] for e in entities]).encode()).hexdigest()[:16]
    provenance = Provenance.of(
        model,
        task="transfer set",
        task_hash=definitions,
        prompts=[prompt for each in prompts for prompt in each],
        seed=seed,
        method="continued definitions",
        options={
            "n": n_sentences,
            "max_new_tokens": max_new_tokens,
            "openings": tuple(openings),
            "temperature": temperature,
            "top_p": top_p,
        },
    )
    made = _so_far(path, provenance)
    found, dropped = dict(made.sentences), Counter(made.dropped)
    with progress_bar("writing sentences", len(entities), show=progress) as tick:
        for entity, begun in zip(entities, prompts, strict=True):
            if entity.key not in found:
                with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
                    torch.manual_seed(seed)
                    found[entity.key] = _about(entity, openings, begun, say, dropped)
                made = TransferSet(dict(found), {what: dropped[what] for what in DROPPED}, provenance)
                if path is not None:
                    made.save(_unfinished(path))
            tick()
    if path is not None and _unfinished(path).is_file():
        made.save(path)
        _unfinished(path).unlink()
    return made


def _about(
    entity: Entity, openings: Sequence[str], begun: Sequence[list[int]], say: Say, dropped: Counter[str]
) -> tuple[str, ...]:
    """Generate one entity's sentences, in the order of their openings."""
    kept: dict[int, str] = {}
    for _ in range(ROUNDS):
        missing = [i for i in range(len(begun)) if i not in kept]
        for i, text in zip(missing, say([begun[i] for i in missing]) if missing else (), strict=True):
            sentence = _whole(openings[i % len(openings)].format(name=entity.name) + text)
            if reason := unfit(sentence, entity, kept.values()):
                dropped[reason] += 1
            else:
                kept[i] = sentence
    return tuple(kept[i] for i in sorted(kept))


def _so_far(path: str | Path | None, provenance: Provenance) -> TransferSet:
    """Load the sentences that an earlier, possibly interrupted run with the same provenance has written."""
    for each in (Path(path), _unfinished(path)) if path is not None else ():
        found = parse_transfer_set(each.read_text(encoding="utf-8", errors="replace"), each) if each.is_file() else None
        about = found and found.provenance
        if found and about and replace(about, versions=provenance.versions) == provenance:
            return found
    return TransferSet({}, {}, provenance)


def _unfinished(path: str | Path) -> Path:
    return Path(path).with_name(f"{Path(path).name}.unfinished")


def _prompt(model: LensModel, entity: Entity, opening: str, room: int) -> list[int]:
    if not entity.definition:
        raise LensFVError(f"write sentences about {entity.key}: it has no definition")
    tokens = model.encode(f"{entity.definition}\n\n{opening.format(name=entity.name)}")
    if len(tokens) + room > model.n_ctx:
        raise LensFVError(
            f"write sentences about {entity.key}: its definition has {len(tokens)} tokens, and {model.name} reads "
            f"{model.n_ctx} with what it writes; shorten it"
        )
    return tokens


def _continuations(
    model: LensModel, plain: Any, max_new_tokens: int, temperature: float, top_p: float, prompts: Sequence[list[int]]
) -> list[str]:
    pad = pad_token(model.tokenizer)
    with measuring(plain), torch.no_grad():
        written = plain.generate(
            **padded(prompts, pad, model.device, left=True),
            do_sample=True,
            temperature=temperature,
            top_p=top_p,
            top_k=0,
            max_new_tokens=max_new_tokens,
            eos_token_id=model.tokenizer.eos_token_id,
            pad_token_id=pad,
        )
    return list(model.tokenizer.batch_decode(written[:, max(map(len, prompts)) :], skip_special_tokens=True))


def _whole(text: str) -> str:
    """Return the first paragraph of the text, cut after its last complete sentence if it contains one."""
    paragraph = text.strip().partition("\n")[0].strip()
    ended = re.match(r".*[.!?][\"')]*(?=\s|$)", paragraph)
    return ended.group() if ended else paragraph
