"""Progress where there is no terminal: log lines now and then, and a bar in a notebook."""

import logging

import pytest

from lens_fv.core import progress
from lens_fv.core.progress import progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes when a test says so."""
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def lines(caplog: pytest.LogCaptureFixture, clock: list[float], steps: int, seconds: float, *, show: bool = True) -> list[str]:
    with caplog.at_level(logging.INFO, "lens_fv"), progress_bar("library", steps, show=show) as tick:
        for _ in range(steps):
            clock[0] += seconds
            tick()
    return caplog.messages


def test_a_line_after_every_tenth(caplog, clock):
    said = lines(caplog, clock, 116, 3.0)
    assert said[:2] == ["library: 10 of 116, about 5 min 18 s left", "library: 20 of 116, about 4 min 48 s left"]
    assert len(said) == 11


def test_a_line_after_half_a_minute_where_a_tenth_takes_longer(caplog, clock):
    said = lines(caplog, clock, 1000, 20.0)
    assert said[:2] == ["library: 2 of 1000, about 5 h 32 min left", "library: 4 of 1000, about 5 h 32 min left"]


@pytest.mark.parametrize(("steps", "seconds", "show"), [(100, 0.001, True), (100, 3.0, False)])
def test_nothing_is_said_of_what_is_soon_done_or_not_to_be_shown(caplog, clock, steps, seconds, show):
    assert lines(caplog, clock, steps, seconds, show=show) == []


def test_a_notebook_has_a_bar_below_the_cell_that_goes_when_it_is_done():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = """
    from IPython.display import publish_display_data
    from lens_fv.core.progress import progress_bar
    import lens_fv.core.progress, IPython
    with progress_bar("a < b", 2, show=True) as tick:
        tick()
        print("begun")
    """
    import textwrap

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(code))])
    shown: list[str] = []

    class Client(nbclient.NotebookClient):
        def process_message(self, msg, cell, cell_index):  # type: ignore[no-untyped-def]
            shown.append(str(msg["content"].get("data", {}).get("text/html", "")))
            return super().process_message(msg, cell, cell_index)

    Client(notebook).execute()
    bars = [each for each in shown if "<progress" in each]
    assert bars[0] == "a &lt; b <progress value='0' max='2'></progress> 0/2"
    bar, text = notebook.cells[0].outputs
    assert (bar["data"]["text/html"], text["text"]) == ("", "begun\n")
