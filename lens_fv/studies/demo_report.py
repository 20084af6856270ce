"""The HTML report of the demonstration."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from lens_fv.evaluation import Evaluation
from lens_fv.model.lens_model import LensModel
from lens_fv.plotting import (
    Section,
    plot_conditions,
    plot_decoded,
    plot_heads,
    plot_layers,
    plot_top_heads,
    save_figures,
    write_report,
)
from lens_fv.studies.task_study import TaskStudy


def write_demo_report(
    out: Path, model: LensModel, studies: Mapping[str, TaskStudy], evaluations: Mapping[str, Evaluation], seconds: float
) -> None:
    """Write `report.html` and `figures/` to the folder `out`."""
    figures = {"conditions": plot_conditions(evaluations), "whole-answers": plot_conditions(evaluations, measure="exact_match")}
    figures["layers"] = plot_layers(
        {name: study.by_layer for name, study in studies.items()},
        chosen={name: study.extracted.layer for name, study in studies.items()},
    )
    for name, study in studies.items():
        figures[f"{study.slug}-heads"] = plot_heads(study.ranking)
        figures[f"{study.slug}-top-heads"] = plot_top_heads(study.ranking)
        figures[f"{study.slug}-words"] = plot_decoded({f"{name}, {kind}": words for kind, words in study.decoded.items()})
    save_figures(figures, out / "figures")
    sections = [
        Section("What the vectors do", _WHAT, (figures["conditions"], figures["whole-answers"]), _results(evaluations)),
        Section("Where the extracted vector works", _WHERE, (figures["layers"],)),
    ]
    for name, study in studies.items():
        parts = tuple(figures[f"{study.slug}-{part}"] for part in ("heads", "top-heads", "words"))
        sections.append(Section(name, _task_text(study), parts))
    write_report(
        out / "report.html",
        title=f"Function vectors in {model.name}",
        intro_html=_intro(model, studies, seconds),
        sections=sections,
    )


_WHAT = """Each bar is first-token accuracy on zero-shot prompts ("Q: walk", "A:") of held-out test pairs, with its 95 % \
Wilson interval. The vector is added to the residual stream after one layer, at the last prompt token. Layer, learning \
rate and stopping step were chosen on validation pairs; nothing was chosen on the test pairs.

Controls: no vector, the k-shot prompt (what the model can do when shown examples), a random vector of the tuned vector's \
length, and the tuned vector of another relation."""

_WHERE = """First-token accuracy on validation pairs with the extracted vector added after each layer in turn; the marked \
layer, where the answers are likeliest, is the one that was used."""


def _results(evaluations: Mapping[str, Evaluation]) -> tuple[list[str], list[list[object]]]:
    header = ["relation", "condition", "top-1", "low", "high", "top-3", "exact match", "log-probability", "items"]
    rows: list[list[object]] = [
        [name, r.condition, *r.top1[:3], r.top3.mean, r.exact_match.mean, r.logprob_per_answer.mean, r.top1.n]
        for name, evaluation in evaluations.items()
        for r in evaluation.results
    ]
    return header, rows


def _task_text(study: TaskStudy) -> str:
    tuned, options = study.tuned, study.tuned.provenance.options
    examples = "; ".join(f"{pair.input} -> {pair.output}" for pair in study.split.test[:4])
    words = study.task.relation_words
    ranks = {k: ", ".join(f"{w} {d.ranks[w]}" for w in words) for k, d in study.decoded.items()}
    return f"""{len(study.task)} pairs such as {examples}.

Effect of a head: its mean output over {study.ranking.provenance.options["n_clean"]} clean prompts is put in its place on \
{len(study.ranking.effects)} prompts with shuffled labels; what that adds to the probability of the right answer \
({float(study.ranking.baseline.mean()):.3f} without).

The extracted vector sums what the {len(study.extracted.heads)} strongest heads write, and is added after layer \
{study.extracted.layer}. Tuned on {options["n_pairs"]} pairs it is added after layer {tuned.layer} (step \
{options["best_step"]} of {options["steps"]} was best on validation pairs); its length is {tuned.norm:.2f} of the residual \
stream's.

Rank of the relation's words among the vector's tokens: extracted: {ranks["extracted"]}; tuned: {ranks["tuned"]}. Decoding is \
no proxy for steering: a vector that steers well need not decode into words."""


def _intro(model: LensModel, studies: Mapping[str, TaskStudy], seconds: float) -> str:
    provenance = next(iter(studies.values())).ranking.provenance
    versions = ", ".join(f"{escape(k)} {escape(v)}" for k, v in provenance.versions.items())
    facts = f"{model.n_layers} layers x {model.n_heads} heads, {provenance.dtype} on {model.device}"
    return (
        f"<p>Which attention heads of <b>{escape(model.name)}</b> ({escape(facts)}) carry {len(studies)} relations, what their "
        "function vectors do, and what a few word pairs of fine-tuning make of them.</p>"
        f"<p>Made by <code>lens-fv demo</code> in {seconds:.0f} s, seed {provenance.seed}; weights "
        f"{escape(str(provenance.revision))}; {versions}. Every number is in <code>report.json</code>.</p>"
    )
