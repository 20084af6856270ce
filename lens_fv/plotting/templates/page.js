// Figures on a page carry no template of their own: the reader's colour scheme selects it, and may change at any time.
const templates = JSON.parse(document.getElementById("templates").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const template = () => templates[dark.matches ? "dark" : "light"];
const drawn = [...document.querySelectorAll("figure > div")];
for (const div of drawn) {
  const { data, layout } = JSON.parse(document.getElementById(div.id + "-data").textContent);
  div.replaceChildren();
  Plotly.newPlot(div, data, { ...layout, template: template() }, {
    responsive: true, displaylogo: false, plotlyServerURL: "",
    // A report uploads nothing.
    modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: div.id },
  });
}
dark.addEventListener("change", () => drawn.forEach((div) => Plotly.relayout(div, { template: template() })));
