"""Choice of the backend for a model, by comparison with the plain loop rather than by architecture name."""

import logging
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.choices import Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measured
from lens_fv.patching.backends import FAST_BACKENDS, AnyTrunk, Backend, BackendChoice, open_trunk
from lens_fv.patching.edit import Branch, Edit, Mode, Site, placed
from lens_fv.patching.plan import is_out_of_memory
from lens_fv.patching.rows import Row
from lens_fv.patching.sound import largest_difference, require_sound
from lens_fv.patching.split import SplitPrompts

log = logging.getLogger("lens_fv")


class Trial(NamedTuple):
    """Comparison of one backend with the loop: its largest difference in probability, or why it does not run."""

    backend: Backend
    max_abs_error: float | None
    failure: str | None


class Check(NamedTuple):
    """The backend chosen for a model, and why no faster one was chosen.

    Attributes:
        backend: Chosen backend.
        max_abs_error: Largest difference in probability from the loop; None for the loop itself.
        reason: Explanation, including the outcome of the backends tried before.
        trials: All backends that were tried.
    """

    backend: Backend
    max_abs_error: float | None
    reason: str
    trials: tuple[Trial, ...]


_TRIALS: WeakKeyDictionary[LensModel, dict[str, Trial]] = WeakKeyDictionary()


@checked
def choose_backend(model: LensModel, backend: BackendChoice = "auto") -> Backend:
    """The backend by which branches run on this model; checked once, then remembered.

    Args:
        model: Model to run.
        backend: "auto" for the fastest backend that agrees with the plain loop, or a backend, which must also agree.

    Raises:
        LensFVError: `require_sound` raises, or the backend does not run on this model or differs from the loop.

    Example:
        >>> lens_fv.patching.choose_backend(model)
        'rows'
    """
    require_sound(model)
    if backend == "loop":
        return backend
    if backend != "auto":
        trial = _TRIALS.get(model, {}).get(backend) or check_engine(model, backends=(backend,)).trials[0]
        if trial.failure is not None:
            raise LensFVError(f"branch {model.name} by {backend!r}: {trial.failure}; leave the backend out, or take 'loop'")
        return backend
    if model.branch_backend is None:
        check = check_engine(model)
        model.branch_backend = check.backend
        if check.backend in ("batched", "loop"):
            log.warning("%s: %s", model.name, check.reason)
    return model.branch_backend  # pyright: ignore[reportReturnType]


@checked
@torch.no_grad()
@measured
def check_engine(model: LensModel, *, backends: Sequence[Backend] = FAST_BACKENDS, seed: Seed = 0) -> Check:
    """Compare the fast backends with the plain loop on a few random edits of two short prompts of different length.

    Heads, the residual stream, attention outputs and MLP outputs are replaced, added to and scaled, at the last token and
    before it, with answers of several tokens, on a prompt longer than a short attention window. The first backend with a
    largest difference in probability within `model.tolerance` is chosen. Out-of-memory errors are raised unchanged, because
    they say nothing about a backend.

    Args:
        model: Model to check.
        backends: Backends to try, in this order.
        seed: Seed of prompts and edits.

    Example:
        >>> lens_fv.patching.check_engine(model).backend
        'rows'
    """
    rng = torch.Generator().manual_seed(seed)
    # Longer than a short attention window, so that a wrongly cut window is detected.
    window = model.window
    length = 12 if window is None or window > 256 else min(window + 5, model.n_ctx - 4)
    prompts, answers = [_tokens(model, length, rng), _tokens(model, 5, rng)], [_tokens(model, 2, rng), _tokens(model, 1, rng)]
    lengths = [len(p) for p in prompts]
    trials: list[Trial] = []
    cases: list[tuple[SplitPrompts, list[Row]]] = []
    for early in (1, 3):  # where branches start, in tokens from the prompt's end
        starts = tuple(n - early for n in lengths)
        prefixes = [p[:s] for p, s in zip(prompts, starts, strict=True)]
        suffixes = [[[*p[s:], *a], p[s:]] for p, s, a in zip(prompts, starts, answers, strict=True)]
        suffixes[1].reverse()  # a longer answer may follow a shorter one
        rows = [Row(i % 2, placed(b.edits, lengths, starts)) for i, b in enumerate(_branches(model, early, rng))]
        common = Edit(0, torch.randn(model.d_model, generator=rng), site="resid_pre", mode="add", position=-early - 1)
        cases.append((SplitPrompts(prefixes, suffixes, placed([common], lengths, starts)), rows))
    references = [_probabilities(model, open_trunk("loop", model, split), split, rows) for split, rows in cases]
    for backend in backends if model.backend == "bridge" or backends != FAST_BACKENDS else ("batched",):
        error = 0.0
        try:
            for (split, rows), reference in zip(cases, references, strict=True):
                trunk = open_trunk(backend, model, split)
                for _ in range(2):  # once with the prefix, once with its cached keys and values
                    error = max(error, largest_difference(_probabilities(model, trunk, split, rows), reference))
        except Exception as e:  # an unknown architecture may raise anything; another backend may still work
            if is_out_of_memory(e):  # says nothing about the backend
                raise
            trials.append(Trial(backend, None, str(e) if isinstance(e, LensFVError) else f"{type(e).__name__}: {e}"))
        else:
            failure = None if error <= model.tolerance else f"off by {error:.1e} in probability"
            trials.append(Trial(backend, error, failure))
        _TRIALS.setdefault(model, {})[backend] = trials[-1]
        if trials[-1].failure is None:
            return Check(backend, error, _reason(backend, trials), tuple(trials))
    return Check("loop", None, _reason("loop", trials), tuple(trials))


def _reason(backend: Backend, trials: list[Trial]) -> str:
    description = {
        "rows": "branches run in one pass over a tree",
        "masked": "branches run in one pass under a tree mask",
        "batched": "branches run as a batch, each after its own copy of the prompt's state",
        "loop": "branches run one forward pass each",
    }[backend]
    failed = [f"{trial.backend}: {trial.failure}" for trial in trials if trial.failure is not None]
    return f"{description} ({'; '.join(failed)})" if failed else description


def _branches(model: LensModel, early: int, rng: torch.Generator) -> list[Branch]:
    """Edits of every kind in the first, middle and last layer, starting `early` tokens before the end."""
    layers = model.attention_layers or tuple(range(model.n_layers))  # hybrid models have heads in some layers only
    first, middle, last = layers[0], layers[(len(layers) - 1) // 2], layers[-1]

    def edit(layer: int, head: int | None = None, site: Site = "resid_post", mode: Mode = "add", position: int = -1) -> Edit:
        width = model.d_model if head is None else model.d_head
        return Edit(layer, torch.randn(width, generator=rng), head=head, site=site, mode=mode, position=position)

    branches = [
        Branch(),
        Branch((edit(first, head=0, mode="replace", position=-early),)),
        Branch((edit(last, head=model.n_heads - 1, mode="scale"),)),
        Branch((edit(middle, head=0, mode="replace", position=-early), edit(last))),
        Branch((edit(middle, site="attn_out", position=-early), edit(middle, site="mlp_out"))),
        Branch((edit(0, site="resid_pre", position=-early),)),
        Branch((edit(middle, position=-early),)),
    ]
    return [branch for branch in branches if all(edit.place in model.hook_names for edit in branch.edits)]


def _probabilities(model: LensModel, trunk: AnyTrunk, prompts: SplitPrompts, rows: list[Row]) -> Float[Tensor, "tokens vocab"]:
    """Next-token probabilities at every token of the rows that is not padding."""
    real = prompts.real(model.device)[:, [row.suffix for row in rows]]
    return model.unembed(trunk.run(rows)[real]).softmax(-1)


def _tokens(model: LensModel, n: int, rng: torch.Generator) -> list[int]:
    return torch.randint(model.d_vocab, (n,), generator=rng).tolist()
