"""A vector in a padded batch: what each row is alone, without padding."""

import pytest
import torch
import transformers
from helpers import tokens

from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.model.cache import cache_argument, cache_of
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.baselines import SoftPrompt

ROWS = [tokens(9, seed=0), tokens(4, seed=1), tokens(6, seed=2)]


def vector_at(model, site: str = "resid_post") -> FunctionVector:
    rng = torch.Generator().manual_seed(1)
    return FunctionVector(
        provenance=Provenance.of(model, task="toy", task_hash="", prompts=[], seed=0, method="test", options={}),
        vector=4 * torch.randn(model.d_model, generator=rng),
        head_outputs=4 * torch.randn(2, model.d_head, generator=rng),
        heads=((0, 1), (2, 3)),
        layer=1,
        resid_norm=1.0,
        site=site,
    )


def batch_of(rows, side: str, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))

    def padded(row, fill):
        return [fill] * (longest - len(row)) + list(row) if side == "left" else list(row) + [fill] * (longest - len(row))

    return torch.tensor([padded(row, pad) for row in rows]), torch.tensor([padded([1] * len(row), 0) for row in rows])


def ends(logits, mask):
    """The logits at every row's last real token."""
    return torch.stack([row[seen.nonzero()[-1, 0]] for row, seen in zip(logits, mask, strict=True)])


@torch.no_grad()
def alone(model, vector, position: int = -1, rows=ROWS):
    """Each row by itself, the vector added by a hook that is written out here."""

    def put(layer, at):
        def change(x, hook):
            x = x.clone()
            if vector.site == "heads":
                for (where, head), value in zip(vector.heads, vector.head_outputs, strict=True):
                    if where == layer:
                        x[0, at, head] = value
            elif layer == vector.layer:
                x[0, at] += vector.vector
            return x

        return change

    logits = []
    for row in rows:
        at = position % len(row)
        hooks = [(f"blocks.{layer}.attn.hook_z", put(layer, at)) for layer in (0, 2)]
        hooks = hooks if vector.site == "heads" else [("blocks.1.hook_resid_post", put(1, at))]
        logits.append(model.forward(torch.tensor([list(row)]), hooks)[0, -1])
    return torch.stack(logits)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("position", "site"), [(-1, "resid_post"), (-3, "resid_post"), (2, "resid_post"), (-1, "heads")])
@torch.no_grad()
def test_positions_are_those_of_each_rows_own_text(tiny_model, side, position, site):
    """However the model is run; the padding's id is no matter, as there is a mask."""
    model = tiny_model("llama")
    vector = vector_at(model, site)
    want = alone(model, vector, position)
    ids, mask = batch_of(ROWS, side, pad=7)
    where = mask.cumsum(1).sub(1).clamp(min=0)
    with vector.applied(model, position=position):
        runs = [
            model.tl(ids, attention_mask=mask),
            model.tl.run_with_hooks(ids, attention_mask=mask, fwd_hooks=[]),
            model.tl.original_model(input_ids=ids, attention_mask=mask, position_ids=where).logits,
        ]
    for logits in runs:
        torch.testing.assert_close(ends(logits, mask), want, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(want, ends(model.tl(ids, attention_mask=mask), mask), atol=1e-2)


@torch.no_grad()
def test_with_a_cache_each_new_token_is_the_last(tiny_model):
    model = tiny_model("llama")
    vector, more = vector_at(model), [tokens(2, seed=9 + i) for i in range(3)]
    ids, mask = batch_of(ROWS, "left", pad=7)
    where = mask.cumsum(1).sub(1).clamp(min=0)
    hf = model.tl.original_model
    longer = torch.cat([mask, torch.ones(3, 2, dtype=torch.long)], 1)
    with vector.applied(model), vector.applied(model, position=0):
        kept = cache_of(hf(input_ids=ids, attention_mask=mask, position_ids=where, use_cache=True))
        after = {"position_ids": longer.cumsum(1)[:, -2:] - 1, **cache_argument(hf.forward, kept)}
        logits = hf(input_ids=torch.tensor(more), attention_mask=longer, **after).logits

    def both(text, length):
        def add(x, hook):
            x = x.clone()
            x[0, [0, length - 1, length + 1]] += vector.vector
            return x

        return model.forward(torch.tensor([text]), [("blocks.1.hook_resid_post", add)])[0, -1]

    want = torch.stack([both([*row, *added], len(row)) for row, added in zip(ROWS, more, strict=True)])
    torch.testing.assert_close(logits[:, -1], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_texts_that_transformerlens_pads(tiny_model, side):
    model = tiny_model("llama")
    vector, texts = vector_at(model), ["Q: walk\nA:", "Q:", "Q: a"]
    rows = [model.tl.to_tokens(text)[0].tolist() for text in texts]
    _, mask = batch_of(rows, side, pad=0)
    with vector.applied(model):
        logits = model.tl(texts, padding_side=side)
    torch.testing.assert_close(ends(logits, mask), alone(model, vector, rows=rows), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_a_mask_padding_is_told_by_an_id_of_its_own_or_not_at_all(tiny_model):
    model = tiny_model("llama", fresh=True)
    vector, (ids, mask) = vector_at(model), batch_of(ROWS, "right", pad=0)
    want = alone(model, vector)
    with vector.applied(model):
        with pytest.raises(LensFVError, match=r"3 rows end in '<bos>' .*pass the tokenizer's attention_mask"):
            model.tl(ids)
        text = model.tl(torch.tensor([[*ROWS[0], 0]]))  # a row alone needs no padding: it ends so
        model.tl(torch.tensor([[0, *row[:3]] for row in ROWS]))  # nor is one token that texts begin with any
    torch.testing.assert_close(text[0, -1:], alone(model, vector, rows=[[*ROWS[0], 0]]), atol=1e-4, rtol=1e-4)
    model.tokenizer.pad_token = model.tokenizer.convert_ids_to_tokens(5)
    ids, mask = batch_of(ROWS, "right", pad=5)
    with vector.applied(model):
        torch.testing.assert_close(ends(model.tl(ids), mask), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("position", [4, -5])
@torch.no_grad()
def test_a_position_that_one_row_lacks_is_refused(tiny_model, position):
    model = tiny_model("llama")
    ids, mask = batch_of(ROWS, "left", pad=7)
    with vector_at(model).applied(model, position=position), pytest.raises(LensFVError, match="the text has 4 tokens"):
        model.tl(ids, attention_mask=mask)
    with vector_at(model).applied(model), pytest.raises(LensFVError, match="has not two dimensions"):
        model.tl.original_model(input_ids=ids, attention_mask=torch.zeros(3, 1, 9, 9))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_soft_prompt_stands_in_front_of_each_rows_text(tiny_model, side):
    model = tiny_model("llama")
    states = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(2))
    where = Provenance.of(model, task="toy", task_hash="", prompts=[], seed=0, method="test", options={})
    soft = SoftPrompt(provenance=where, states=states)
    rows = [soft.lengthened(row) for row in ROWS]
    ids, mask = batch_of(rows, side, pad=7)
    with soft.applied(model):
        want = torch.stack([model.tl(torch.tensor([row]))[0, -1] for row in rows])
        torch.testing.assert_close(ends(model.tl(ids, attention_mask=mask), mask), want, atol=1e-4, rtol=1e-4)


def test_nothing_is_left_on_the_model(tiny_model):
    model = tiny_model("gpt2")
    with pytest.raises(ZeroDivisionError), vector_at(model).applied(model):
        raise ZeroDivisionError
    assert not model.tl._forward_pre_hooks and not model.tl.original_model.base_model._forward_pre_hooks
    assert isinstance(model.tl.original_model, transformers.PreTrainedModel)
