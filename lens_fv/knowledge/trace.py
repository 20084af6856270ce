"""Causal tracing: which states at the entity's name and at the end of the prompt carry knowledge about the entity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.choices import NonNegative, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.tables import data_frame
from lens_fv.heads.means import last_tokens
from lens_fv.heads.protocol import noise_on
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.measure import probe_prompts
from lens_fv.knowledge.mentions import probe_mentions
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScorer, Edit
from lens_fv.tasks import EncodedPrompt

if TYPE_CHECKING:
    import pandas as pd


PLACES = ("mention", "last")
"""Positions at which states are restored: the last token of the name, and the last token before the gap."""


@dataclass(frozen=True, repr=False, eq=False)
class KnowledgeTrace(Artefact):
    """Answer log-probabilities, in nats, with noise on the entity's name and one state restored.

    Attributes:
        entities: entity key of each probe.
        clean, noisy: log-probabilities without noise, and with noise and nothing restored.
        resid: log-probabilities with the residual stream after one layer restored, at each of `PLACES`.
        heads: log-probabilities with one head's output restored, at each of `PLACES`.
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

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per restored state: the log-probability it recovers, averaged over probes; `head` is empty for layers."""
        layers, heads = self.layer_effects.mean(0), self.head_effects.mean(0)
        rows: list[dict[str, Any]] = []
        for i, place in enumerate(PLACES):
            for layer, effect in enumerate(layers[i].tolist()):
                rows.append({"position": place, "layer": layer, "head": None, "recovered_nats": effect})
            for layer, effects in enumerate(heads[i].tolist()):
                rows += [
                    {"position": place, "layer": layer, "head": head, "recovered_nats": effect}
                    for head, effect in enumerate(effects)
                ]
        return data_frame(rows)

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        at = self.layer_effects.mean(0)
        best = {place: int(each.argmax()) for place, each in zip(PLACES, at, strict=True)}
        return super().summary() | {
            "probes": str(len(self.entities)),
            "clean, noisy": f"{float(self.clean.mean()):.2f}, {float(self.noisy.mean()):.2f} nats",
            **{f"at the {place}": f"layer {layer}: {at[i, layer]:+.2f}" for i, (place, layer) in enumerate(best.items())},
        }


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
        model: model to trace.
        entities: entities with probes that name them; candidates are ignored.
        context: text to put before each probe; see `score_probes`. Only the name in the probe is corrupted.
        noise: standard deviation of the noise, in units of the standard deviation of the names' embeddings.
        seed: seed of the noise.
        progress: whether to show a progress bar.

    Raises:
        LensFVError: see `score_probes` and `find_mention`.
    """
    asked = [(entity, probe) for entity in entities for probe in entity.probes]
    right = [probe.candidates.index(probe.answer) if probe.candidates else 0 for _, probe in asked]
    prompts = [
        EncodedPrompt(each.tokens, (each.answers[i],))
        for each, i in zip(probe_prompts(model, entities, context=context), right, strict=True)
    ]
    named = probe_mentions(model, entities, context)
    shown = [list(range(mention.first, mention.last + 1)) for mention in named]
    drowned = _stacked(noise_on(model, prompts, shown, noise, seed), shown)
    ends = (tuple(mention.last for mention in named), tuple(len(prompt.tokens) - 1 for prompt in prompts))
    branches: list[list[Edit]] = [[], drowned]
    for places in ends:
        states = last_tokens(model, [prompt.tokens[: at + 1] for prompt, at in zip(prompts, places, strict=True)])
        layers = range(model.n_layers)
        branches += [[*drowned, Edit(layer, states.resid[:, layer], position=places)] for layer in layers]
        branches += [
            [*drowned, Edit(layer, states.z[:, layer, head], head=head, position=places)]
            for layer in model.attention_layers
            for head in range(model.n_heads)
        ]
    scorer = AnswerScorer(model, prompts)
    with progress_bar("tracing", len(scorer), show=progress) as tick:
        found = scorer.score(branches, keep=False, tick=tick).logprob
    restored = found[:, 2:].unflatten(1, (len(PLACES), -1))
    heads = found[:, 1, None, None, None].repeat(1, len(PLACES), model.n_layers, model.n_heads)
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
        entities=tuple(entity.key for entity, _ in asked),
        clean=found[:, 0],
        noisy=found[:, 1],
        resid=restored[:, :, : model.n_layers].contiguous(),
        heads=heads,
    )


def _stacked(noise: Sequence[Sequence[Edit]], shown: Sequence[Sequence[int]]) -> list[Edit]:
    """Turn each prompt's single-token edits into edits of all prompts at once: all first name tokens, all second ones, ..."""
    found: list[Edit] = []
    for i in range(max(map(len, shown))):
        # a shorter name gets zero noise at its last token instead
        values = [own[i].value if i < len(own) else torch.zeros_like(own[0].value) for own in noise]
        places = tuple(at[min(i, len(at) - 1)] for at in shown)
        found.append(Edit(0, torch.stack(values), site="resid_pre", mode="add", position=places))
    return found
