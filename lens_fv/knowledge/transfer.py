"""Sentences about entities on which a model is taught: written by a model that has read the definition, or read from a file."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from lens_fv.artefact import Provenance, as_tuples
from lens_fv.card import card_text
from lens_fv.errors import LensFVError
from lens_fv.files import write_whole
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.readers import read_rows
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model
from lens_fv.progress import progress_bar
from lens_fv.texts import read_text
from lens_fv.training.loop import pad_token, padded

KIND = "TransferSet"
DROPPED = ("empty", "no mention", "duplicate")
ROUNDS = 4
"""How often a model is asked for the sentences that are still missing."""


@dataclass(frozen=True, repr=False)
class TransferSet:
    """Sentences by the key of the entity that they are about.

    Attributes:
        sentences: by entity, in the order in which they were written.
        dropped: how many were left out: "empty", "no mention" of the entity, "duplicate".
        provenance: of the model that wrote them; None: they are from a file.
    """

    sentences: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, int] = field(default_factory=dict)
    provenance: Provenance | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sentences.values()))

    def __repr__(self) -> str:
        return card_text(KIND, self.facts())

    def facts(self) -> dict[str, str]:
        """What a reader wants to know first, label by label."""
        written = f"{self.provenance.model}, seed {self.provenance.seed}" if self.provenance else "a file"
        dropped = ", ".join(f"{n} {what}" for what, n in self.dropped.items() if n) or "none"
        return {"entities": str(len(self.sentences)), "sentences": str(len(self)), "from": written, "dropped": dropped}

    def save(self, path: str | Path) -> Path:
        """Write to `path` (JSON). The file appears whole or not at all.

        Raises:
            LensFVError: the folder cannot be written to.
        """
        return write_whole(Path(path), json.dumps({"kind": KIND, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False))


def read_transfer(path: str | Path) -> TransferSet:
    """Read sentences from a file: one that `TransferSet.save` wrote, or JSON lines of entities that come with sentences.

    JSON lines are those of `read_entities`, with a list "sentences" in each; rows of Entity Inferences bring their own.
    Sentences that do not mention their entity, and those that are there already, are dropped and counted.

    Raises:
        LensFVError: neither, or there is no sentence in it.
    """
    path = Path(path)
    text = read_text(path, "sentences: a saved TransferSet, or JSON lines of entities with sentences")
    with_kind = _saved(text)
    if with_kind is not None:
        about = as_tuples(with_kind["provenance"])
        return TransferSet(as_tuples(with_kind["sentences"]), with_kind["dropped"], Provenance(**about) if about else None)
    rows = [(row.entity, row.sentences) for _, row in read_rows(path)]
    dropped: Counter[str] = Counter()
    found: dict[str, list[str]] = {}
    for entity, sentences in rows:
        kept = found.setdefault(entity.key, [])
        for sentence in sentences:
            if reason := _unfit(sentence, entity, kept):
                dropped[reason] += 1
            else:
                kept.append(sentence)
    if not any(found.values()):
        raise LensFVError(f"{path}: none of its {len(rows)} lines has a sentence that mentions its entity")
    return TransferSet({key: tuple(texts) for key, texts in found.items()}, {what: dropped[what] for what in DROPPED})


def _saved(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:  # several values: lines
        return None
    return found if isinstance(found, dict) and found.get("kind") == KIND else None


def write_transfer(
    model: LensModel,
    entities: Sequence[Entity],
    *,
    n: int = 5,
    max_new_tokens: int = 40,
    openings: Sequence[str] = ("{name}",),
    temperature: float = 0.9,
    top_p: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> TransferSet:
    """Have a model that reads an entity's definition go on with sentences about it (Padmanabhan et al. 2023).

    The model reads the definition, an empty line and an opening; what it writes, up to the end of its last whole sentence, is
    kept with the opening in front.

    Args:
        model: who writes: the model that will be taught, or another one.
        entities: with definitions.
        n: sentences for each entity. Fewer where the model keeps repeating itself or does not mention the entity.
        max_new_tokens: at most, for each.
        openings: what sentences begin with, `{name}` being the entity's, in turn; empty: whatever the model writes.
        temperature: of sampling, as are
        top_p: and
        seed: the same for every entity, so that an entity's sentences do not depend on the others.
        progress: draw a progress bar.

    Raises:
        LensFVError: no opening, fewer than one sentence or token asked for, two entities of one key, or a definition that is
            empty or longer than the context.
    """
    if n < 1 or max_new_tokens < 1 or not openings:
        raise LensFVError(
            f"write {n} sentences of up to {max_new_tokens} tokens with {len(openings)} openings: ask for at least one of each"
        )
    check_keys(entities)
    plain = plain_model(model)
    found: dict[str, tuple[str, ...]] = {}
    dropped: Counter[str] = Counter()
    prompts: list[list[int]] = []
    with progress_bar("writing sentences", len(entities), show=progress) as tick:
        for entity in entities:
            starts = [openings[i % len(openings)].format(name=entity.name) for i in range(n)]
            begun = [_prompt(model, entity, start, max_new_tokens) for start in starts]
            kept: dict[int, str] = {}
            with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
                torch.manual_seed(seed)
                for _ in range(ROUNDS):
                    missing = [i for i in range(n) if i not in kept]
                    if missing:
                        texts = _continuations(model, plain, [begun[i] for i in missing], max_new_tokens, temperature, top_p)
                        for i, text in zip(missing, texts, strict=True):
                            sentence = _whole(starts[i] + text)
                            if reason := _unfit(sentence, entity, kept.values()):
                                dropped[reason] += 1
                            else:
                                kept[i] = sentence
            found[entity.key] = tuple(kept[i] for i in sorted(kept))
            prompts += begun
            tick()
    options = {"n": n, "max_new_tokens": max_new_tokens, "openings": [*openings], "temperature": temperature, "top_p": top_p}
    definitions = sha256(json.dumps([[e.key, e.definition] for e in entities]).encode()).hexdigest()[:16]
    provenance = Provenance.of(
        model,
        task="transfer set",
        task_hash=definitions,
        prompts=prompts,
        seed=seed,
        method="continued definitions",
        options=options,
    )
    return TransferSet(found, {what: dropped[what] for what in DROPPED}, provenance)


def check_keys(entities: Sequence[Entity]) -> None:
    """Complain about entities that cannot be told apart.

    Raises:
        LensFVError: none at all, or two of one key.
    """
    twice = [key for key, times in Counter(entity.key for entity in entities).items() if times > 1]
    if twice or not entities:
        raise LensFVError(
            f"entities with the keys {', '.join(twice)} more than once; give each a key of its own" if twice else "no entities"
        )


def _prompt(model: LensModel, entity: Entity, start: str, room: int) -> list[int]:
    if not entity.definition:
        raise LensFVError(f"write sentences about {entity.key}: it has no definition")
    tokens = model.encode(f"{entity.definition}\n\n{start}")
    if len(tokens) + room > model.n_ctx:
        raise LensFVError(
            f"write sentences about {entity.key}: its definition has {len(tokens)} tokens, and {model.name} reads "
            f"{model.n_ctx} with what it writes; shorten it"
        )
    return tokens


def _continuations(
    model: LensModel, plain: Any, prompts: Sequence[list[int]], max_new_tokens: int, temperature: float, top_p: float
) -> list[str]:
    pad = pad_token(model.tokenizer)
    with torch.no_grad():
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
    """Its first paragraph, up to the end of its last whole sentence if there is one."""
    paragraph = text.strip().partition("\n")[0].strip()
    ended = re.match(r".*[.!?][\"')]*(?=\s|$)", paragraph)
    return ended.group() if ended else paragraph


def _unfit(sentence: str, entity: Entity, kept: Collection[str]) -> str:
    """Why a sentence is not to be kept; empty: it is."""
    end = entity.mention_end(sentence)
    if end is None:
        return "no mention" if sentence.strip() else "empty"
    if not re.search(r"\w", sentence[end:]):  # nothing to be taught behind the mention
        return "empty"
    return "duplicate" if sentence in kept else ""
