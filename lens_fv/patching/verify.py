"""Verification that a model's hooks and the engine work correctly on it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lens_fv.core.choices import Seed, checked
from lens_fv.core.results import Records
from lens_fv.errors import LensFVError
from lens_fv.model.generation import Sampling, generate_tokens, transformers_text
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measured
from lens_fv.model.plain import plain_model
from lens_fv.patching.check import check_engine
from lens_fv.patching.edit import Edit
from lens_fv.patching.plan import is_out_of_memory
from lens_fv.patching.run import run_branches
from lens_fv.patching.sound import comparisons, largest_difference


class Finding(NamedTuple):
    """One check: its name, whether it passed, and details."""

    check: str
    passed: bool
    detail: str


class Findings(Records[Finding]):
    """The checks of `verify`, in order."""

    row = Finding

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(finding.passed for finding in self)

    def summary(self) -> dict[str, str]:
        """One line per check."""
        return {f.check: f"{'passed' if f.passed else 'FAILED'}: {f.detail}" for f in self}


@checked
@torch.no_grad()
@measured
def verify(model: LensModel, *, seed: Seed = 0) -> Findings:
    """Check a model before trusting measurements on it, because the usual failure is silently wrong numbers.

    The checks are:

    - The model has heads, and hooks fire in every layer.
    - All numbers are finite, also for a prompt like those of tasks.
    - Logits with hooks equal those without, and those of transformers' attention if TransformerLens has its own version.
    - Unembedding the last state gives the model's own logits.
    - Greedy decoding with a cache gives the same text as without one, and as transformers.
    - Replacing a head's output by itself changes nothing; replacing it by something else changes the answer.
    - Branches equal the plain loop.

    Args:
        model: Model to check.
        seed: Seed of the random tokens that are run.

    Returns:
        The findings. The last one names the backend by which branches run (see `run_branches`) and why it is not a faster one.
        It passes if the faster backends cannot run (every `HookedTransformer`). It fails if every faster backend that ran
        disagreed with the loop, because the model then does not behave as its architecture promises. If hooks do not fire or
        numbers are not finite, the checks end there, because later ones would be meaningless.

    Example:
        >>> lens_fv.verify(model).passed
        True
    """
    rng = torch.Generator().manual_seed(seed)
    prompt = torch.randint(model.d_vocab, (12,), generator=rng).tolist()
    tokens = torch.tensor([prompt])
    tolerance = model.tolerance
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            seen[name] = x.detach()
            return x

        return name, hook

    layers = model.attention_layers
    names = [f"blocks.{layer}.{site}" for layer in range(model.n_layers) for site in ("hook_resid_pre", "hook_resid_post")]
    names += [f"blocks.{layer}.attn.hook_z" for layer in layers]
    findings = [
        Finding(
            "there are attention heads",
            bool(layers),
            f"in {len(layers)} of {model.n_layers} layers" if layers else f"it {model.no_heads()}",
        ),
        _finite(model, tokens),
    ]
    if not findings[-1].passed:
        return Findings(findings)
    plain, hooked = model.forward(tokens), model.forward(tokens, [keep(name) for name in names])
    silent = [name for name in names if name not in seen]
    detail = f"silent: {', '.join(silent)}" if silent else f"{len(names)} hooks"
    findings.append(Finding("hooks fire in every layer", not silent, detail))
    if silent:
        return Findings(findings)

    def compare(check: str, error: float) -> None:
        findings.append(Finding(check, error <= tolerance, f"largest difference {error:.1e}"))

    compare("read-only hooks leave the logits unchanged", largest_difference(hooked.softmax(-1), plain.softmax(-1)))
    last = seen[f"blocks.{model.n_layers - 1}.hook_resid_post"]
    compared = list(comparisons(model, tokens, last, plain))
    for comparison in compared:
        compare(comparison.check, comparison.error)
    findings += _texts(model, prompt)
    engine = check_engine(model, seed=seed)
    heads = [(layer, head) for layer in layers for head in range(model.n_heads)]
    if heads and all(comparison.error <= tolerance for comparison in compared):  # otherwise branches cannot run
        z = {layer: seen[f"blocks.{layer}.attn.hook_z"][0, -1].reshape(model.n_heads, model.d_head) for layer in layers}
        own = [[Edit(a, z[a][b], head=b)] for a, b in heads]
        noise = [[Edit(a, z[a].norm() * torch.randn(model.d_head, generator=rng).to(z[a]), head=b)] for a, b in heads]
        probs = model.unembed(run_branches(model, [prompt], [[], *own, *noise], backend=engine.backend)[0, :, 0]).softmax(-1)
        base, same, other = probs.split([1, len(heads), len(heads)])
        compare("a head replaced by itself changes nothing", largest_difference(same, base.expand_as(same)))
        dead = [f"{a}.{b}" for (a, b), p in zip(heads, other, strict=True) if torch.equal(p, base[0])]
        detail = f"dead: {', '.join(dead)}" if dead else f"{len(heads)} heads"
        findings.append(Finding("a head replaced by noise changes the answer", not dead, detail))
    ran = [trial.max_abs_error for trial in engine.trials if trial.max_abs_error is not None]
    error = f" (largest difference {engine.max_abs_error:.1e})" if engine.max_abs_error is not None else ""
    passed = engine.backend != "loop" or not ran
    findings.append(Finding("branches equal the plain loop", passed, f"{engine.backend}: {engine.reason}{error}"))
    return Findings(findings)


def _finite(model: LensModel, tokens: Tensor) -> Finding:
    """Check for random tokens, and for a prompt with the usual first token, where states are largest."""
    prompt = model.encode("Q: hot\nA: cold\n\nQ: big\nA:")[: model.n_ctx]
    try:
        for batch in (tokens, torch.tensor([prompt])):
            model.forward(batch)
    except LensFVError as e:
        return Finding("all numbers are finite", False, str(e))
    return Finding("all numbers are finite", True, "in two prompts")


def _texts(model: LensModel, prompt: list[int]) -> Iterator[Finding]:
    """Check 20 greedily decoded tokens against one full pass per token."""
    if model.backend != "bridge":  # already runs one full pass per token
        return
    check, sampling = "greedy text with the cache is the text without it", Sampling(min(20, model.n_ctx - len(prompt)))
    try:
        cached, without = (generate_tokens(model, [prompt], sampling, use_cache=use)[0] for use in (True, False))
    except Exception as e:  # a layer that runs only with a cache, or only without one, may raise anything
        if is_out_of_memory(e):
            raise
        yield Finding(check, False, f"{type(e).__name__}: {e}")
        return
    yield _same_text(model, check, prompt, cached, without)
    if model.weight_processing == "raw":
        tokens = torch.tensor([prompt], device=model.device)
        text = transformers_text(model, plain_model(model), tokens, sampling, use_cache=True)
        own = text[0, len(prompt) :].tolist()
        yield _same_text(model, "greedy text is transformers' own", prompt, without, own)


def _same_text(model: LensModel, check: str, prompt: list[int], text: list[int], expected: list[int]) -> Finding:
    """Compare two texts. They may diverge only where rounding decides between two likeliest tokens."""
    first = next((i for i, pair in enumerate(zip(text, expected, strict=False)) if pair[0] != pair[1]), None)
    if first is None:
        longer = f", not {len(expected)}" if len(text) != len(expected) else ""
        return Finding(check, not longer, f"{len(text)} tokens{longer}")
    probability = model.forward(torch.tensor([prompt + expected[:first]]))[0, -1].float().softmax(-1)
    gap = float((probability[expected[first]] - probability[text[first]]).abs())
    tokens = f"new token {first + 1} is {model.decode(text[first])!r}, not {model.decode(expected[first])!r}"
    return Finding(check, gap <= model.tolerance, f"{tokens}; their probabilities differ by {gap:.1e}")
