"""What all tests share: tiny models (see `architectures`), and the order in which files run."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from architectures import COMMON, random_weights, write_llama, write_tokenizer
from transformer_lens.model_bridge import TransformerBridge

from lens_fv.model import LensModel

SLOWEST = (
    "real/test_knowledge",
    "real/test_readme",
    "real/test_vectors",
    "studies/test_knowledge_study",
    "studies/test_guided_study",
    "real/test_default_model",
    "cli/test_commands",
    "cli/test_training_cli",
    "studies/test_relational",
    "studies/test_instruction_study",
)
"""Files that take longest: they are begun first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Here and not as an option of pytest's in pyproject.toml, where any other -m would replace it.
    if "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    place = {f"{name}.py": i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.relative_to(Path(__file__).parent).as_posix(), len(place)))


@pytest.fixture(scope="module", autouse=True)
def what_is_loaded_stays() -> None:
    """Garbage collections need not look through it: accelerate asks for one whenever a training begins, half a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a byte-level tokenizer: TransformerLens wants one that has been saved and reloaded."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def huggingface_model() -> Callable[..., transformers.PreTrainedModel]:
    """`huggingface_model("llama")`: the same weights as `tiny_model("llama")`, without TransformerLens."""
    return random_weights


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Path) -> Iterator[Callable[..., LensModel]]:
    """`tiny_model("llama")`: a random model of that family (built once), wrapped; `fresh=True` builds another.

    A test that changes weights takes a fresh one: what is shared must be at the end as it was built.
    """
    built: dict[str, LensModel] = {}
    before: dict[str, dict[str, torch.Tensor]] = {}

    def weights(model: LensModel) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in model.tl.named_parameters()}

    def build(architecture: str = "llama", *, fresh: bool = False, seed: int = 0) -> LensModel:
        if architecture in built and not fresh:
            return built[architecture]
        hf = random_weights(architecture, seed)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer)
        bridge = TransformerBridge.boot_transformers(f"tiny-{architecture}", hf_model=hf, tokenizer=tokenizer)
        model = LensModel.wrap(bridge, name=f"tiny-{architecture}", prepend_bos=True)
        if not fresh:
            built[architecture], before[architecture] = model, weights(model)
        return model

    yield build
    for architecture, model in built.items():
        now, then = weights(model), before[architecture]
        unchanged = now.keys() == then.keys() and all(torch.equal(now[name], then[name]) for name in now)
        assert unchanged, f"a test has changed the shared tiny {architecture}"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Llama, as a user would have one."""
    return write_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(params=COMMON)
def any_model(request: pytest.FixtureRequest, tiny_model: Callable[..., LensModel]) -> LensModel:
    """A tiny random model of the common families in turn."""
    return tiny_model(request.param)
