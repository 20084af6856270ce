"""Weight updates: what training adds to a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lens_fv.core.artefact import Artefact
from lens_fv.core.choices import Finite, checked
from lens_fv.core.files import atomic_folder
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.knowledge.change import layer_of
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import own_weights, plain_model, plain_tokenizer, weights_written
from lens_fv.model.quiet import quiet_transformers


@dataclass(frozen=True, repr=False, eq=False)
class WeightDelta(Artefact):
    """An update to some of a model's weights, keyed by their names in transformers.

    Attributes:
        dense: Full-rank changes, added to the weights.
        down, up: Factors of low-rank changes: `up` (out x rank) times `down` (rank x in) is added to the weight.
        skipped: Number of sentences or entities left out of training, by reason.

    Raises:
        LensFVError: low-rank factors that do not match.
    """

    dense: Mapping[str, Tensor]
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    skipped: Mapping[str, int]

    def __post_init__(self) -> None:
        """Check that the low-rank factors match."""
        unmatched = self.down.keys() ^ self.up.keys()
        unmatched |= {name for name in self.down.keys() & self.up.keys() if len(self.down[name]) != self.up[name].shape[1]}
        if unmatched:
            raise LensFVError(f"weight delta: the low-rank parts of {', '.join(sorted(unmatched)[:3])} do not fit each other")

    def __len__(self) -> int:
        """Number of weights that the update changes."""
        return len(self.names)

    def __add__(self, other: "WeightDelta") -> "WeightDelta":
        """Return the sum of both updates."""
        both = (self, other)
        dense = {name: self.dense.get(name, 0) + other.dense.get(name, 0) for name in (*self.dense, *other.dense)}
        parts = [f"{p.method} {p.task_hash} seed {p.seed}" for p in (self.provenance, other.provenance)]
        return replace(
            self,
            provenance=replace(self.provenance, method="sum", options={"of": parts}),
            dense={name: torch.as_tensor(change) for name, change in dense.items()},
            down={n: torch.cat([delta.down[n] for delta in both if n in delta.down]) for n in (*self.down, *other.down)},
            up={n: torch.cat([delta.up[n] for delta in both if n in delta.up], 1) for n in (*self.up, *other.up)},
            skipped={
                reason: self.skipped.get(reason, 0) + other.skipped.get(reason, 0) for reason in (*self.skipped, *other.skipped)
            },
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
            model: Model that the update was made for. Blocks of several updates may be nested.
            scale: Factor by which the update is multiplied.
            force: Allow a different model with weights of the same shapes.

        Raises:
            LensFVError: the update belongs to another model, or its weights' names and shapes do not match the model's.
        """
        if not force:
            self.provenance.check(model, what="an update", weights=model.beneath)
        weights = own_weights(model)
        values: dict[str, Tensor] = {}
        for name in self.names:
            change = self.change(name)  # `weights_written` reports a name that the model lacks
            values[name] = weights[name].float() + scale * change.to(weights[name].device) if name in weights else change
        with weights_written(model, values):
            yield

    def by_layer(self, model: LensModel) -> dict[str, float]:
        """Compute each layer's relative change: the norm of the change divided by the norm of the weights.

        The key "others" covers all weights outside the layers.

        Raises:
            LensFVError: see `own_weights`.
        """
        places = [*map(str, range(model.n_layers)), "others"]
        changes, norms = dict.fromkeys(places, 0.0), dict.fromkeys(places, 0.0)  # sums of squares
        for name, weight in own_weights(model).items():
            layer = layer_of(model, name)
            place = "others" if layer is None else str(layer)
            norms[place] += float(weight.float().square().sum())
            changes[place] += float(self.change(name).square().sum()) if name in self.names else 0.0
        return {place: (changes[place] / norms[place]) ** 0.5 if norms[place] else 0.0 for place in places}

    def export(self, model: LensModel, folder: str | Path, *, force: bool = False) -> Path:
        """Write the updated model to a folder that transformers and `load_model` can load.

        Raises:
            LensFVError: the folder exists already, or any error of `applied`.
        """
        with atomic_folder(folder, what="export") as temporary, self.applied(model, force=force), quiet_transformers():
            plain_model(model).save_pretrained(temporary)
            plain_tokenizer(model).save_pretrained(temporary)
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
        plain = plain_model(model)
        transposed = [name for name, module in plain.named_modules() if type(module).__name__ == "Conv1D"]  # in GPT-2
        ranks: dict[str, int] = {}
        weights: dict[str, Tensor] = {}
        for name, up in self.up.items():
            module, down = name.removesuffix(".weight"), self.down[name]
            ranks[module] = len(down)
            a, b = (up.T, down.T) if module in transposed else (down, up)
            weights[f"base_model.model.{module}.lora_A.weight"] = a.contiguous()
            weights[f"base_model.model.{module}.lora_B.weight"] = b.contiguous()
        max_rank = max(ranks.values())
        other_ranks = {module: rank for module, rank in ranks.items() if rank != max_rank}
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=max_rank,
            lora_alpha=max_rank,  # the stored factors already include the scale
            rank_pattern=other_ranks,
            alpha_pattern=other_ranks,
            target_modules=list(ranks),
            fan_in_fan_out=any(module in transposed for module in ranks),
            inference_mode=True,
            base_model_name_or_path=model.name,
        )
        with atomic_folder(folder, what="export") as temporary:
            config.save_pretrained(str(temporary))
            save_file(weights, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        return Path(folder)

    def to_dataframe(self) -> DataFrame:
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
        skipped = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items() if n) or "none"
        return super().summary() | {"weights": f"{len(self.dense)} whole, {len(self.up)} of low rank", "skipped": skipped}
