"""Weight updates: what training adds to a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lens_fv.core.artefact import Artefact
from lens_fv.core.choices import Finite, checked
from lens_fv.core.files import atomic_folder
from lens_fv.core.tables import data_frame
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import own_weights, plain_model, plain_tokenizer, weights_written
from lens_fv.model.quiet import quiet_transformers

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class WeightDelta(Artefact):
    """An update to some of a model's weights, keyed by their names in transformers.

    Attributes:
        dense: full-rank changes, added to the weights.
        down, up: factors of low-rank changes: `up` (out x rank) times `down` (rank x in) is added to the weight.
        skipped: number of sentences or entities left out of training, by reason.

    Raises:
        LensFVError: low-rank factors that do not match.
    """

    dense: Mapping[str, Tensor]
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    skipped: Mapping[str, int]

    def __post_init__(self) -> None:
        """Check that the low-rank factors match."""
        odd = [name for name in self.down.keys() ^ self.up.keys()]
        odd += [name for name in self.down.keys() & self.up.keys() if self.up[name].shape[1] != self.down[name].shape[0]]
        if odd:
            raise LensFVError(f"weight delta: the low-rank parts of {', '.join(sorted(odd)[:3])} do not fit each other")

    def __len__(self) -> int:
        """Number of weights that the update changes."""
        return len(self.names)

    def __add__(self, other: "WeightDelta") -> "WeightDelta":
        """Return the sum of both updates."""
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
        """Names of the weights that the update changes."""
        return tuple(dict.fromkeys((*self.dense, *self.up)))

    def change(self, name: str) -> Tensor:
        """Return the change to one weight, in single precision."""
        low_rank = self.up[name] @ self.down[name] if name in self.up else 0
        return torch.as_tensor(self.dense.get(name, 0) + low_rank)

    @checked
    @contextmanager
    def applied(self, model: LensModel, *, scale: Finite = 1.0, force: bool = False) -> Iterator[None]:
        """Apply the update inside the block, and restore the original weights bit for bit on exit.

        Args:
            model: model that the update was made for. Blocks of several updates may be nested.
            scale: factor by which the update is multiplied.
            force: whether to allow a different model with weights of the same shapes.

        Raises:
            LensFVError: the update belongs to another model, or its weights' names and shapes do not match the model's.
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
        """Compute each layer's relative change: the norm of the change divided by the norm of the weights.

        The key "others" covers all weights outside the layers.

        Raises:
            LensFVError: see `own_weights`.
        """
        blocks, own = f"{model.tl.adapter.component_mapping['blocks'].name}.", own_weights(model)
        sizes: dict[str, list[float]] = {str(layer): [0.0, 0.0] for layer in range(model.n_layers)} | {"others": [0.0, 0.0]}
        for name, weight in own.items():
            at = sizes[name[len(blocks) :].partition(".")[0] if name.startswith(blocks) else "others"]
            at[1] += float(weight.float().square().sum())
            at[0] += float(self.change(name).square().sum()) if name in self.names else 0.0
        return {layer: (moved / whole) ** 0.5 if whole else 0.0 for layer, (moved, whole) in sizes.items()}

    def export(self, model: LensModel, folder: str | Path, *, force: bool = False) -> Path:
        """Write the updated model to a folder that transformers and `load_model` can load.

        Raises:
            LensFVError: the folder exists already, or any error of `applied`.
        """
        with atomic_folder(folder, what="export") as beside, self.applied(model, force=force), quiet_transformers():
            plain_model(model).save_pretrained(beside)
            plain_tokenizer(model).save_pretrained(beside)
        return Path(folder)

    def export_adapter(self, model: LensModel, folder: str | Path) -> Path:
        """Write a low-rank update as a PEFT adapter (LoRA), for `PeftModel.from_pretrained`.

        Raises:
            LensFVError: the update contains full-rank changes, is empty or belongs to another model, or the folder exists
                already.
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
            if type(modules[module]).__name__ == "Conv1D":  # GPT-2 stores its weight matrices transposed
                up, down = down.T, up.T
            for which, part in (("A", down), ("B", up)):
                weights[f"base_model.model.{module}.lora_{which}.weight"] = part.contiguous()
        most = max(ranks.values())
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=most,
            lora_alpha=most,  # the stored factors already include the scale
            rank_pattern={module: rank for module, rank in ranks.items() if rank != most},
            alpha_pattern={module: rank for module, rank in ranks.items() if rank != most},
            target_modules=list(ranks),
            fan_in_fan_out=any(type(modules[module]).__name__ == "Conv1D" for module in ranks),
            inference_mode=True,
            base_model_name_or_path=model.name,
        )
        with atomic_folder(folder, what="export") as beside:
            config.save_pretrained(str(beside))
            save_file(weights, beside / "adapter_model.safetensors", metadata={"format": "pt"})
        return Path(folder)

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per changed weight: the norm of its change, and its rank (empty for full-rank changes)."""
        return data_frame(
            {
                "weight": name,
                "rank": len(self.down[name]) if name in self.down else None,
                "norm": float(self.change(name).norm()),
            }
            for name in self.names
        )

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        skipped = ", ".join(f"{n} {what}" for what, n in self.skipped.items() if n) or "none"
        return super().summary() | {"weights": f"{len(self.dense)} whole, {len(self.up)} of low rank", "skipped": skipped}
