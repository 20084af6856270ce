"""Select the weights to train, and read out how training changed them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lens_fv.knowledge.settings import DistillConfig
from lens_fv.model.exclusive import exclusive
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model


class Change(NamedTuple):
    """Changes to weights, keyed by their names in transformers: `dense` plus `up` @ `down` is added to a weight."""

    dense: Mapping[str, Tensor]
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]


def layer_of(model: LensModel, name: str) -> int | None:
    """Return the layer of a weight or module, by its name in transformers; None outside the layers."""
    blocks = f"{model.tl.adapter.component_mapping['blocks'].name}."
    return int(name[len(blocks) :].partition(".")[0]) if name.startswith(blocks) else None


@contextmanager
def trainable(model: LensModel, settings: DistillConfig) -> Iterator[tuple[Any, Callable[[], Change]]]:
    """Yield a transformers model of the same weights, ready to train, and a function that returns their change."""
    plain = plain_model(model, dropout=settings.dropout)
    layers = None if settings.layers is None else [model.check_layer(layer) for layer in settings.layers]

    def selected(name: str) -> bool:
        layer = layer_of(model, name)
        return layer is not None and (layers is None or layer in layers)

    if settings.update == "lora":
        yield _with_adapter(plain, settings, selected)
        return
    weights = {name: weight for name, weight in plain.named_parameters() if layers is None or selected(name)}
    with _copied(weights) as before, exclusive(model, "is being taught") as gate:

        @torch.no_grad()
        def restore() -> None:
            for name, weight in weights.items():
                weight.copy_(before(name))

        gate.afterwards(restore)
        for weight in weights.values():
            weight.requires_grad_(True)

        def change() -> Change:
            dense: dict[str, Tensor] = {}
            for name, weight in weights.items():
                weight.grad = None
                difference = weight.detach().cpu().float() - before(name).float()
                if bool(difference.any()):
                    dense[name] = difference
            return Change(dense, {}, {})

        yield plain, change


@contextmanager
def _copied(weights: Mapping[str, Tensor]) -> Iterator[Callable[[str], Tensor]]:
    """Copy the weights to a file and yield a function that reads them one by one, because training is limited by memory."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "before.safetensors"
        save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, file)
        with safe_open(file, framework="pt") as copies:
            yield copies.get_tensor


def _with_adapter(plain: Any, settings: DistillConfig, selected: Callable[[str], bool]) -> tuple[Any, Callable[[], Change]]:
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(settings.seed)
    # all linear maps of the blocks, as MLPs store facts as well
    maps = [name for name, module in plain.named_modules() if isinstance(module, (nn.Linear, Conv1D)) and selected(name)]
    alpha = settings.alpha or 2 * settings.rank
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=maps, r=settings.rank, lora_alpha=alpha, bias="none")
    student: Any = get_peft_model(plain, config)

    def change() -> Change:
        down: dict[str, Tensor] = {}
        up: dict[str, Tensor] = {}
        for name in maps:
            module = student.base_model.model.get_submodule(name)
            a, b = module.lora_A["default"].weight.float(), module.lora_B["default"].weight.float()
            b = b * module.scaling["default"]
            if module.fan_in_fan_out:  # GPT-2 stores its weight matrices transposed
                a, b = b.T, a.T
            down[f"{name}.weight"], up[f"{name}.weight"] = (factor.detach().cpu().contiguous() for factor in (a, b))
        return Change({}, down, up)

    return student, change
