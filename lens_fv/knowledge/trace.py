"""Causal tracing: which states, where an entity is named and where the answer is asked for, carry what is known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.choices import NonNegative, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.heads.corruptions import noise_on
from lens_fv.heads.means import last_tokens
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.inside import probe_mentions
from lens_fv.knowledge.measure import probe_prompts
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScorer, Edit
from lens_fv.tasks import EncodedPrompt

PLACES = ("mention", "last")
"""Where states are restored: at the last token of the name, and at the last token before the gap."""


@dataclass(frozen=True, repr=False, eq=False)
class KnowledgeTrace(Artefact):
    """Log-probabilities of answers, in nats, while the entity's name is drowned in noise and one state is restored.

    Attributes:
        entities: the key of each probe's.
        clean, noisy: without noise; with it, and nothing restored.
        resid: with the residual stream restored after a layer, at each of `PLACES`.
        heads: with one head's output restored there.
    """

    entities: tuple[str, ...]
    clean: Float[Tensor, " probes"]
    noisy: Float[Tensor, " probes"]
    resid: Float[Tensor, "probes places layers"]
    heads: Float[Tensor, "probes places layers heads"]

    @property
    def layer_effects(self) -> Float[Tensor, "probes places layers"]:
        """What restoring the residual stream gives back, in nats."""
        return self.resid - self.noisy[:, None, None]

    @property
    def head_effects(self) -> Float[Tensor, "probes places layers heads"]:
        """What restoring a head gives back, in nats."""
        return self.heads - self.noisy[:, None, None, None]

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
    """Drown the name of each probe's entity in noise, and restore one state after another (Meng et al. 2022, "ROME").

    Noise is added to the embeddings of the name's tokens. What is restored is of the same model's run without noise, so run
    it on a model with an update (`WeightDelta.applied`) to see what carries the new knowledge there.

    Args:
        model: the model.
        entities: with probes that name them; candidates do not count.
        context: what it reads before a probe; see `score_probes`. Only the name in the probe is drowned.
        noise: its standard deviation, in standard deviations of the names' embeddings.
        seed: of the noise.
        progress: draw a progress bar.

    Raises:
        LensFVError: what `score_probes` and `find_mention` raise.
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
    """Edits of one token for each prompt as edits of all prompts: the first tokens of all names, the second ones, ..."""
    found: list[Edit] = []
    for i in range(max(map(len, shown))):
        # a name with fewer tokens gets nothing more at its last one
        values = [own[i].value if i < len(own) else torch.zeros_like(own[0].value) for own in noise]
        places = tuple(at[min(i, len(at) - 1)] for at in shown)
        found.append(Edit(0, torch.stack(values), site="resid_pre", mode="add", position=places))
    return found
