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


@contextmanager
def trainable(model: LensModel, settings: DistillConfig) -> Iterator[tuple[Any, Callable[[], Change]]]:
    """Yield a transformers model of the same weights, ready to train, and a function that returns their change."""
    plain = plain_model(model, dropout=settings.dropout)
    layers = None if settings.layers is None else [model.check_layer(layer) for layer in settings.layers]
    blocks = f"{model.tl.adapter.component_mapping['blocks'].name}."

    def asked(name: str) -> bool:
        return name.startswith(blocks) and (layers is None or int(name[len(blocks) :].partition(".")[0]) in layers)

    if settings.update == "lora":
        yield _adapted(plain, settings, asked)
        return
    chosen = {name: parameter for name, parameter in plain.named_parameters() if layers is None or asked(name)}
    with _copied(chosen) as before, exclusive(model, "is being taught") as gate:

        @torch.no_grad()
        def put_back() -> None:
            for name, parameter in chosen.items():
                parameter.copy_(before(name))

        gate.afterwards(put_back)
        for parameter in chosen.values():
            parameter.requires_grad_(True)

        def change() -> Change:
            found: dict[str, Tensor] = {}
            for name, parameter in chosen.items():
                parameter.grad = None
                moved = parameter.detach().cpu().float() - before(name).float()
                if bool(moved.any()):
                    found[name] = moved
            return Change(found, {}, {})

        yield plain, change


@contextmanager
def _copied(weights: Mapping[str, Tensor]) -> Iterator[Callable[[str], Tensor]]:
    """Copy the weights to a file and yield a function that reads them one by one, because training is limited by memory."""
    with TemporaryDirectory() as aside:
        file = Path(aside) / "before.safetensors"
        save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, file)
        with safe_open(file, framework="pt") as copies:
            yield copies.get_tensor


def _adapted(plain: Any, settings: DistillConfig, asked: Callable[[str], bool]) -> tuple[Any, Callable[[], Change]]:
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(settings.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        # MLPs store facts as well.
        target_modules=[name for name, each in plain.named_modules() if isinstance(each, (nn.Linear, Conv1D)) and asked(name)],
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,
        bias="none",
    )
    trained: Any = get_peft_model(plain, config)

    def change() -> Change:
        down: dict[str, Tensor] = {}
        up: dict[str, Tensor] = {}
        modules: dict[str, Any] = dict(trained.base_model.model.named_modules())
        for name, module in modules.items():
            if hasattr(module, "lora_A"):
                first, second = module.lora_A["default"].weight.float(), module.lora_B["default"].weight.float()
                second = second * module.scaling["default"]
                # GPT-2 stores its weight matrices transposed
                first, second = (second.T, first.T) if module.fan_in_fan_out else (first, second)
                down[f"{name}.weight"], up[f"{name}.weight"] = (x.detach().cpu().contiguous() for x in (first, second))
        return Change({}, down, up)

    return trained, change
