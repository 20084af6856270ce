"""What is drawn is what was measured."""

import numpy as np
import pytest

from lens_fv.errors import LensFVError
from lens_fv.evaluation.alignment import SimilarityMatrix
from lens_fv.plotting import plot_similarities


def made(n: int) -> SimilarityMatrix:
    values = np.random.default_rng(0).normal(size=(n, n))
    values = values + values.T
    values[0, 1] = values[1, 0] = np.nan
    return SimilarityMatrix(tuple(f"r{i}" for i in range(n)), values)


def test_items_are_ordered_by_class():
    matrix = made(5)
    drawn = plot_similarities(matrix, ["x", "y", "x", "z", "y"])
    order = [0, 2, 1, 4, 3]
    (cells,) = drawn.data
    assert list(drawn.layout.xaxis.ticktext) == list(drawn.layout.yaxis.ticktext) == [f"r{i}" for i in order]
    for i, a in enumerate(order):
        for j, b in enumerate(order):
            hidden = a == b or {a, b} == {0, 1}
            assert cells.z[i][j] == (None if hidden else matrix.values[a, b])
    assert cells.text[0][1] == f"r0 (x), r2 (x): {matrix.values[0, 2]:+.3f}"
    assert cells.text[0][2] == "r0 (x), r1 (y): not compared"
    lines = {(s.x0, s.y0) for s in drawn.layout.shapes}
    assert lines == {(1.5, -0.5), (3.5, -0.5), (-0.5, 1.5), (-0.5, 3.5)}
    shown = [abs(v) for row in cells.z for v in row if v is not None]
    assert drawn.layout.coloraxis.cmax == -drawn.layout.coloraxis.cmin == max(shown)


def test_many_items_are_written_by_class():
    drawn = plot_similarities(made(70), ["x"] * 30 + ["<b>"] * 40)
    assert list(drawn.layout.xaxis.ticktext) == ["x", "&lt;b&gt;"]
    assert list(drawn.layout.xaxis.tickvals) == [14.5, 49.5]
    with pytest.raises(LensFVError, match="3 classes"):
        plot_similarities(made(5), ["x"] * 3)
