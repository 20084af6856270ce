"""HTML pages with figures: light or dark by the reader's setting, readable from disk, without network access."""

import json
from html import escape, unescape
from typing import Any

import plotly.graph_objects as go

from lens_fv.plotting.theme import template

# The page may load only itself, so that the browser blocks any external resource that slipped in.
_POLICY = "default-src 'none'; script-src {scripts} 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #57606a; --rule: #d8dce1; --paper: #ffffff; --band: #f6f8fa;
  --link: #0a5ca8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a3abb5; --rule: #3a4048; --paper: #16191d; --band: #1e2227; --link: #7fb8ea }
}
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, "Helvetica Neue", Arial, sans-serif }
h1 { font-size: 1.75rem; line-height: 1.25; margin: .5rem 0 1rem }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--rule) }
p, li { max-width: 46rem }
a { color: var(--link) }
code, pre { font-size: .9em; background: var(--band) }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem }
figure { margin: 1.25rem 0; overflow-x: auto }
figure > div { min-width: 36rem }
figure > p { color: var(--soft) }
.wide { overflow-x: auto; margin: 1.25rem 0 }
table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .3rem .75rem; text-align: left; border-bottom: 1px solid var(--rule); font-weight: normal;
  vertical-align: top }
thead th { font-weight: 600; border-bottom-width: 2px }
.number, .number + th { text-align: right; font-variant-numeric: tabular-nums }
@media print { section, figure, tr { break-inside: avoid } }
"""

# Figures on a page carry no template of their own: the reader's colour scheme selects it, and may change at any time.
_SCRIPT = """
const templates = JSON.parse(document.getElementById("templates").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const template = () => templates[dark.matches ? "dark" : "light"];
const drawn = [...document.querySelectorAll("figure > div")];
for (const div of drawn) {
  const { data, layout } = JSON.parse(document.getElementById(div.id + "-data").textContent);
  div.replaceChildren();
  Plotly.newPlot(div, data, { ...layout, template: template() }, {
    responsive: true, displaylogo: false, plotlyServerURL: "",
    // Uploading is no business of a report's.
    modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: div.id },
  });
}
dark.addEventListener("change", () => drawn.forEach((div) => Plotly.relayout(div, { template: template() })));
"""


def figure_html(figure: go.Figure, name: str) -> str:
    """Write a figure's HTML element and its data."""
    content: dict[str, Any] = json.loads(str(figure.to_json()))
    content["layout"].pop("template", None)
    return (
        f'<figure role="group" aria-label="{_label(content)}"><div id="{name}">'
        "<p>This figure is drawn by the page's own JavaScript, which is switched off.</p></div>"
        f'<script type="application/json" id="{name}-data">{_json(content)}</script></figure>\n'
    )


def page_html(title: str, body: str, *, library: str | None = None, library_file: str | None = None) -> str:
    """Write a complete page.

    Args:
        title: title as plain text.
        body: content as HTML.
        library: source code of plotly, embedded in the page once.
        library_file: alternatively, the name of a file in the page's folder that contains plotly.
    """
    scripts = ""
    if library or library_file:
        source = f'<script src="{escape(library_file)}"></script>' if library_file else f"<script>{library}</script>"
        themes = _json({name: template(name).to_plotly_json() for name in ("light", "dark")})
        scripts = f'<script type="application/json" id="templates">{themes}</script>\n{source}\n<script>{_SCRIPT}</script>\n'
    policy = _POLICY.format(scripts="'self' file:" if library_file else "")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n{scripts}</body>\n</html>\n"
    )


def title_of(figure: go.Figure) -> str:
    """Title of a figure as plain text; "" if it has none."""
    return unescape(figure.to_plotly_json()["layout"].get("title", {}).get("text") or "")


def _label(content: dict[str, Any]) -> str:
    return escape(unescape(content["layout"].get("title", {}).get("text") or "figure"))


def _json(value: Any) -> str:
    """Encode JSON so that it cannot close the surrounding script element."""
    return json.dumps(value, default=list).replace("<", "\\u003c")
