"""What is drawn is what was swept."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lens_fv.core.artefact import Provenance
from lens_fv.plotting.sweeps import plot_injection
from lens_fv.vectors.sweep import InjectionSweep

HOSTILE = "<script>alert(1)</script>"


def made(task: str = "toy") -> InjectionSweep:
    """Twelve items, layers 2 and 10, three scales; layer 10 at scale 2 is best."""
    rng = torch.Generator().manual_seed(0)
    chance = torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.9, 0.1]])
    top1 = torch.rand(12, 2, 3, generator=rng) < chance
    logprob = -3 + 2 * chance - torch.rand(12, 2, 3, generator=rng)
    plain = torch.arange(12) < 3
    provenance = Provenance("tiny", None, "raw", "float32", True, (12, 3, 8, 4), task, "t", "p", 0, "made up")
    return InjectionSweep(
        provenance, (2, 10), (0.5, 2.0, 4.0), "resid_post", "validation", top1, top1, logprob, plain, plain, -torch.ones(12)
    )


@pytest.mark.parametrize(("measure", "plain", "unit"), [("top1", 0.25, "accuracy"), ("logprob", -1.0, "nats")])
def test_cells_are_what_is_won_over_no_vector(measure: Any, plain: float, unit: str) -> None:
    sweep = made()
    figure = plot_injection(sweep, measure=measure)
    cells, mark = figure.data
    expected = getattr(sweep, measure).double().mean(0).T - plain
    torch.testing.assert_close(torch.tensor(cells.z, dtype=torch.double), expected)
    assert list(cells.x) == ["2", "10"] and list(cells.y) == ["0.5", "2", "4"]
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "category"  # or "10" would stand far from "2"
    assert (list(mark.x), list(mark.y)) == (["10"], ["2"])
    axis = figure.layout.coloraxis
    assert axis.cmax == -axis.cmin == pytest.approx(float(expected.abs().max()))
    assert unit in axis.colorbar.title.text


def test_hover_gives_the_cell_with_its_intervals() -> None:
    sweep = made()
    text = plot_injection(sweep).data[0].text[1][0]
    cell = sweep.cells()[1]
    assert text.startswith(f"layer 2, scale 2: accuracy {cell.top1:.3f}")
    assert f"{cell.logprob_per_answer:.3f}" in text


def test_a_vector_at_its_heads_has_one_column() -> None:
    sweep = made()
    values = {name: getattr(sweep, name)[:, :1] for name in ("top1", "exact_match", "logprob")}
    figure = plot_injection(replace(sweep, layers=(10,), site="heads", **values))
    assert list(figure.data[0].x) == list(figure.data[1].x) == ["its heads"]
    assert figure.data[0].text[0][0].startswith("its heads, scale 0.5")


def test_a_sweep_that_wins_nothing_is_still_drawn() -> None:
    sweep = made()
    flat = replace(sweep, logprob=-torch.ones(12, 2, 3))
    assert plot_injection(flat, measure="logprob").layout.coloraxis.cmax == 1


def test_hostile_names_are_escaped() -> None:
    drawn = str(plot_injection(made(HOSTILE)).to_dict())
    assert "&lt;script&gt;" in drawn and "<script" not in drawn
