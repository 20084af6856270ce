"""Our own habits that a reader of English stumbles over, found in pages, docstrings, comments and help texts.

    python docs/prose.py    # every line of them; exit code 1 if there is one

Spelling is codespell's affair; this list is what no other linter knows. See CONTRIBUTING.md.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

HABITS = {
    r"\bbehind (a|an|each|every|it|its|the|this|which|other|another)\b": 'say "after"',
    r"\bbeside (a|an|each|every|it|its|the|them|that|other|another)\b": 'say "next to", "compared with" or "in addition to"',
    r"\bso manieth\b|\bso many of\b": 'give the number: "one in `every`"',
    r"\bgo(es)? on with\b|\bgone on with\b": 'say "continue" or "resume"',
    r"\b(looked at|asked about|said of)\b": "name the action: measured, evaluated, reported",
    r"\bdoes no harm\b|\bis dear\b": "say what it costs",
    r"^\s*\w+: of (the|a|an|all|its|each)\b": "begin with a noun: what is it?",
    r"(?<![.\d])\bOf (Adam|the|a|an|all|its|each) [^.]{0,40}\.$": "begin with a noun: what is it?",
}
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md")
CODE = ("lens_fv/*.py", "lens_fv/**/*.py")


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository that match."""
    listing = subprocess.run(["git", "ls-files", *patterns], capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in listing.splitlines() if not line.startswith("docs/results/")]


def prose(source: str) -> Iterator[tuple[int, str]]:
    """The lines of docstrings, comments and help texts, with their numbers."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Expr) or (isinstance(node, ast.keyword) and node.arg == "help") else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield from enumerate(value.value.splitlines(), start=value.lineno)


def main() -> int:
    """Print every place."""
    lines = [(path, *line) for path in tracked(*CODE) for line in prose(path.read_text(encoding="utf-8"))]
    for path in tracked(*PAGES):
        lines += [(path, i, line) for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)]
    n_habits = 0
    for path, number, line in lines:
        for habit, advice in HABITS.items():
            if match := re.search(habit, line):
                sys.stdout.write(f'{path}:{number}: "{match[0].strip()}": {advice}\n')
                n_habits += 1
    return int(n_habits > 0)


if __name__ == "__main__":
    raise SystemExit(main())
