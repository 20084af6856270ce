"""The function vector: a task as a direction in the residual stream."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, require_shape
from lens_fv.core.choices import Finite, Whole, checked
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import Hook, LensModel
from lens_fv.model.padding import Passes, passes
from lens_fv.patching import Edit

Site = Literal["resid_post", "state", "heads"]
V = TypeVar("V", bound="FunctionVector")


@checked
@dataclass(frozen=True, repr=False, eq=False)
class FunctionVector(Artefact):
    """A function vector (Todd et al. 2024), extracted from heads or fine-tuned.

    Attributes:
        vector: Direction in the residual stream's basis.
        layer: Layer after which the vector is added, at the last prompt token.
        resid_norm: Typical norm of the residual stream there: the unit of norms and scales.
        site: Where the vector is injected: "resid_post" (added at `layer`), "state" (replaces the residual stream there) or
            "heads" (each head's mean output is patched into its own layer; the vector itself is not used; this is exact
            for models with a norm after attention).
        heads: (layer, head) of the source heads, strongest first; empty for a vector tuned from scratch.
        head_outputs: Mean outputs of these heads.
        scale: Factor applied to `vector` (or to `head_outputs`) on injection.

    Example:
        >>> vector = lens_fv.tune(model, task, n_pairs=4, steps=2, layers=1)
        >>> path = vector.save(folder / 'toy.safetensors')
        >>> torch.equal(lens_fv.FunctionVector.load(path).vector, vector.vector)
        True
    """

    _MADE_BY: ClassVar[str] = "extract or tune"

    vector: Float[Tensor, " d_model"]
    head_outputs: Float[Tensor, "n_heads d_head"]
    layer: Whole
    resid_norm: float
    site: Site = "resid_post"
    heads: tuple[tuple[int, int], ...] = ()
    scale: Finite = 1.0

    def __post_init__(self) -> None:
        """Check shapes, layers and heads against the provenance."""
        layers, heads, d_model, d_head = self.provenance.shape
        require_shape("function vector", self.vector, (d_model,))
        require_shape("function vector's head outputs", self.head_outputs, (len(self.heads), d_head))
        if not 0 <= self.layer < layers:
            raise LensFVError(f"function vector after layer {self.layer}: its model has layers 0 to {layers - 1}")
        if unknown := [head for head in self.heads if not (0 <= head[0] < layers and 0 <= head[1] < heads)]:
            raise LensFVError(f"function vector of heads {unknown}: its model has {layers} layers of {heads} heads")
        if self.site == "heads" and not self.heads:
            raise LensFVError("function vector injected at its heads: it has none; use site='resid_post'")

    @property
    def norm(self) -> float:
        """Norm of the vector, in units of the residual stream's at its layer."""
        return float(self.vector.norm()) / self.resid_norm

    @checked
    def at(self: V, *, layer: Whole | None = None, site: Site | None = None, scale: Finite | None = None) -> V:
        """The same vector with another layer, site or scale. `resid_norm` keeps the value of the original layer."""
        return replace(
            self,
            layer=self.layer if layer is None else layer,
            site=site or self.site,
            scale=self.scale if scale is None else scale,
        )

    def edits(self) -> list[Edit]:
        """The edits that apply the vector."""
        if self.site == "heads":
            values = self.head_outputs * self.scale
            return [Edit(layer, z, head=head) for (layer, head), z in zip(self.heads, values, strict=True)]
        return [Edit(self.layer, self.vector * self.scale, mode="replace" if self.site == "state" else "add")]

    @checked
    @contextmanager
    def applied(
        self, model: LensModel, *, scale: Finite | None = None, position: Whole = -1, force: bool = False
    ) -> Iterator[None]:
        """Inject the vector at `position` (default: the last token) in every forward pass inside the block.

        Positions count each row's own tokens: in a padded batch the last token is the last one visible in the attention mask,
        on whichever side the padding is. The same holds for lists of texts that TransformerLens pads. Without a mask all tokens
        count as text, except padding-token ids at the ends of a row if that id has no other use.

        In `model.generate`, the last token is each new one in turn, as in Todd et al.'s code; any other position refers to the
        prompt.

        Args:
            model: Model the vector was made on.
            scale: Scale of the injection; default: the vector's own.
            position: Index into each row's text, counted from its end if negative.
            force: Apply the vector even if the provenance does not match.

        Raises:
            LensFVError: the vector belongs to another model or weight processing; in a forward pass, if a row has no token at
                `position`, or if several rows without a mask end in tokens that may be padding or text.
        """
        if not force:
            self.provenance.check(model)
        edits = self.at(scale=scale).edits()
        with passes(model) as running, model.hooks([_hook(model, running, edit, position) for edit in edits]):
            yield

    def with_vector(self, vector: Tensor, *, method: str, options: dict[str, Any]) -> "FunctionVector":
        """A new vector for the same place in the residual stream, derived from this one but without its heads."""
        return FunctionVector(
            provenance=replace(self.provenance, method=method, options={**self.provenance.options, **options}),
            vector=vector,
            head_outputs=self.head_outputs[:0],
            layer=self.layer,
            resid_norm=self.resid_norm,
            site="state" if self.site == "state" else "resid_post",
        )

    def __add__(self, other: object) -> "FunctionVector":
        return _sum((self, other), (1.0, 1.0)) if isinstance(other, FunctionVector) else NotImplemented

    def __sub__(self, other: object) -> "FunctionVector":
        return _sum((self, other), (1.0, -1.0)) if isinstance(other, FunctionVector) else NotImplemented

    def __mul__(self, factor: float | int) -> "FunctionVector":
        return _sum((self,), (factor,))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float | int) -> "FunctionVector":
        return _sum((self,), (1 / divisor,))

    def __neg__(self) -> "FunctionVector":
        return _sum((self,), (-1.0,))

    def to_dataframe(self) -> DataFrame:
        """One row: what the vector was made from and where it acts; its norm is in units of the residual stream's."""
        p = self.provenance
        row = {"task": p.task, "method": p.method, "model": p.model, "seed": p.seed, "layer": self.layer, "site": self.site}
        return data_frame([row | {"scale": self.scale, "norm_in_residuals": self.norm, "n_heads": len(self.heads)}])

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        stream = f"residual stream after layer {self.layer}"
        place = {"resid_post": stream, "state": f"{stream}, in its place", "heads": "its heads"}[self.site]
        return super().summary() | {
            "injected at": f"{place}, last prompt token, scale {self.scale:g}",
            "norm": f"{self.norm * self.resid_norm:.3g} ({self.norm:.2f} of the residual stream's)",
            "heads": ", ".join(f"{a}.{b}" for a, b in self.heads) or "none",
        }


def _sum(vectors: tuple[FunctionVector, ...], weights: tuple[float | int, ...]) -> FunctionVector:
    from lens_fv.vectors.arithmetic import combine  # imported late: it imports this module

    return combine(vectors, weights)


def _hook(model: LensModel, running: Passes, edit: Edit, position: int) -> Hook:
    def change(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        x = x.clone()
        if model.generation is None:
            index = running.places(position, x.shape)
        else:  # generation: rows of one length, the vector on every new token
            index = (slice(None), model.generation.span(position, x.shape[1]))
        if edit.head is not None:
            index = (*index, edit.head)
        value = edit.value.to(x)
        x[index] = value if edit.mode == "replace" else x[index] + value
        return x

    return f"blocks.{edit.layer}." + ("hook_resid_post" if edit.head is None else "attn.hook_z"), change
