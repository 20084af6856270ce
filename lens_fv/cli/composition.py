"""Commands for composite vectors: compose, analogy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command
from lens_fv.cli.inputs import ItemsFile, LibraryInput, MapInput, OwnModel, Placing, open_own_model
from lens_fv.cli.output import Printout, artefact_printout, table
from lens_fv.core.tables import table_rows
from lens_fv.errors import LensFVError

PROMPT = "one_shot"
"""Condition that composites are compared with: A:B as a demonstration."""


@command
def compose(
    pair: Annotated[Sequence[str], "One or more pairs A:B of the relation to compose."],
    *,
    library: LibraryInput,
    model: OwnModel = None,
    placing: Placing,
    query: Annotated[Sequence[str], "Word to complete with the composite vector; repeatable."] = (),
    weight_map: MapInput | None = None,
    options: Annotated[Options, OptionsOf("lens_fv:compose")],
    out: Annotated[Path, "Vector file to write."] = Path("composite.safetensors"),
) -> Printout:
    """Compose a vector for the relation between A and B from the vectors of known relations.

    Writes the vector to --out.
    """
    import torch

    parts = [text.split(":") for text in pair]
    if any(len(part) != 2 for part in parts):
        raise LensFVError(f"compose from {' '.join(pair)}: give pairs as A:B, such as hot:cold")
    lens = open_own_model(library, model, placing)
    vector = fv.compose(lens, library, [fv.Pair(a, (b,)) for a, b in parts], weight_map=weight_map, **options)
    completions: dict[str, list[str]] = {}
    for word in query:
        prompt = fv.tasks.encode_prompt(lens, fv.tasks.zero_shot(fv.Pair(word, ("?",))))
        with vector.applied(lens), torch.no_grad():
            likeliest = lens.forward(torch.tensor([prompt.tokens]))[0, -1].topk(5).indices.tolist()
        completions[word] = [lens.decode(token).strip() for token in likeliest]
    values = {name: getattr(vector, name) for name in ("entropy", "coverage", "stability")}
    values |= {"pairs": pair, "weights": dict(vector.top(len(vector.names))), "completions": completions}
    lines = [f"{word}: {', '.join(words)}" for word, words in completions.items()]
    return artefact_printout(vector, repr(vector), *lines, out=out, **values)


@command
def analogy(
    *,
    library: LibraryInput,
    file: Annotated[Path | None, "File of analogies: JSON lines, CSV, Google's format or SAT-style text."] = None,
    task: Annotated[
        Sequence[str] | None, "Relation to build analogies from, using its test pairs; repeatable; default: all in the library."
    ] = None,
    making: Annotated[Options, OptionsOf("lens_fv.composition.analogies:reported_analogies")],
    model: OwnModel = None,
    placing: Placing,
    weight_map: MapInput | None = None,
    options: Annotated[Options, OptionsOf("lens_fv:evaluate_analogies")],
    out: ItemsFile = None,
) -> Printout:
    """Solve analogies A:B::C:? by composite vectors and their controls, in total and per relation."""
    from lens_fv.composition.analogies import reported_analogies

    if file is not None and (task or "max_per_relation" in making):
        raise LensFVError(
            f"solve the analogies in {file}: --task and --max-per-relation are for analogies of relations; leave them out"
        )
    maps = {} if weight_map is None else {"fitted": weight_map}
    problems = fv.tasks.load_analogies(file) if file else reported_analogies(task or library.names, **making)
    lens = open_own_model(library, model, placing)
    solved = fv.evaluate_analogies(lens, library, problems, maps=maps, **options, progress=True)
    far = solved.far()
    halves = {"near": ~far, "far": far} if far.any() and not far.all() else {}
    parts = {"all": table_rows(solved.results), "near": [], "far": []} | _rows(solved, halves)
    composites = [condition for name in ("composite", *maps) for condition in (name, f"{PROMPT}_{name}")]
    differences = [
        {"condition": condition, "reference": PROMPT, "measure": measure}
        | solved.difference(condition, PROMPT, measure=measure)._asdict()
        for condition in composites
        for measure in ("top1", "logprob")
    ]
    by_relation = _rows(solved, solved.by_relation())
    values = {"analogies": len(problems), "results": parts["all"], "near": parts["near"], "far": parts["far"]}
    values |= {"by_relation": by_relation, "differences": differences}
    tables = [table(rows, title=f"{name}: {rows[0]['n']} analogies") for name, rows in parts.items() if rows]
    tables.append(_relations(solved, ("none", "best", "composite", *maps, PROMPT)))
    title = f"less {PROMPT}, analogy by analogy: {len(solved.relations)} analogies"
    return artefact_printout(solved, *tables, table(differences, title=title, without=("reference", "n")), out=out, **values)


def _rows(solved: "fv.evaluation.AnalogyEvaluation", masks: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Results of every condition in the parts that these masks select."""
    results = {name: [solved.result(condition, mask) for condition in solved.conditions] for name, mask in masks.items()}
    return {name: table_rows(rows) for name, rows in results.items()}


def _relations(solved: "fv.evaluation.AnalogyEvaluation", conditions: Sequence[str]) -> Any:
    """Make the table of first-token accuracy per relation, with the composite's difference from the prompt."""
    rows: list[dict[str, Any]] = []
    for name, mask in solved.by_relation().items():
        shares = {condition: solved.result(condition, mask).top1.mean for condition in conditions}
        difference, low, high, n = solved.difference("composite", PROMPT, mask=mask)
        interval = {"difference": difference, "ci_low": low, "ci_high": high}
        rows.append({"relation": name or "(none given)", "n": n, **shares, **interval})
    return table(rows, title=f"top-1 by relation, and composite less {PROMPT} (analogy by analogy)")
