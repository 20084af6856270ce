"""What is drawn is what was measured."""

import pytest
import torch

from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.heads.classes import ClassEffects
from lens_fv.plotting import plot_classes, plot_heads_by_class

CLASSES = ("label", "end_of_example", "query_predictive")


def made(task: str = "toy", metric: str = "prob") -> ClassEffects:
    """Layers 0 to 20 of 3 heads; 20.1 helps at the query's last token, 4.2 hurts at labels."""
    effects = 0.01 * torch.randn(9, 21, 3, 3, generator=torch.Generator().manual_seed(0))
    effects[:, 20, 1, 2] += 0.4
    effects[:, 4, 2, 0] -= 0.6
    provenance = Provenance("tiny", None, "raw", "float32", True, (21, 3, 8, 4), task, "t", "p", 0, "made up")
    return ClassEffects(provenance, effects, torch.zeros(9), CLASSES, metric)  # pyright: ignore[reportArgumentType]


def test_each_cell_is_its_layers_strongest_head() -> None:
    effects = made()
    (cells,) = plot_classes(effects).data
    assert list(cells.x) == [str(layer) for layer in range(21)]
    assert list(cells.y) == ["label", "end of example", "query predictive"]
    assert torch.equal(torch.tensor(cells.z), effects.heatmap_data().T)
    assert cells.z[0][4] == pytest.approx(-0.6, abs=0.02)
    (best,) = effects.top(1)
    text = f"head 20.1, query predictive: effect {best.effect:+.3f}"
    assert cells.text[2][20] == text
    assert cells.text[0][4].startswith("head 4.2, label: effect -0.6")


def test_top_heads_are_drawn_once_each_from_the_best() -> None:
    effects = made()
    figure = plot_heads_by_class(effects, 4)
    (cells,) = figure.data
    heads = [tuple(map(int, name.split("."))) for name in cells.x]
    assert heads[0] == (20, 1) and len(set(heads)) == 4
    assert figure.layout.xaxis.type == "category"
    best = effects.mean.amax(2)
    assert sorted((float(best[head]) for head in heads), reverse=True) == best.flatten().topk(4).values.tolist()
    expected = torch.stack([effects.mean[head] for head in heads], 1)
    assert torch.equal(torch.tensor(cells.z), expected)
    with pytest.raises(LensFVError, match="at least 1"):
        plot_heads_by_class(effects, 0)


def test_colours_are_symmetric_around_zero_and_the_first_class_is_on_top() -> None:
    layout = plot_classes(made(metric="logprob")).layout
    assert layout.coloraxis.cmax == -layout.coloraxis.cmin == pytest.approx(0.6, abs=0.02)
    assert "nats" in layout.coloraxis.colorbar.title.text
    assert layout.yaxis.autorange == "reversed"


def test_hostile_names_are_escaped() -> None:
    for draw in (plot_classes, plot_heads_by_class):
        drawn = str(draw(made("<script>alert(1)</script>")).to_dict())
        assert "&lt;script&gt;" in drawn and "<script" not in drawn
