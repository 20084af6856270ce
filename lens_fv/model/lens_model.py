"""A uniform view of a TransformerLens model, independent of its class."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, overload

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import Unpack

from lens_fv.core.choices import Count, Natural, Positive, PositiveShare, Seed, Share, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.model.cache import pass_cache_on, rotary_border
from lens_fv.model.exclusive import exclusive
from lens_fv.model.fingerprint import Fingerprint
from lens_fv.model.finite import measurable, not_finite
from lens_fv.model.generation import GenerateOptions, Generation, Prompts, Sampling, generate_tokens, unpadded
from lens_fv.model.measuring import check_parts, check_weights, measured

Hook = tuple[str, Callable[..., Any]]
WeightProcessing = Literal["raw", "compat"]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Tolerated difference in probability between two correct computations, by type of the weights; 0.03 for half precision.

Transformers' norms and attention round to single precision even in models of double precision, so two correct computations
may differ by 1e-8.
"""


class LensModel:
    """A causal language model seen through TransformerLens.

    Wraps a `TransformerBridge` (TransformerLens 3.9 and 4.x) or a `HookedTransformer` (3.9). It checks for capabilities rather
    than the class, so that no import depends on the version. The model stays usable by the caller: it is put in eval mode, its
    parameters are frozen and a bridge's attention is made eager; nothing else changes. If it is later put in train mode, it is
    in eval mode during each run here, and in train mode again afterwards.

    Only one thread uses the model at a time: other threads wait while it runs, and get a `LensFVError` while it is in a block
    that changes the model (`applied`, `hooks`). Direct calls of `tl` are not guarded.

    Attributes:
        tl: Underlying TransformerLens model.
        name: Name under which it was loaded or wrapped.
        revision: Revision of the weights, if known.
        backend: "bridge" or "hooked".
        weight_processing: "raw" (weights as trained) or "compat" (layer norms folded, writing weights centred); a vector
            belongs to one of these two bases.
        prepend_bos: Whether `encode` prepends the beginning-of-sequence token.
        n_layers, n_heads, n_kv_heads, d_model, d_head, d_mlp, d_vocab, n_ctx: Sizes; `n_heads` counts query heads.

    Example:
        >>> model.forward(torch.tensor([model.encode('Q: hot')])).shape[-1] == model.d_vocab
        True
    """

    _MADE_BY: ClassVar[str] = "load_model"

    def __init__(self, tl: Any, *, name: str, revision: str | None, prepend_bos: bool, fingerprint: str | None) -> None:
        self.tl = tl
        self.name = name
        self.revision = revision
        self.backend: Literal["bridge", "hooked"] = "bridge" if hasattr(tl, "original_model") else "hooked"
        if self.backend == "hooked":
            processed = getattr(tl.cfg, "normalization_type", None) in ("LNPre", "RMSPre")
        else:
            processed = bool(getattr(tl, "compatibility_mode", False))
        self.weight_processing: WeightProcessing = "compat" if processed else "raw"
        self.prepend_bos = prepend_bos
        self.tokenizer: Any = tl.tokenizer
        cfg = tl.cfg
        self.n_layers, self.n_heads = int(cfg.n_layers), int(cfg.n_heads)
        self.d_model, self.d_head = int(cfg.d_model), int(cfg.d_head)
        self.d_vocab, self.n_ctx = int(cfg.d_vocab), int(cfg.n_ctx)
        self.d_mlp = int(getattr(cfg, "d_mlp", None) or 4 * self.d_model)
        # Under grouped-query attention, several query heads share one key-value head.
        self.n_kv_heads = int(getattr(cfg, "n_key_value_heads", None) or self.n_heads)
        # Backend for branches on this model; `patching` sets it after checking a few edits against the plain loop.
        self.branch_backend: str | None = None
        # Whether the cache is correct; set by the first generation.
        self.cache_is_right: bool | None = None
        self.generation: Generation | None = None
        self._placeholders: list[Callable[[Sequence[int]], Sequence[int]]] = []
        self._fingerprint = Fingerprint(tl, fingerprint)
        # Fingerprint of the weights that are temporarily overwritten; set by `weights_written`.
        self.beneath: str | None = None

    @classmethod
    def wrap(
        cls,
        tl: Any,
        *,
        name: str | None = None,
        revision: str | None = None,
        prepend_bos: bool | None = None,
        fingerprint: str | None = None,
    ) -> "LensModel":
        """Wrap an existing TransformerLens model.

        Args:
            tl: `TransformerBridge` or `HookedTransformer`.
            name: Name of the model in artefacts; default: the name in its configuration.
            revision: Revision recorded in artefacts.
            prepend_bos: Prepend the beginning-of-sequence token; default: as the model's own `to_tokens` does
                (`cfg.default_prepend_bos`).
            fingerprint: Fingerprint of the weights before TransformerLens processed them; default: of the present weights.

        Raises:
            LensFVError: the object lacks a part of a TransformerLens decoder (see `check_parts`), or contains an unmerged
                adapter.
        """
        if isinstance(tl, cls):
            return tl
        check_parts(tl)
        if tl.tokenizer is None:
            raise LensFVError(f"wrap {type(tl).__name__}: it has no tokenizer; boot it with tokenizer=...")
        check_weights(tl)
        tl.eval()
        tl.requires_grad_(False)
        # TransformerLens 4 does this itself. 3.9 leaves sdpa in a model that it is given, which omits the mask where plain
        # causal attention suffices; branches need the mask to keep their rows apart.
        choose_attention = getattr(getattr(tl, "original_model", None), "set_attn_implementation", None)
        if choose_attention is not None:
            choose_attention("eager")
        if hasattr(tl, "original_model"):
            pass_cache_on(tl)
        if prepend_bos is None:
            prepend_bos = bool(getattr(tl.cfg, "default_prepend_bos", True))
        return cls(
            tl,
            name=name or str(tl.cfg.model_name),
            revision=revision,
            prepend_bos=prepend_bos and tl.tokenizer.bos_token_id is not None,
            fingerprint=fingerprint,
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.tl.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(p.dtype for p in self.tl.parameters() if p.is_floating_point())

    @property
    def tolerance(self) -> float:
        """Largest difference in probability attributable to rounding."""
        return TOLERANCE.get(self.dtype, 0.03)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights' names, types, shapes and bits (16 hexadecimal digits), independent of the device.

        Two models have the same fingerprint only if all weights are equal. It is computed at the first use (0.2 s for 500 MB)
        and again when a change in place is detected: always if PyTorch counts the change or this package makes it, and nearly
        always if it is written through `.data` (see `lens_fv.model.fingerprint`). Call `weights_changed` after changing single
        numbers through `.data`. Weights that TransformerLens processed during loading have the fingerprint of those in the
        files.
        """
        return self._fingerprint.value()

    def weights_changed(self, fingerprint: str | None = None) -> None:
        """Discard everything computed from the weights, after they have been written to.

        Args:
            fingerprint: Fingerprint of the written weights before processing; default: of the present weights.
        """
        self._fingerprint = Fingerprint(self.tl, fingerprint)
        self.__dict__.pop("_has_unembed_bias", None)

    @property
    def window(self) -> int | None:
        """Window of the local attention in tokens, if the configuration states it."""
        config = getattr(getattr(self.tl, "original_model", None), "config", None)
        return getattr(config, "sliding_window", None)

    @cached_property
    def rotary_border(self) -> int | None:
        """Length above which texts get different rotary embeddings; see `lens_fv.model.cache`."""
        return rotary_border(getattr(getattr(self.tl, "original_model", None), "config", None))

    def __repr__(self) -> str:
        size = f"{self.n_layers} layers x {self.n_heads} heads, d_model {self.d_model}"
        return f"LensModel({self.name}: {size}, {self.dtype}, {self.device}, {self.backend}, {self.weight_processing})"

    # -- text ---------------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        """Return the token ids of a text; `bos` overrides `prepend_bos`."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [self.tokenizer.bos_token_id, *ids] if (self.prepend_bos if bos is None else bos) else ids

    def decode(self, token: int) -> str:
        """Return the text of one token."""
        return str(self.tokenizer.decode([token]))

    # -- running ------------------------------------------------------------------------------------------------------

    @contextmanager
    def hooks(self, hooks: Sequence[Hook]) -> Iterator[None]:
        """Add forward hooks by TransformerLens' usual names, and remove them at the end of the block in any case."""
        if not hooks:  # adding no hooks costs TransformerLens as much as adding some
            yield
            return
        on = [True]

        def while_on(change: Callable[..., Any], x: Any, hook: Any) -> Any:
            return change(x, hook=hook) if on else None

        with exclusive(self, "has hooks on it") as gate:
            gate.afterwards(on.clear)  # in case an interrupt keeps TransformerLens from removing one
            with self.tl.hooks(fwd_hooks=[(name, partial(while_on, change)) for name, change in hooks]):
                yield

    def last_state_hook(self, states: list[Tensor]) -> Hook:
        """A hook that appends the residual stream after the last layer to a list."""
        return f"blocks.{self.n_layers - 1}.hook_resid_post", lambda x, hook: states.append(x)  # noqa: ARG005

    @measured
    def forward(self, tokens: Int[Tensor, "batch pos"], hooks: Sequence[Hook] = ()) -> Float[Tensor, "batch pos vocab"]:
        """Compute logits of unpadded token ids by the model's own forward, the reference for all other methods.

        Raises:
            LensFVError: an infinite or NaN logit; the message names the first hook point where one arises.
        """
        with self.hooks(hooks):
            logits = self.tl(tokens.to(self.device), return_type="logits")
            self._check_rows("logits", logits.detach().amax(-1).isfinite(), tokens)
        return logits

    @measured
    def run_body(self, tokens: Int[Tensor, "batch pos"], hooks: Sequence[Hook]) -> None:
        """Run unpadded token ids only for their hooks, without the unembedding if the model allows it.

        Raises:
            LensFVError: non-finite states after the last layer, which all others feed into.
        """
        states: list[Tensor] = []
        with self.hooks([*hooks, self.last_state_hook(states)]), torch.no_grad():
            if self.backend == "bridge":
                self.tl.original_model.base_model(input_ids=tokens.to(self.device), use_cache=False)
            else:
                self.tl(tokens.to(self.device), return_type=None)
            for last in states:
                self._check_rows("states", measurable(last), tokens)

    def _check_rows(self, values: str, finite: Bool[Tensor, "batch pos"], tokens: Int[Tensor, "batch pos"]) -> None:
        if all(rows := finite.all(1).tolist()):
            return
        bad, batch = rows.index(False), tokens.to(self.device)  # all rows run again, as hooks may depend on their number
        raise not_finite(self, values, batch[bad].tolist(), prompt=bad, run=lambda: self.tl(batch, return_type="logits"))

    @overload
    def generate(  # pyright: ignore[reportOverlappingOverload]  # a text is a sequence of texts, too
        self,
        prompts: str,
        **options: Unpack[GenerateOptions],
    ) -> str: ...
    @overload
    def generate(self, prompts: Prompts, **options: Unpack[GenerateOptions]) -> list[str]: ...
    @checked
    def generate(
        self,
        prompts: str | Prompts,
        *,
        max_new_tokens: Count = 20,
        do_sample: bool = False,
        temperature: Positive = 1.0,
        top_k: Natural = 0,
        top_p: PositiveShare = 1.0,
        seed: Seed = 0,
        use_cache: bool | None = None,
    ) -> str | list[str]:
        r"""Continue one text or several; see `lens_fv.model.generation`.

        Inside `applied`, a vector acts on the last token of the prompt and on every new token, a soft prompt precedes the
        prompt, and an adapter changes the whole computation.

        Args:
            prompts: A text, several texts, rows of token ids, or a tokenizer's batch with its mask (padded on either side).
            max_new_tokens: Maximum number of new tokens; an end-of-sequence token ends a text earlier.
            do_sample: Sample each token; otherwise take the likeliest one.
            temperature: Divisor of the logits before sampling.
            top_k: Number of likeliest tokens to sample from; 0: all.
            top_p: Probability mass of nucleus sampling: sample from the smallest set of tokens that reaches it.
            seed: Seed of the sampling.
            use_cache: Keep keys and values; default: if a short check finds that this does not change the result.

        Returns:
            The continuation without special tokens: a text for a single text, otherwise a list of texts.

        Raises:
            LensFVError: an empty prompt, one that would exceed the context, or an option out of range.

        Example:
            >>> model.generate("Q: sing\nA:", max_new_tokens=1)  # doctest: +SKIP
            ' sang'
        """
        sampling = Sampling(max_new_tokens, do_sample, temperature, top_k, top_p, seed)
        batch = [prompts] if isinstance(prompts, str) else unpadded(prompts) if isinstance(prompts, Mapping) else prompts
        rows: list[Sequence[int]] = [self.encode(prompt) if isinstance(prompt, str) else prompt for prompt in batch]
        for lengthened in self._placeholders:
            rows = [lengthened(row) for row in rows]
        new_tokens = generate_tokens(self, rows, sampling, use_cache=use_cache)
        texts = [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in new_tokens]
        return texts[0] if isinstance(prompts, str) else texts

    @contextmanager
    def placeholders(self, lengthened: Callable[[Sequence[int]], Sequence[int]]) -> Iterator[None]:
        """Make `generate` reserve room in every prompt for states inserted by a hook, inside the block."""
        with exclusive(self, "has a soft prompt in it") as gate:
            gate.put(vars(self), "_placeholders", [*self._placeholders, lengthened])
            yield

    def unembed(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Compute logits of residual-stream states after the last layer: final norm, unembedding, scale and soft cap."""
        return self.logits_of(self.final_norm(resid), slice(None))

    @measured
    def final_norm(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Apply the final norm, which gives the input of the unembedding, to states after the last layer."""
        return self.tl.ln_final(resid.reshape(1, -1, resid.shape[-1])).reshape(resid.shape)

    @measured
    def logits_of(
        self, normed: Float[Tensor, "*batch d_model"], columns: slice | Int[Tensor, " columns"]
    ) -> Float[Tensor, "*batch columns"]:
        """Compute some columns of the logits from states after the final norm."""
        unembed = self.tl.unembed
        bias = getattr(unembed, "b_U", None)
        if bias is not None and not self._has_unembed_bias:
            bias = None
        logits = torch.nn.functional.linear(normed, unembed.W_U[:, columns].T, None if bias is None else bias[columns])
        if self.backend == "bridge":  # soft caps and scales of Gemma, Granite, Cohere, ...
            return self.tl.adapter.apply_output_logits_transform(logits)
        cap = float(getattr(self.tl.cfg, "output_logits_soft_cap", 0) or 0)
        return cap * torch.tanh(logits / cap) if cap > 0 else logits

    @cached_property
    def _has_unembed_bias(self) -> bool:
        # TransformerLens gives a model without this bias a row of zeros.
        return bool(self.tl.unembed.b_U.any())

    @cached_property
    def hook_names(self) -> frozenset[str]:
        """Canonical names and aliases of all hook points."""
        return frozenset(self.tl.hook_dict)

    @cached_property
    def attention_layers(self) -> tuple[int, ...]:
        """Layers with readable attention heads: all layers except in hybrid and recurrent models.

        Layers with a head output size other than `d_head` are excluded, because `hook_z` would split it in the wrong places
        (DeepSeek's latent attention, some layers of Gemma 4).
        """
        hooked = (layer for layer in range(self.n_layers) if f"blocks.{layer}.attn.hook_z" in self.hook_names)
        return tuple(layer for layer in hooked if self._head_size(layer) == self.d_head)

    @checked
    def no_heads(self, layer: Whole | None = None) -> str:
        """Explain why a layer or the model is not in `attention_layers`; it may have heads nevertheless."""
        blocks = self.tl.blocks if layer is None else [self.tl.blocks[layer]]
        if any("attention" in type(part).__name__.lower() for block in blocks for part in block.modules()):
            return f"has attention heads, but TransformerLens exposes no output of {self.d_head} numbers for each (hook_z)"
        return "has no attention heads"

    def _head_size(self, layer: int) -> int | None:
        try:
            return self.tl.blocks[layer].attn.W_O.numel() // (self.n_heads * self.d_model)
        except ValueError:  # TransformerLens 4 does not split an output of unsuitable size
            return None

    # -- heads --------------------------------------------------------------------------------------------------------

    @checked
    def check_layer(self, layer: Whole) -> int:
        """Convert `layer` to an index from 0 (negative values count from the end).

        Raises:
            LensFVError: no such layer in the model.
        """
        if not -self.n_layers <= layer < self.n_layers:
            raise LensFVError(f"layer {layer} of {self.name}: it has layers 0 to {self.n_layers - 1}")
        return layer % self.n_layers

    @checked
    def layer_at(self, depth: Share) -> int:
        """Layer at a fraction of the depth, from 0 (the first layer) to 1 (the last)."""
        return round(depth * (self.n_layers - 1))

    @checked
    @measured
    def head_write(
        self, layer: Whole, z: Float[Tensor, "*batch heads d_head"], *, include_bias: bool = False
    ) -> Float[Tensor, "*batch d_model"]:
        """Sum the contributions of head outputs `z` (before the output projection) to the residual stream.

        The projection's bias is added once with `include_bias`, never once per head (as in Todd et al.'s code).
        """
        attn = self.tl.blocks[layer].attn
        w_o = rearrange(attn.W_O, "... d_head d_model -> (...) d_head d_model", d_head=self.d_head)
        out = einsum(z.to(w_o.dtype), w_o, "... heads d_head, heads d_head d_model -> ... d_model")
        bias = getattr(attn, "b_O", None)
        return out + bias if include_bias and bias is not None else out
