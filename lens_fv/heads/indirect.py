"""Indirect effect of every head on every corrupted prompt, with one branch per head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.heads.corruptions import PatchingPrompts
from lens_fv.heads.effects import Unit
from lens_fv.heads.metrics import Metric, measure
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.check import Method
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.run import OpenPrompts
from lens_fv.tasks import Pair, PromptTemplate, encode_prompt, zero_shot

Mode = Literal["replace", "add"]


def indirect_effects(
    model: LensModel,
    made: PatchingPrompts,
    outputs: Float[Tensor, "trials layers heads d_head"],
    *,
    metric: Metric,
    wrong: Sequence[int | None] | None = None,
    mode: Mode = "replace",
    unit: Unit = "head",
    method: Method = "auto",
    budget: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Float[Tensor, "trials layers units"], Float[Tensor, " trials"]]:
    """Each head's effect on the first answer token of each corrupted prompt, and the metric with no head patched.

    Effects are zero in layers without attention heads.

    Args:
        model: Model to measure.
        made: Prompts, clean and corrupted.
        outputs: Head outputs to patch in, per trial.
        metric: See `measure`.
        wrong: For each trial, the token that "logit_diff" compares with. None, overall or for a trial: the strongest wrong one.
        mode: "replace" or "add".
        unit: "head" or "group".
        method: See `run_branches`.
        budget: See `run_branches`.
        tick: Called after each trial.

    Raises:
        LensFVError: no head has any effect.
    """
    units = model.n_heads if unit == "head" else model.n_kv_heads
    size = model.n_heads // units  # query heads that share keys and values are adjacent
    layers = list(model.attention_layers)
    places = [[(layer, first + i) for i in range(size)] for layer in layers for first in range(0, model.n_heads, size)]
    rows: list[Tensor] = []
    fired, wrong = False, wrong or [None] * len(made.corrupted)
    for prompt, noise, z, other in zip(made.corrupted, made.edits, outputs, wrong, strict=True):
        patches = [(), *([Edit(layer, z[layer, head], head=head, mode=mode) for layer, head in heads] for heads in places)]
        branches = [Branch(tuple(edits), tokens=prompt.answers[0][:1]) for edits in patches]
        opened = OpenPrompts(model, [prompt.tokens], shared=noise, method=method, budget=budget)
        values = measure(opened, branches, metric, prompt, other).cpu()
        # Even unedited rows differ by rounding.
        rounding = min(64 * torch.finfo(model.dtype).eps, 0.05) * values[0].abs()
        fired |= bool(((values - values[0]).abs() > rounding).any())
        rows.append(values @ torch.tensor([1.0, -1.0]) if metric == "logit_diff" else values[:, 0])
        tick()
    if not fired:
        raise LensFVError(
            f"rank heads of {model.name}: no head changes anything in {metric!r} beyond rounding; run verify to see whether "
            "its hooks fire, or take another metric"
        )
    found = torch.stack(rows)
    effects = found.new_zeros(len(rows), model.n_layers, units)
    effects[:, layers] = (found[:, 1:] - found[:, :1]).unflatten(1, (len(layers), units))
    return effects, found[:, 0]


def alternatives(
    model: LensModel, queries: Sequence[Pair], against: str | Mapping[str, str], template: PromptTemplate
) -> list[int]:
    """For each query, the first token of the wrong answer that its own answer is compared with.

    Raises:
        LensFVError: a query has no such answer, or the answer begins like an acceptable one.
    """
    tokens: list[int] = []
    for query in queries:
        text = against if isinstance(against, str) else against.get(query.input)
        if text is None:
            raise LensFVError(
                f"compare the answer to {query.input!r}: `against` names no alternative; give one for every query"
            )
        prompt = encode_prompt(model, zero_shot(Pair(query.input, (*query.outputs, text)), template=template))
        *right, wrong = prompt.answers
        if text in query.outputs or wrong[0] in {answer[0] for answer in right}:
            raise LensFVError(f"compare {query.output!r} with {text!r}: they begin with the same token in {model.name}")
        tokens.append(wrong[0])
    return tokens
