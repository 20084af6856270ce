"""A report is one file that asks the network for nothing."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest

from lens_fv.errors import LensFVError
from lens_fv.heads import HeadRanking
from lens_fv.plotting import Section, plot_heads, plot_top_heads, save_figures, theme, write_report

HOSTILE = "</script><script>alert('&')</script>"


class Page(HTMLParser):
    """Start tags with their attributes, and the text of each script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text: list[str] = []
        self._script: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = (dict(attrs).get("id") or f"script-{len(self.tags)}") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def page(tmp_path: Path, ranking: HeadRanking) -> Page:
    table = (["relation", "top-1", "items"], [["<antonym>", 0.25, 20], ["other", 0.5, 20]])
    sections = [
        Section(
            f"Heads {HOSTILE}",
            f"One {HOSTILE}.\n\nTwo & three.",
            {"heads": plot_heads(ranking), "top-heads": plot_top_heads(ranking)},
        ),
        Section("More", "<em>kept</em>", {"bar": go.Figure(go.Bar(x=[HOSTILE], y=[1]))}, table, html=True),
    ]
    path = write_report(tmp_path / "new" / "report.html", title=HOSTILE, intro_html="<p>Intro</p>", sections=sections)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return Page(path.read_text(encoding="utf-8"))


def test_report_loads_nothing(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "srcset"):
            assert (attributes.get(name) or "").partition(":")[0] in ("", "#part-1", "#part-2", "data"), (tag, attributes)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy


def test_report_holds_plotly_once_and_every_figure(page: Page, ranking: HeadRanking) -> None:
    assert sum(len(text) > 1_000_000 for text in page.scripts.values()) == 1
    figures = [json.loads(page.scripts[f"figure-{i}-data"]) for i in (1, 2, 3)]
    assert figures[0]["data"][0]["z"] == [pytest.approx(row) for row in ranking.mean.T.tolist()]
    assert figures[2]["data"][0]["x"] == [HOSTILE]
    assert all("template" not in figure["layout"] for figure in figures)
    assert set(json.loads(page.scripts["templates"])) == {"light", "dark"}


def test_report_uploads_nothing_at_a_click(page: Page) -> None:
    driver = next(text for text in page.scripts.values() if "newPlot(div" in text)
    assert "sendChartToCloud" in re.findall(r"modeBarButtonsToRemove: \[(.*?)\]", driver)[0]


def test_report_escapes_plain_text_and_keeps_trusted_html(page: Page) -> None:
    # templates, plotly, the driver and three figures: none of the hostile ones
    assert page.count("script") == 6 == len(page.scripts)
    assert page.text.count(HOSTILE) == 2, "the page's title and its heading"
    assert f"One {HOSTILE}." in page.text and "Two & three." in page.text
    assert page.count("em") == 1


def test_report_table_names_rows_and_columns(page: Page) -> None:
    heads = [a for tag, a in page.tags if tag == "th"]
    assert [a["scope"] for a in heads] == ["col"] * 3 + ["row"] * 2
    assert "<antonym>" in page.text and "0.250" in page.text and "20" in page.text


def test_report_without_figures_is_small(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", title="t", sections=[Section("a", "b")])
    assert path.stat().st_size < 10_000 and Page(path.read_text(encoding="utf-8")).count("script") == 0


def test_uneven_table_is_refused() -> None:
    with pytest.raises(LensFVError, match="row 2 has 1 cells, the header has 2"):
        Section("a", table=(["x", "y"], [[1, 2], [3]]))


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LensFVError, match="folder that can be written to"):
        write_report(tmp_path / "file" / "r.html", title="t", sections=[])


def test_save_figures_writes_pages_and_data_with_plotly_once(tmp_path: Path, ranking: HeadRanking) -> None:
    with theme("dark"):
        figure = plot_heads(ranking)
    paths = save_figures({"heads": figure, "top": plot_top_heads(ranking)}, tmp_path / "figures")
    assert [p.name for p in paths] == ["heads.html", "heads.json", "top.html", "top.json"]
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {p.name for p in paths} | {"plotly.min.js"}
    page = Page(paths[0].read_text(encoding="utf-8"))
    assert [a["src"] for tag, a in page.tags if tag == "script" and "src" in a] == ["plotly.min.js"]
    assert go.Figure(json.loads(paths[1].read_text(encoding="utf-8"))) == figure


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
def test_figure_names_that_are_no_file_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(LensFVError, match="save a figure as"):
        save_figures({name: go.Figure()}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_static_images_without_chrome_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-chrome"))
    with pytest.raises(LensFVError, match=r"lens-fv\[figures\] and Chrome") as caught:
        save_figures({"a": go.Figure()}, tmp_path / "out", static=True)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.html", "a.json", "plotly.min.js"]


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="draws with Chrome")
@pytest.mark.filterwarnings("default")  # of kaleido's own temporary folders
def test_static_images_have_the_size_of_the_figure(tmp_path: Path) -> None:
    pytest.importorskip("kaleido")
    paths = save_figures({"a": go.Figure(layout={"width": 300, "height": 200})}, tmp_path, static=True)
    assert [p.suffix for p in paths] == [".html", ".json", ".png", ".svg"]
    png = paths[2].read_bytes()
    assert png[:4] == b"\x89PNG" and (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (900, 600)
    assert 'width="300" height="200"' in paths[3].read_text(encoding="utf-8")
