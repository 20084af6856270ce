"""The loss of distillation, against closed forms and a case by hand."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from lens_fv.knowledge.examples import DistillationExample, Target, teacher_targets, token_targets
from lens_fv.knowledge.settings import DistillConfig
from lens_fv.knowledge.trainer import divergence, example_losses
from lens_fv.model.plain import plain_model

V = 11


def random_logits(seed: int, *shape: int) -> torch.Tensor:
    return 2 * torch.randn(*shape, V, generator=torch.Generator().manual_seed(seed))


def full(logits: torch.Tensor, temperature: float = 1.0) -> Target:
    return Target((logits / temperature).log_softmax(-1), None, rest=False)


def test_directions_are_those_of_the_library():
    teacher, student = random_logits(0, 3), random_logits(1, 3)
    p, q = (teacher / 2).log_softmax(-1), (student / 2).log_softmax(-1)
    mean = (p.exp() + q.exp()).log() - math.log(2)
    forward, reverse = (kl_div(b, a, reduction="none", log_target=True).sum(-1) for a, b in ((p, q), (q, p)))
    jsd = sum(kl_div(mean, logprobs, reduction="none", log_target=True).sum(-1) for logprobs in (p, q)) / 2
    for direction, expected in {"forward": forward, "reverse": reverse, "jsd": jsd}.items():
        divergences = divergence(student, full(teacher, 2.0), direction=direction, temperature=2.0)
        torch.testing.assert_close(divergences, 4 * expected)
        assert torch.equal(divergence(teacher, full(teacher, 2.0), direction=direction, temperature=2.0), torch.zeros(3))


def test_by_hand_a_token_is_predicted_from_the_one_before_it():
    """Five tokens of the student, the last two of which are taught; two tokens in the vocabulary."""
    example = DistillationExample("x", teacher=(9, 9, 0, 1, 0, 1, 0), student=(0, 1, 0, 1, 0), targets=(3, 4))
    odds = torch.tensor([0.0, 0.0, 3.0, 1 / 3, 0.0])  # of token 0 against token 1, after each of the five
    logits = torch.stack([odds.log(), torch.zeros(5)], -1)
    logits[[0, 1, 4]] = torch.nan  # only what comes after tokens 2 and 3 counts
    target = Target(torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log(), None, rest=False)
    settings = DistillConfig(temperature=1.0)
    (loss,) = example_losses(logits[None], [example], [target], settings)
    # KL(1/2, 1/2 || 3/4, 1/4) = log 2 - log 3 / 2, for both
    assert float(loss) == pytest.approx(math.log(2) - math.log(3) / 2)


def test_only_taught_tokens_get_a_gradient():
    example = DistillationExample("x", tuple(range(6)), tuple(range(6)), targets=(2, 5))
    logits = random_logits(2, 1, 8).requires_grad_()
    example_losses(logits, [example], [full(random_logits(3, 2))], DistillConfig()).sum().backward()
    assert logits.grad is not None
    assert [i for i, gradient in enumerate(logits.grad[0]) if bool(gradient.any())] == [1, 4]


def test_tokens_that_are_not_kept_count_together(tiny_model):
    model = tiny_model("llama")
    examples = [
        DistillationExample("a", (0, 40, 41, 50, 60), (0, 50, 60), (1, 2)),
        DistillationExample("b", (0, 7, 8, 9), (0, 8, 9), (2,)),
    ]

    def targets(top_k):
        return teacher_targets(plain_model(model), examples, pad=0, temperature=2.0, top_k=top_k)

    whole, kept = targets(None), targets(5)
    student = torch.randn(2, model.d_vocab, generator=torch.Generator().manual_seed(4))
    p, q = whole[0].logprobs.exp(), (student / 2).softmax(-1)
    top = p.topk(5, dim=-1).indices
    kept_probs = [probs.gather(1, top) for probs in (p, q)]
    lumped = [torch.cat([probs, 1 - probs.sum(1, keepdim=True)], 1) for probs in kept_probs]
    expected = (lumped[0] * (lumped[0] / lumped[1]).log()).sum(-1) * 4
    divergences = divergence(student, kept[0], direction="forward", temperature=2.0)
    torch.testing.assert_close(divergences, expected, rtol=1e-4, atol=1e-5)
    assert (divergences <= divergence(student, whole[0], direction="forward", temperature=2.0)).all()
    torch.testing.assert_close(kept[1].logprobs.exp().sum(-1), torch.ones(1))


@torch.no_grad()
def test_the_teacher_is_a_plain_forward_after_the_definition(tiny_model):
    model = tiny_model("llama")
    # of different lengths, so that one is padded
    examples = [
        DistillationExample("a", (0, 40, 41, 50, 60, 70), (0, 50, 60, 70), (2, 3)),
        DistillationExample("b", (0, 7, 8, 9), (0, 8, 9), (2,)),
    ]
    targets = teacher_targets(plain_model(model), examples, pad=0, temperature=1.0, top_k=None)
    for example, target, at in zip(examples, targets, ([3, 4], [2]), strict=True):
        logits = model.forward(torch.tensor([example.teacher]))[0, at]
        torch.testing.assert_close(target.logprobs, logits.log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_a_texts_own_tokens_make_the_language_models_loss():
    example = DistillationExample("x", (3, 1, 4, 1), (3, 1, 4, 1), (1, 2, 3))
    (target,) = token_targets([example])
    logits = random_logits(5, 3)
    expected = cross_entropy(logits, torch.tensor([1, 4, 1]), reduction="none")
    torch.testing.assert_close(divergence(logits, target, direction="forward", temperature=1.0), expected)
