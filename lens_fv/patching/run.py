"""The engine's entry point: open prompts, run branches on them, and apply a readout."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lens_fv.core.choices import Count, checked
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.model.finite import all_finite, measurable, not_finite
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measuring
from lens_fv.patching.backends import AnyTrunk, Backend, BackendChoice, open_trunk
from lens_fv.patching.check import choose_backend
from lens_fv.patching.edit import BranchLike, Edit
from lens_fv.patching.loop import LoopTrunk
from lens_fv.patching.plan import Plan, is_out_of_memory, make_plan
from lens_fv.patching.readout import Readout, final_states
from lens_fv.patching.split import Group, group_branches


@checked
def run_branches(
    model: LensModel,
    prompts: Sequence[Sequence[int]],
    branches: Sequence[BranchLike],
    *,
    shared: Sequence[Edit] = (),
    readout: Readout = final_states,
    backend: BackendChoice = "auto",
    budget: Count | None = None,
    progress: bool = False,
) -> Tensor:
    """Run every branch on every prompt and apply a readout to the final states.

    Args:
        model: Model to run.
        prompts: Token ids, one list per prompt; lengths may differ.
        branches: Counterfactual runs, or lists of edits; an empty list is the unedited model.
        shared: Edits of every branch at positions before any branch starts, such as noise on the prompts.
        readout: Function of the final states; see `lens_fv.patching.readout`. Default: the states themselves, at the last
            prompt token and at each forced answer token.
        backend: "rows" (one pass, the model's attention over a tree), "masked" (one pass, TransformerLens' attention under a
            mask), "batched" (a copy of the prompt's state per row), "loop" (one forward pass per branch) or "auto": the first
            of these that agrees with the loop on this model. The check runs once per model.
        budget: Memory for activations, in bytes; default: half of the free memory. Rows run in chunks that fit.
        progress: Show a progress bar over rows.

    Returns:
        Result of the readout, "prompts branches ...".

    Raises:
        LensFVError: an edit does not fit the model or lies outside a prompt, a value is not finite, a prompt is empty or
            exceeds the model's context, the budget is smaller than one row, or states or readouts are not finite. In the last
            case the message names the first hook point, layer and prompt affected.

    Example:
        >>> edit = lens_fv.Edit(1, torch.ones(model.d_model), mode='add')
        >>> states = lens_fv.run_branches(model, [model.encode('Q: hot')], [[], [edit]])
        >>> tuple(states.shape[:2])  # prompts, branches
        (1, 2)
    """
    opened = OpenPrompts(model, prompts, shared=shared, backend=backend, budget=budget)
    with progress_bar("branches", len(branches), show=progress) as tick:
        return opened.run(branches, readout=readout, keep=False, tick=tick)


@checked
def plan_branches(
    model: LensModel,
    prompts: Sequence[Sequence[int]],
    branches: Sequence[BranchLike],
    *,
    backend: BackendChoice = "auto",
    budget: Count | None = None,
) -> list[Plan]:
    r"""Plan a call of `run_branches` without running it: one plan for each position at which branches start.

    Example:
        >>> edits = [lens_fv.Edit(1, torch.zeros(model.d_head), head=head) for head in range(model.n_heads)]
        >>> plans = lens_fv.patching.plan_branches(model, [model.encode('Q: hot\nA:')], [[edit] for edit in edits])
        >>> plans[0].peak_bytes > 0
        True
    """
    opened = OpenPrompts(model, prompts, backend=backend, budget=budget)
    return [opened.plan(group) for group in opened.groups(branches)]


class OpenPrompts:
    """Prompts on which branches can be run repeatedly; see `run_branches`."""

    def __init__(
        self,
        model: LensModel,
        prompts: Sequence[Sequence[int]],
        *,
        shared: Sequence[Edit] = (),
        backend: BackendChoice = "auto",
        budget: int | None = None,
    ) -> None:
        if not prompts or not all(prompts):
            raise LensFVError(f"run {model.name}: {'an empty prompt' if prompts else 'no prompts'}; give at least one token")
        self.model, self.prompts, self._budget = model, [tuple(p) for p in prompts], budget
        self._shared = tuple(shared)
        self._backend: BackendChoice = backend
        self._trunks: dict[tuple[object, ...], AnyTrunk] = {}

    @property
    def backend(self) -> Backend:
        """The backend by which branches run."""
        return choose_backend(self.model, self._backend)

    def groups(self, branches: Sequence[BranchLike]) -> list[Group]:
        """Check the branches and group them by starting position."""
        return group_branches(self.model, self.prompts, branches, self._shared)

    def run(
        self,
        branches: Sequence[BranchLike],
        *,
        readout: Readout = final_states,
        keep: bool = True,
        tick: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """See `run_branches`. With `keep`, the prompts' own computation is kept in memory for the next call."""
        groups = self.groups(branches)
        if not groups:
            raise LensFVError(f"run {self.model.name}: no branches; one without edits is the model as it is")
        longest = max(len(answer) for group in groups for by_prompt in group.answers for answer in by_prompt)
        with measuring(self.model):
            parts = [part for group in groups for part in self._run_group(group, max(longest, 1), readout, keep, tick)]
        order = torch.tensor([index for indices, _ in parts for index in indices], device=parts[0][1].device)
        return torch.cat([part for _, part in parts], 1)[:, order.argsort()]

    def plan(self, group: Group) -> Plan:
        """Plan how many of the group's rows fit into a pass.

        Raises:
            LensFVError: not even one row fits.
        """
        return make_plan(self.model, self.backend, group.prompts, rows=len(group.rows), budget=self._budget)

    def _run_group(
        self, group: Group, longest: int, readout: Readout, keep: bool, tick: Callable[[], None]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the indices of the branches in each chunk, and the result of the readout for them."""
        size = self.plan(group).rows_per_pass
        trunk = self._trunk(group, keep)
        tokens = _padded(group.answers, longest, self.model.device)  # (prompts, answers, tokens)
        lengths = torch.tensor([len(p) for p in self.prompts])
        last = lengths - 1 - torch.tensor(group.starts)  # index of the last prompt token in the suffix
        at = (last[:, None] + torch.arange(tokens.shape[-1])).clamp(max=trunk.width - 1).to(self.model.device)
        # Sort by entry layer: a pass starts where its first row leaves the trunk, so similar rows go together.
        queue = sorted(range(len(group.rows)), key=lambda i: group.rows[i].entry(self.model.n_layers))
        while queue:
            chunk = queue[:size]
            try:
                states = trunk.run([group.rows[i] for i in chunk], keep=keep or size < len(queue))
                states = states.gather(2, at[:, None, :, None].expand(-1, len(chunk), -1, states.shape[-1]))
                chunk_tokens = tokens[:, [group.rows[i].suffix for i in chunk]]
                values = readout(self.model, states, chunk_tokens)
                self._require_finite(group, chunk, states, chunk_tokens, values)
            except (RuntimeError, MemoryError) as e:
                if not is_out_of_memory(e) or size == 1:
                    raise
                size = max(1, min(size, len(chunk)) // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            yield [group.indices[i] for i in chunk], values
            del queue[: len(chunk)]
            for _ in chunk:
                tick()

    def _trunk(self, group: Group, keep: bool) -> AnyTrunk:
        key = (group.starts, group.answers)
        trunk = self._trunks.get(key) or open_trunk(self.backend, self.model, group.prompts)
        if keep:
            self._trunks[key] = trunk
        return trunk

    def _require_finite(self, group: Group, chunk: Sequence[int], states: Tensor, tokens: Tensor, values: Tensor) -> None:
        """Raise `LensFVError` for the first prompt and branch with non-finite states or readout, and trace the origin."""
        real = tokens >= 0
        real[..., 0] = True  # the last prompt token is always read; padding can hold any value
        wrong = (real & ~measurable(states)).any(-1)
        if not wrong.any() and all_finite(values):
            return
        wrong |= ~values.detach().isfinite().flatten(2).all(-1) if values.ndim > 2 else ~values.detach().isfinite()
        p, at = wrong.nonzero()[0].tolist()
        ids, hooks = LoopTrunk(self.model, group.prompts).one_pass(p, group.rows[chunk[at]])

        def run() -> Tensor:
            return self.model.tl(ids, return_type="logits")

        with self.model.hooks(hooks):
            raise not_finite(self.model, f"branch {group.indices[chunk[at]]}", ids[0].tolist(), prompt=p, run=run)


def _padded(answers: Sequence[Sequence[Sequence[int]]], size: int, device: torch.device) -> Tensor:
    """Convert answers by prompt into "prompts answers tokens", with shorter ones padded by -1."""
    rows = [[[*tokens, *[-1] * (size - len(tokens))] for tokens in by_prompt] for by_prompt in answers]
    return torch.tensor(rows, device=device).transpose(0, 1)
