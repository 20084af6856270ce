"""Divergence of logits, block after block, against the plain formula and its gradient."""

import pytest
import torch

import lens_fv.core.divergence as module
from lens_fv.core.divergence import divergence, divergence_of_logits


@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_blocks_give_the_formula_and_its_gradient(monkeypatch, direction, rows_at_once):
    monkeypatch.setattr(module, "BLOCK", rows_at_once * 11)
    rng = torch.Generator().manual_seed(0)
    teacher, student, weights = (torch.randn(7, *shape, generator=rng) for shape in ((11,), (11,), ()))
    plain, blocks = (student.clone().requires_grad_() for _ in range(2))
    p, q = ((each / 1.7).log_softmax(-1) for each in (teacher, plain))
    expected, found = divergence(p, q, direction), divergence_of_logits(teacher, blocks, direction, temperature=1.7)
    torch.testing.assert_close(found, expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(blocks.grad, plain.grad)
    assert float(plain.grad.abs().max()) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_worked_out_in_single(dtype):
    student = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    found = divergence_of_logits(student.detach(), student, "reverse")
    assert found.dtype == torch.float32
    assert float(found.detach().abs().max()) == 0
    found.sum().backward()
    assert student.grad.dtype == dtype


def test_small_gradients_survive_until_they_are_scaled_up():
    student = torch.tensor([[0.0, -20.0]], dtype=torch.float16).requires_grad_()
    teacher = torch.tensor([[0.0, -19.0]])
    (2.0**20 * divergence_of_logits(teacher, student, "forward").sum()).backward()
    expected = 2.0**20 * (student.detach().float().softmax(-1) - teacher.softmax(-1))  # 4e-9 times the scale
    torch.testing.assert_close(student.grad.float(), expected, rtol=1e-2, atol=0)
