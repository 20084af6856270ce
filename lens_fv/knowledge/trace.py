"""Causal tracing: which states at the entity's name and at the end of the prompt carry knowledge about the entity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.choices import NonNegative, Seed, checked
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.heads.means import last_tokens
from lens_fv.heads.protocol import noise_on
from lens_fv.knowledge.entity import Entity, all_probes
from lens_fv.knowledge.evaluate import probe_prompts
from lens_fv.knowledge.mentions import probe_mentions
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Edit, score_answers
from lens_fv.tasks import EncodedPrompt

PLACES = ("mention", "last")
"""Positions at which states are restored: the last token of the name, and the last token before the gap."""


@dataclass(frozen=True, repr=False, eq=False)
class KnowledgeTrace(Artefact):
    """Answer log-probabilities, in nats, with noise on the entity's name and one state restored.

    Attributes:
        entities: Entity key of each probe.
        clean, noisy: Log-probabilities without noise, and with noise and nothing restored.
        resid: Log-probabilities with the residual stream after one layer restored, at each of `PLACES`.
        heads: Log-probabilities with one head's output restored, at each of `PLACES`.
    """

    entities: tuple[str, ...]
    clean: Float[Tensor, " probes"]
    noisy: Float[Tensor, " probes"]
    resid: Float[Tensor, "probes places layers"]
    heads: Float[Tensor, "probes places layers heads"]

    @property
    def layer_effects(self) -> Float[Tensor, "probes places layers"]:
        """Log-probability recovered by restoring the residual stream, in nats."""
        return self.resid - self.noisy[:, None, None]

    @property
    def head_effects(self) -> Float[Tensor, "probes places layers heads"]:
        """Log-probability recovered by restoring one head's output, in nats."""
        return self.heads - self.noisy[:, None, None, None]

    def to_dataframe(self) -> DataFrame:
        """One row per restored state: the log-probability it recovers, averaged over probes; `head` is empty for layers."""
        columns = ("position", "layer", "head", "recovered_nats")
        rows: list[tuple[Any, ...]] = []
        for i, place in enumerate(PLACES):
            rows += [(place, layer, None, effect) for layer, effect in enumerate(self.layer_effects.mean(0)[i].tolist())]
            for layer, effects in enumerate(self.head_effects.mean(0)[i].tolist()):
                rows += [(place, layer, head, effect) for head, effect in enumerate(effects)]
        return data_frame(dict(zip(columns, row, strict=True)) for row in rows)

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        facts = {
            "probes": str(len(self.entities)),
            "clean, noisy": f"{float(self.clean.mean()):.2f}, {float(self.noisy.mean()):.2f} nats",
        }
        for place, effects in zip(PLACES, self.layer_effects.mean(0), strict=True):
            facts[f"at the {place}"] = f"layer {int(effects.argmax())}: {float(effects.max()):+.2f}"
        return super().summary() | facts


@checked
@torch.no_grad()
def causal_trace(
    model: LensModel,
    entities: Sequence[Entity],
    *,
    context: Mapping[str, str] | None = None,
    noise: NonNegative = 3.0,
    seed: Seed = 0,
    progress: bool = False,
) -> KnowledgeTrace:
    """Add noise to the entity's name in each probe, then restore one state at a time (Meng et al. 2022, "ROME").

    The noise is added to the embeddings of the name's tokens. Restored states come from the same model's clean run. To trace
    new knowledge, apply the update first (`WeightDelta.applied`).

    Args:
        model: Model to trace.
        entities: Entities with probes that name them; candidates are ignored.
        context: Text to put before each probe; see `score_probes`. Only the name in the probe is corrupted.
        noise: Standard deviation of the noise, in units of the standard deviation of the names' embeddings.
        seed: Seed of the noise.
        progress: Show a progress bar.

    Raises:
        LensFVError: see `score_probes`, or a probe that does not name its entity.

    Example:
        >>> trace = lens_fv.knowledge.causal_trace(model, entities)
        >>> trace.summary()['probes']
        '2'
    """
    probes = all_probes(entities)
    prompts = [
        EncodedPrompt(prompt.tokens, (prompt.answers[probe.answer_index],))
        for prompt, (_, probe) in zip(probe_prompts(model, entities, context=context), probes, strict=True)
    ]
    mentions = probe_mentions(model, entities, context)
    name_positions = [list(range(mention.first, mention.last + 1)) for mention in mentions]
    corruption = _stacked(noise_on(model, prompts, name_positions, noise, seed), name_positions)
    restored_positions = (tuple(mention.last for mention in mentions), tuple(len(prompt.tokens) - 1 for prompt in prompts))
    branches: list[list[Edit]] = [[], corruption]
    for positions in restored_positions:
        states = last_tokens(model, [prompt.tokens[: at + 1] for prompt, at in zip(prompts, positions, strict=True)])
        for layer in range(model.n_layers):
            branches.append([*corruption, Edit(layer, states.resid[:, layer], position=positions)])
        for layer in model.attention_layers:
            for head in range(model.n_heads):
                branches.append([*corruption, Edit(layer, states.z[:, layer, head], head=head, position=positions)])
    logprob = score_answers(model, prompts, branches, what="tracing", progress=progress).logprob
    restored = logprob[:, 2:].unflatten(1, (len(PLACES), -1))
    heads = logprob[:, 1, None, None, None].repeat(1, len(PLACES), model.n_layers, model.n_heads)
    heads[:, :, list(model.attention_layers)] = restored[:, :, model.n_layers :].unflatten(-1, (-1, model.n_heads))
    provenance = Provenance.of(
        model,
        task=f"{len(entities)} entities",
        task_hash="",
        prompts=[prompt.tokens for prompt in prompts],
        seed=seed,
        method="causal trace",
        options={"noise": noise},
    )
    return KnowledgeTrace(
        provenance=provenance,
        entities=tuple(entity.key for entity, _ in probes),
        clean=logprob[:, 0],
        noisy=logprob[:, 1],
        resid=restored[:, :, : model.n_layers].contiguous(),
        heads=heads,
    )


def _stacked(noise: Sequence[Sequence[Edit]], name_positions: Sequence[Sequence[int]]) -> list[Edit]:
    """Turn each prompt's single-token edits into edits of all prompts at once: all first name tokens, all second ones, ..."""
    edits: list[Edit] = []
    for i in range(max(map(len, name_positions))):
        # a shorter name gets zero noise at its last token instead
        values = [own[i].value if i < len(own) else torch.zeros_like(own[0].value) for own in noise]
        positions = tuple(own[min(i, len(own) - 1)] for own in name_positions)
        edits.append(Edit(0, torch.stack(values), site="resid_pre", mode="add", position=positions))
    return edits
