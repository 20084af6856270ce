"""Measure unintended changes: how far an update moves predictions on unrelated text."""

from collections.abc import Sequence

import torch
from torch.nn.functional import kl_div

from lens_fv.core.choices import Count, checked
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import pad_token, padded
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.entity import Entity
from lens_fv.model.finite import plain_logits
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model


@checked
@torch.no_grad()
def kl_to_base(model: LensModel, delta: WeightDelta, texts: Sequence[str], *, batch_size: Count = 16) -> list[float]:
    """Compute the KL divergence of the updated model from the base, in nats per token, averaged over each text's tokens.

    Args:
        model: model without the update.
        delta: update to evaluate.
        texts: texts of at least one token each, such as `true_sentences(load_entities("popular"))`.
        batch_size: number of texts per forward pass.

    Raises:
        LensFVError: a text without tokens, non-finite logits, or any error of `WeightDelta.applied`.
    """
    plain, pad = plain_model(model), pad_token(model.tokenizer)
    rows = [model.encode(text) for text in texts]
    if not all(rows):
        empty = [len(row) > 0 for row in rows].index(False)
        raise LensFVError(f"KL divergence of {model.name} from its base: text {empty} has no tokens")
    found: list[float] = []
    for begin in range(0, len(rows), batch_size):
        here = rows[begin : begin + batch_size]
        batch = padded(here, pad, model.device)
        before = plain_logits(plain, "KL to the base", batch).float().log_softmax(-1)
        with delta.applied(model):
            after = plain_logits(plain, "KL to the base", batch).float().log_softmax(-1)
        kl = kl_div(after, before, reduction="none", log_target=True).sum(-1)
        found += [float(each[: len(row)].mean()) for each, row in zip(kl, here, strict=True)]
    return found


def true_sentences(entities: Sequence[Entity]) -> list[str]:
    """Return the sentences of the entities' probes with the gaps filled by the answers."""
    return [probe.filled() for entity in entities for probe in entity.probes]
