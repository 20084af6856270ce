"""What an update adds to a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lens_fv.core.artefact import Artefact
from lens_fv.core.choices import Finite, checked
from lens_fv.core.files import new_folder
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import own_weights, plain_model, plain_tokenizer, weights_written
from lens_fv.model.quiet import quiet_transformers


@dataclass(frozen=True, repr=False, eq=False)
class WeightDelta(Artefact):
    """An update of some of a model's weights, by transformers' names of them.

    Attributes:
        dense: what is added to a weight.
        down, up: of a low-rank update: `up` (out x rank) times `down` (rank x in) is added to a weight.
        skipped: what was not taught, and why: sentences or entities by reason.

    Raises:
        LensFVError: low-rank parts that do not fit each other.
    """

    dense: Mapping[str, Tensor]
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    skipped: Mapping[str, int]

    def __post_init__(self) -> None:
        """Check that the parts of low-rank updates fit."""
        odd = [name for name in self.down.keys() ^ self.up.keys()]
        odd += [name for name in self.down.keys() & self.up.keys() if self.up[name].shape[1] != self.down[name].shape[0]]
        if odd:
            raise LensFVError(f"weight delta: the low-rank parts of {', '.join(sorted(odd)[:3])} do not fit each other")

    def __len__(self) -> int:
        """The number of weights that it changes."""
        return len(self.names)

    def __add__(self, other: "WeightDelta") -> "WeightDelta":
        """Both updates at once."""
        dense = {name: self.dense.get(name, 0) + other.dense.get(name, 0) for name in (*self.dense, *other.dense)}
        return replace(
            self,
            provenance=replace(
                self.provenance,
                method="sum",
                options={"of": [f"{p.method} {p.task_hash} seed {p.seed}" for p in (self.provenance, other.provenance)]},
            ),
            dense={name: torch.as_tensor(each) for name, each in dense.items()},
            down={n: torch.cat([d.down[n] for d in (self, other) if n in d.down]) for n in (*self.down, *other.down)},
            up={n: torch.cat([d.up[n] for d in (self, other) if n in d.up], 1) for n in (*self.up, *other.up)},
            skipped={what: self.skipped.get(what, 0) + other.skipped.get(what, 0) for what in (*self.skipped, *other.skipped)},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that it changes."""
        return tuple(dict.fromkeys((*self.dense, *self.up)))

    def change(self, name: str) -> Tensor:
        """What is added to one weight, in single precision."""
        low_rank = self.up[name] @ self.down[name] if name in self.up else 0
        return torch.as_tensor(self.dense.get(name, 0) + low_rank)

    @checked
    @contextmanager
    def applied(self, model: LensModel, *, scale: Finite = 1.0, force: bool = False) -> Iterator[None]:
        """Inside the block the model is updated; behind it, it is again, to the bit, what it was.

        Args:
            model: whose weights it was made for; it may be inside another delta's block.
            scale: times the update.
            force: apply it to another model of the same shapes.

        Raises:
            LensFVError: it belongs to another model, or weights do not have the names and shapes of its own.
        """
        if not force:
            self.provenance.check(model, what="an update", weights=model.beneath)
        own = own_weights(model)
        now = {
            name: own[name].float() + scale * self.change(name).to(own[name].device) if name in own else self.change(name)
            for name in self.names
        }
        with weights_written(model, now):
            yield

    def by_layer(self, model: LensModel) -> dict[str, float]:
        """How much each layer moved: length of the change in lengths of the layer's weights; and all that is in no layer.

        Raises:
            LensFVError: what `own_weights` raises.
        """
        blocks, own = f"{model.tl.adapter.component_mapping['blocks'].name}.", own_weights(model)
        sizes: dict[str, list[float]] = {str(layer): [0.0, 0.0] for layer in range(model.n_layers)} | {"others": [0.0, 0.0]}
        for name, weight in own.items():
            at = sizes[name[len(blocks) :].partition(".")[0] if name.startswith(blocks) else "others"]
            at[1] += float(weight.float().square().sum())
            at[0] += float(self.change(name).square().sum()) if name in self.names else 0.0
        return {layer: (moved / whole) ** 0.5 if whole else 0.0 for layer, (moved, whole) in sizes.items()}

    def export(self, model: LensModel, folder: str | Path, *, force: bool = False) -> Path:
        """Write the updated model as one of its own, which transformers and `load_model` take.

        Raises:
            LensFVError: a folder that is there already, or what `applied` raises.
        """
        with new_folder(folder, what="export") as beside, self.applied(model, force=force), quiet_transformers():
            plain_model(model).save_pretrained(beside)
            plain_tokenizer(model).save_pretrained(beside)
        return Path(folder)

    def export_adapter(self, model: LensModel, folder: str | Path) -> Path:
        """Write a low-rank update as PEFT's adapter (LoRA) to the model, for `PeftModel.from_pretrained`.

        Raises:
            LensFVError: an update of whole weights or of none, another model's, or a folder that is there already.
        """
        from peft import LoraConfig
        from safetensors.torch import save_file

        if self.dense or not self.up:
            raise LensFVError(
                f"export an update of {len(self.dense)} whole weights and {len(self.up)} of low rank as an adapter: that is "
                "for low rank alone; export it as a model"
            )
        self.provenance.check(model, what="an update")
        modules = dict(plain_model(model).named_modules())
        ranks: dict[str, int] = {}
        weights: dict[str, Tensor] = {}
        for name, up in self.up.items():
            module, down = name.removesuffix(".weight"), self.down[name]
            ranks[module] = len(down)
            if type(modules[module]).__name__ == "Conv1D":  # GPT-2's maps are written the other way round
                up, down = down.T, up.T
            for which, part in (("A", down), ("B", up)):
                weights[f"base_model.model.{module}.lora_{which}.weight"] = part.contiguous()
        most = max(ranks.values())
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=most,
            lora_alpha=most,  # the update's scale is in its weights
            rank_pattern={module: rank for module, rank in ranks.items() if rank != most},
            alpha_pattern={module: rank for module, rank in ranks.items() if rank != most},
            target_modules=list(ranks),
            fan_in_fan_out=any(type(modules[module]).__name__ == "Conv1D" for module in ranks),
            inference_mode=True,
            base_model_name_or_path=model.name,
        )
        with new_folder(folder, what="export") as beside:
            config.save_pretrained(str(beside))
            save_file(weights, beside / "adapter_model.safetensors", metadata={"format": "pt"})
        return Path(folder)

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        skipped = ", ".join(f"{n} {what}" for what, n in self.skipped.items() if n) or "none"
        return super().summary() | {"weights": f"{len(self.dense)} whole, {len(self.up)} of low rank", "skipped": skipped}
