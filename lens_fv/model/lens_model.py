"""One uniform view of a TransformerLens model, whichever class it has."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, Literal, overload

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_fv.core.choices import Count, Natural, Positive, PositiveShare, Seed, Whole, checked
from lens_fv.errors import LensFVError
from lens_fv.model.cache import pass_cache_on
from lens_fv.model.exclusive import exclusive, while_on
from lens_fv.model.fingerprint import Fingerprint
from lens_fv.model.finite import measurable, not_finite
from lens_fv.model.generation import Generation, Prompts, Sampling, generate_tokens, unpadded
from lens_fv.model.measuring import check_weights, measured
from lens_fv.model.parts import check_parts
from lens_fv.model.rotary import rotary_border

Hook = tuple[str, Callable[..., Any]]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Largest difference in probability between two ways to the same number, by the weights' type; half precision gets 0.03.

Transformers' norms and attention round to single precision in models of double precision, too: two right ways may differ by
1e-8.
"""


class LensModel:
    """A causal language model seen through TransformerLens.

    Wraps a `TransformerBridge` (TransformerLens 3.9 and 4.x) or a `HookedTransformer` (3.9): accepted by what it can do, not
    by its class, so that nothing here imports a name that one of the versions lacks. The model stays the user's own: it is
    put in eval mode, its parameters are frozen and a bridge's attention is made eager, nothing else changes. If it is put
    in train mode later, it is in eval mode whenever it is run here, and in train mode again afterwards.

    One thread at a time: a thread waits while another one runs the model, and gets a `LensFVError` while another one is in
    a block that changes it (`applied`, `hooks`). Direct calls of `tl` are not guarded.

    Attributes:
        tl: the TransformerLens model itself.
        name: the name it was loaded or wrapped under.
        revision: where the weights came from, if known.
        backend: "bridge" or "hooked".
        weight_processing: "raw" (the weights as trained) or "compat" (layer norms folded, writing weights centred): a
            vector lives in one of the two bases.
        prepend_bos: whether `encode` puts the beginning-of-sequence token in front.
        n_layers, n_heads, n_kv_heads, d_model, d_head, d_mlp, d_vocab, n_ctx: sizes; `n_heads` counts query heads.
    """

    @checked
    def __init__(
        self,
        tl: Any,
        *,
        name: str,
        revision: str | None,
        backend: Literal["bridge", "hooked"],
        weight_processing: Literal["raw", "compat"],
        prepend_bos: bool,
        fingerprint: str | None = None,
    ) -> None:
        self.tl = tl
        self.name = name
        self.revision = revision
        self.backend: Literal["bridge", "hooked"] = backend
        self.weight_processing: Literal["raw", "compat"] = weight_processing
        self.prepend_bos = prepend_bos
        self.tokenizer: Any = tl.tokenizer
        cfg = tl.cfg
        self.n_layers, self.n_heads = int(cfg.n_layers), int(cfg.n_heads)
        self.d_model, self.d_head = int(cfg.d_model), int(cfg.d_head)
        self.d_vocab, self.n_ctx = int(cfg.d_vocab), int(cfg.n_ctx)
        self.d_mlp = int(getattr(cfg, "d_mlp", None) or 4 * self.d_model)
        # Under grouped-query attention several query heads share the keys and values of one.
        self.n_kv_heads = int(getattr(cfg, "n_key_value_heads", None) or self.n_heads)
        # How branches run on this model; `patching` fills it in after checking a few edits against the plain loop.
        self.branch_method: str | None = None
        # Whether its cache is right: filled in by the first generation.
        self.cache_is_right: bool | None = None
        self.generation: Generation | None = None
        self._placeholders: list[Callable[[Sequence[int]], Sequence[int]]] = []
        self._fingerprint = Fingerprint(tl, fingerprint)
        # The fingerprint of what is written over for a while; `weights_written` fills it in.
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
        """Wrap a TransformerLens model that you already hold.

        Args:
            tl: a `TransformerBridge` or `HookedTransformer`.
            name: how artefacts will name the model; default: the name in its configuration.
            revision: recorded in artefacts.
            prepend_bos: default: what the model's own `to_tokens` does (`cfg.default_prepend_bos`).
            fingerprint: of its weights before TransformerLens processed them; default: of the weights as they are.

        Raises:
            LensFVError: the object lacks what a TransformerLens decoder has (see `check_parts`), or has an adapter in it
                that is not merged.
        """
        if isinstance(tl, cls):
            return tl
        check_parts(tl)
        if tl.tokenizer is None:
            raise LensFVError(f"wrap {type(tl).__name__}: it has no tokenizer; boot it with tokenizer=...")
        check_weights(tl)
        backend: Literal["bridge", "hooked"] = "bridge" if hasattr(tl, "original_model") else "hooked"
        if backend == "hooked":
            processed = getattr(tl.cfg, "normalization_type", None) in ("LNPre", "RMSPre")
        else:
            processed = bool(getattr(tl, "compatibility_mode", False))
        tl.eval()
        tl.requires_grad_(False)
        # TransformerLens 4 does this itself. 3.9 leaves a model that it is handed with sdpa, which goes without a mask where
        # plain causal attention will do; branches need the mask to keep their rows apart.
        choose_attention = getattr(getattr(tl, "original_model", None), "set_attn_implementation", None)
        if choose_attention is not None:
            choose_attention("eager")
        if backend == "bridge":
            pass_cache_on(tl)
        if prepend_bos is None:
            prepend_bos = bool(getattr(tl.cfg, "default_prepend_bos", True))
        return cls(
            tl,
            name=name or str(tl.cfg.model_name),
            revision=revision,
            backend=backend,
            weight_processing="compat" if processed else "raw",
            prepend_bos=prepend_bos and tl.tokenizer.bos_token_id is not None,
            fingerprint=fingerprint,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.tl.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' floating-point type."""
        return next(p.dtype for p in self.tl.parameters() if p.is_floating_point())

    @property
    def tolerance(self) -> float:
        """Largest difference in probability that rounding explains."""
        return TOLERANCE.get(self.dtype, 0.03)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights: their names, types, shapes and bits, on whichever device.

        Two models have one fingerprint only if every weight is the same. It is computed at the first use (0.2 s for 500 MB)
        and again when weights are seen to have changed in place: always where PyTorch counts the change or this package makes
        it, and nearly always where it is written through `.data` (see `lens_fv.model.fingerprint`); call `weights_changed`
        after changing single numbers that way. Weights that TransformerLens processed while the model was loaded have the
        fingerprint of those in the files.
        """
        return self._fingerprint.value()

    def weights_changed(self, fingerprint: str | None = None) -> None:
        """Forget what was computed from the weights: they have been written to.

        Args:
            fingerprint: of what has been written, before it was processed; default: of the weights as they are.
        """
        self._fingerprint = Fingerprint(self.tl, fingerprint)
        self.__dict__.pop("_has_unembed_bias", None)

    @property
    def window(self) -> int | None:
        """How many tokens its local attention sees, if the configuration says."""
        config = getattr(getattr(self.tl, "original_model", None), "config", None)
        return getattr(config, "sliding_window", None)

    @cached_property
    def rotary_border(self) -> int | None:
        """The length above which texts get other rotary embeddings; see `lens_fv.model.rotary`."""
        return rotary_border(getattr(getattr(self.tl, "original_model", None), "config", None))

    def __repr__(self) -> str:
        size = f"{self.n_layers} layers x {self.n_heads} heads, d_model {self.d_model}"
        return f"LensModel({self.name}: {size}, {self.dtype}, {self.device}, {self.backend}, {self.weight_processing})"

    # -- text ---------------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        """Token ids of a text; `bos` overrides `prepend_bos`."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [self.tokenizer.bos_token_id, *ids] if (self.prepend_bos if bos is None else bos) else ids

    def decode(self, token: int) -> str:
        """The text of one token."""
        return str(self.tokenizer.decode([token]))

    # -- running ------------------------------------------------------------------------------------------------------

    @contextmanager
    def hooks(self, hooks: Sequence[Hook]) -> Iterator[None]:
        """Forward hooks by TransformerLens' usual names; gone when the block ends, whatever happened inside."""
        if not hooks:  # putting on none costs TransformerLens as much as putting on some
            yield
            return
        on = [True]
        with exclusive(self, "has hooks on it") as gate:
            gate.afterwards(on.clear)  # should an interrupt keep TransformerLens from taking one off
            with self.tl.hooks(fwd_hooks=[(name, partial(while_on, on, hook)) for name, hook in hooks]):
                yield

    @measured
    def forward(self, tokens: Int[Tensor, "batch pos"], hooks: Sequence[Hook] = ()) -> Float[Tensor, "batch pos vocab"]:
        """Logits of unpadded token ids, through the model's own forward: the reference for everything else.

        Raises:
            LensFVError: a logit that is infinite or not a number; it names the first hook point where one arises.
        """
        with self.hooks(hooks):
            logits = self.tl(tokens.to(self.device), return_type="logits")
            self._check_rows("logits", logits.detach().amax(-1).isfinite(), tokens)
        return logits

    @measured
    def run_body(self, tokens: Int[Tensor, "batch pos"], hooks: Sequence[Hook]) -> None:
        """Run unpadded token ids for what the hooks see, without unembedding where the model allows that.

        Raises:
            LensFVError: states that are not finite after the last layer, where all come together.
        """
        last: list[Tensor] = []
        end: Hook = (f"blocks.{self.n_layers - 1}.hook_resid_post", lambda x, hook: last.append(x))  # noqa: ARG005
        with self.hooks([*hooks, end]), torch.no_grad():
            if self.backend == "bridge":
                self.tl.original_model.base_model(input_ids=tokens.to(self.device), use_cache=False)
            else:
                self.tl(tokens.to(self.device), return_type=None)
            for states in last:
                self._check_rows("states", measurable(states), tokens)

    def _check_rows(self, what: str, finite: Bool[Tensor, "batch pos"], tokens: Int[Tensor, "batch pos"]) -> None:
        if all(whole := finite.all(1).tolist()):
            return
        at, batch = whole.index(False), tokens.to(self.device)  # all of it, as hooks may know how many rows there are
        raise not_finite(self, what, batch[at].tolist(), prompt=at, run=lambda: self.tl(batch, return_type="logits"))

    @overload
    def generate(  # pyright: ignore[reportOverlappingOverload]  # a text is a sequence of texts, too
        self,
        prompts: str,
        *,
        max_new_tokens: int = ...,
        do_sample: bool = ...,
        temperature: float = ...,
        top_k: int = ...,
        top_p: float = ...,
        seed: int = ...,
        use_cache: bool | None = ...,
    ) -> str: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int = ...,
        do_sample: bool = ...,
        temperature: float = ...,
        top_k: int = ...,
        top_p: float = ...,
        seed: int = ...,
        use_cache: bool | None = ...,
    ) -> list[str]: ...
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

        Inside `applied` a vector acts on the last token of the prompt and on every new one, a soft prompt stands in front of
        the prompt, and an adapter changes all that is computed.

        Args:
            prompts: a text, several, rows of token ids, or a tokenizer's batch with its mask (padded on whichever side).
            max_new_tokens: tokens to write at most; an end-of-sequence token ends a text before.
            do_sample: draw each token; otherwise the likeliest one is taken.
            temperature: divides the logits before a draw.
            top_k: draw among that many tokens; 0: among all.
            top_p: draw among the fewest tokens that have this probability together.
            seed: seed of the draws.
            use_cache: keep keys and values of what was run. Default: where a short check finds that this changes nothing.

        Returns:
            What comes after the prompt, without special tokens: a text for a text, else a list of texts.

        Raises:
            LensFVError: an empty prompt, one that grows longer than the context, or an option out of its range.

        Example:
            >>> model.generate("Q: sing\nA:", max_new_tokens=1)  # doctest: +SKIP
            ' sang'
        """
        sampling = Sampling(max_new_tokens, do_sample, temperature, top_k, top_p, seed)
        batch = [prompts] if isinstance(prompts, str) else unpadded(prompts) if isinstance(prompts, Mapping) else prompts
        rows: list[Sequence[int]] = [self.encode(prompt) if isinstance(prompt, str) else prompt for prompt in batch]
        for lengthened in self._placeholders:
            rows = [lengthened(row) for row in rows]
        written = generate_tokens(self, rows, sampling, use_cache=use_cache)
        texts = [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in written]
        return texts[0] if isinstance(prompts, str) else texts

    @contextmanager
    def placeholders(self, lengthened: Callable[[Sequence[int]], Sequence[int]]) -> Iterator[None]:
        """Inside the block `generate` makes room in every prompt for states that a hook puts there."""
        with exclusive(self, "has a soft prompt in it") as gate:
            gate.put(vars(self), "_placeholders", [*self._placeholders, lengthened])
            yield

    def unembed(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Logits of residual-stream states after the last layer: final norm, unembedding, scale and soft cap."""
        return self.logits_of(self.final_norm(resid), slice(None))

    @measured
    def final_norm(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What the unembedding reads of a residual-stream state after the last layer."""
        return self.tl.ln_final(resid.reshape(1, -1, resid.shape[-1])).reshape(resid.shape)

    @measured
    def logits_of(
        self, normed: Float[Tensor, "*batch d_model"], columns: slice | Int[Tensor, " columns"]
    ) -> Float[Tensor, "*batch columns"]:
        """Some columns of the logits of states behind the final norm."""
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
        # TransformerLens gives a model without one a row of zeros.
        return bool(self.tl.unembed.b_U.any())

    @cached_property
    def hook_names(self) -> frozenset[str]:
        """Every hook point by its canonical name and its aliases."""
        return frozenset(self.tl.hook_dict)

    @cached_property
    def attention_layers(self) -> tuple[int, ...]:
        """Layers with attention heads to look at: all of them but in hybrids and recurrent models.

        Nor do layers count whose heads put out another number than `d_head`, which `hook_z` would cut in the wrong places
        (DeepSeek's latent attention, some layers of Gemma 4).
        """
        there = (layer for layer in range(self.n_layers) if f"blocks.{layer}.attn.hook_z" in self.hook_names)
        return tuple(layer for layer in there if self._head_size(layer) == self.d_head)

    @checked
    def no_heads(self, layer: Whole | None = None) -> str:
        """What is said of a layer, or of the model, that is not among `attention_layers`: it may have heads all the same."""
        blocks = self.tl.blocks if layer is None else [self.tl.blocks[layer]]
        if any("attention" in type(part).__name__.lower() for block in blocks for part in block.modules()):
            return f"has attention heads, but TransformerLens exposes no output of {self.d_head} numbers for each (hook_z)"
        return "has no attention heads"

    def _head_size(self, layer: int) -> int | None:
        try:
            return self.tl.blocks[layer].attn.W_O.numel() // (self.n_heads * self.d_model)
        except ValueError:  # TransformerLens 4 does not cut what does not fit
            return None

    # -- heads --------------------------------------------------------------------------------------------------------

    @checked
    def check_layer(self, layer: Whole) -> int:
        """`layer` as an index from 0 (negative counts from the end).

        Raises:
            LensFVError: the model has no such layer.
        """
        if not -self.n_layers <= layer < self.n_layers:
            raise LensFVError(f"layer {layer} of {self.name}: it has layers 0 to {self.n_layers - 1}")
        return layer % self.n_layers

    @checked
    @measured
    def head_write(
        self, layer: Whole, z: Float[Tensor, "*batch heads d_head"], *, include_bias: bool = False
    ) -> Float[Tensor, "*batch d_model"]:
        """What head outputs `z` (before the output projection) sum to behind it.

        The projection's bias is counted once if asked for, never once a head (Todd et al.'s code adds it per head).
        """
        attn = self.tl.blocks[layer].attn
        w_o = rearrange(attn.W_O, "... d_head d_model -> (...) d_head d_model", d_head=self.d_head)
        out = einsum(z.to(w_o.dtype), w_o, "... heads d_head, heads d_head d_model -> ... d_model")
        bias = getattr(attn, "b_O", None)
        return out + bias if include_bias and bias is not None else out
