"""Commands for composite vectors: compose, analogy."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command
from lens_fv.cli.inputs import ItemsFile, LibraryFolder, MapFile, OwnModel, Placing, notes, open_own_model
from lens_fv.cli.output import Printout, rows_of, table
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from lens_fv.evaluation import AnalogyEvaluation

PROMPT = "one_shot"
"""Condition that composites are compared with: A:B as a demonstration."""


@command
def compose(
    pair: Annotated[Sequence[str], Parameter(help="One or more pairs A:B of the relation to compose.")],
    *,
    library: LibraryFolder,
    model: OwnModel = None,
    placing: Placing,
    query: Sequence[str] | None = None,
    weight_map: MapFile = None,
    options: Annotated[Options, OptionsOf("lens_fv:compose")],
    out: Path = Path("composite.safetensors"),
) -> Printout:
    """Compose a vector for the relation between A and B from the vectors of known relations.

    Writes the vector to --out.

    Args:
        query: Word to complete with the composite vector; repeatable.
        out: Vector file to write.
    """
    import torch

    parts = [text.split(":") for text in pair]
    if any(len(part) != 2 for part in parts):
        raise LensFVError(f"compose from {' '.join(pair)}: give pairs as A:B, such as hot:cold")
    vectors = fv.VectorLibrary.load(library)
    fitted = None if weight_map is None else fv.composition.WeightMap.load(weight_map)
    lens = open_own_model(vectors, model, placing)
    vector = fv.compose(lens, vectors, [fv.Pair(a, (b,)) for a, b in parts], weight_map=fitted, **options)
    path = vector.save(out)
    completions: dict[str, list[str]] = {}
    for word in query or []:
        prompt = fv.tasks.encode_prompt(lens, fv.tasks.zero_shot(fv.Pair(word, ("?",))))
        with vector.applied(lens), torch.no_grad():
            likeliest = lens.forward(torch.tensor([prompt.tokens]))[0, -1].topk(5).indices.tolist()
        completions[word] = [lens.decode(token).strip() for token in likeliest]
    payload = {
        "model": lens.name,
        "pairs": pair,
        "weights": dict(vector.top(len(vector.names))),
        "entropy": vector.entropy,
        "coverage": vector.coverage,
        "stability": vector.stability,
        "completions": completions,
        "file": str(path),
    }
    lines = [f"{word}: {', '.join(words)}" for word, words in completions.items()]
    return Printout(payload, repr(vector), *lines, f"written to {path}")


@command
def analogy(
    *,
    library: LibraryFolder,
    file: Path | None = None,
    task: Sequence[str] | None = None,
    making: Annotated[Options, OptionsOf("lens_fv.studies.relational.problems:reported_analogies", leave_out=("n_choices",))],
    model: OwnModel = None,
    placing: Placing,
    weight_map: MapFile = None,
    options: Annotated[Options, OptionsOf("lens_fv:evaluate_analogies")],
    out: ItemsFile = None,
) -> Printout:
    """Solve analogies A:B::C:? by composite vectors and their controls, in total and per relation.

    Writes nothing unless --out is given.

    Args:
        file: File of analogies: JSON lines, CSV, Google's format or SAT-style text.
        task: Relation to build analogies from, using its test pairs; repeatable; default: all in the library.
    """
    from lens_fv.studies.relational.problems import reported_analogies

    if file is not None and (task or "most" in making):
        raise LensFVError(f"solve the analogies in {file}: --task and --most are for analogies of relations; leave them out")
    vectors = fv.VectorLibrary.load(library)
    maps = {} if weight_map is None else {"fitted": fv.composition.WeightMap.load(weight_map)}
    problems = fv.tasks.load_analogies(file) if file else reported_analogies(task or vectors.names, **making)
    lens = open_own_model(vectors, model, placing)
    solved = fv.evaluate_analogies(lens, vectors, problems, maps=maps, **options, progress=True)
    written = None if out is None else str(solved.save(out))
    far, parts = solved.far(), {"all": rows_of(solved.results), "near": [], "far": []}
    if far.any() and not far.all():
        for name, among in (("near", ~far), ("far", far)):
            parts[name] = rows_of(solved.result(condition, among) for condition in solved.conditions)
    compared = [condition for name in ("composite", *maps) for condition in (name, f"{PROMPT}_{name}")]
    differences = _differences(solved, compared)
    payload = {
        "model": lens.name,
        "analogies": len(problems),
        "results": parts["all"],
        "near": parts["near"],
        "far": parts["far"],
        "by_relation": {
            name: rows_of(solved.result(condition, among) for condition in solved.conditions)
            for name, among in solved.by_relation().items()
        },
        "differences": differences,
        "file": written,
    }
    tables = [table(rows, title=f"{name}: {rows[0]['n']} analogies") for name, rows in parts.items() if rows]
    tables.append(_relations(solved, ("none", "best", "composite", *maps, PROMPT)))
    title = f"less {PROMPT}, analogy by analogy: {len(solved.relations)} analogies"
    return Printout(payload, *tables, table(differences, title=title, without=("than", "n")), *notes({}, written))


def _differences(solved: "AnalogyEvaluation", conditions: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for condition in conditions:
        for measure in ("top1", "logprob"):
            difference = solved.difference(condition, PROMPT, measure=measure)
            rows.append({"condition": condition, "than": PROMPT, "measure": measure, **difference._asdict()})
    return rows


def _relations(solved: "AnalogyEvaluation", conditions: Sequence[str]) -> Any:
    """Make the table of first-token accuracy per relation, with the composite's difference from the prompt."""
    rows: list[dict[str, Any]] = []
    for name, among in solved.by_relation().items():
        shares = {condition: solved.result(condition, among).top1.mean for condition in conditions}
        (paired,) = rows_of([solved.difference("composite", PROMPT, mask=among)])
        difference = {"difference" if key == "mean" else key: value for key, value in paired.items()}
        rows.append({"relation": name or "(none given)", "n": difference.pop("n"), **shares, **difference})
    return table(rows, title=f"top-1 by relation, and composite less {PROMPT} (analogy by analogy)")


COMMANDS = (compose, analogy)
