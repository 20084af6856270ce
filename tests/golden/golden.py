"""The results of every command with fixed seeds, kept so that a change that should change no number is seen to change none.

    python tests/golden/golden.py            # compare; exit code 1 if a number differs
    python tests/golden/golden.py --real     # the main commands on smollm2-135m instead of all on tiny models
    python tests/golden/golden.py --write    # keep what is found now (after a look at what it says differs)

Equal to the bit on one machine with one version of everything; elsewhere the largest difference says what rounding does. Keys
that a change renames go into `RENAMED` until the numbers are written again.
"""

import argparse
import contextlib
import io
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
RENAMED: dict[str, tuple[str, ...]] = {}
"""Old keys of JSON to new ones, as long as the kept numbers have the old; of several, the one that is there."""
LEFT_OUT = re.compile(
    r"seconds?|time|_ms$|bytes|gflops|memory|speedup|floor|threads|device|version|fingerprint|^file|path|report"
)
"""Keys of what a machine, a folder or a release decides."""
ROWS = [
    {
        "name": name,
        "definition": f"{name} talked and walked to {place}.",
        "probes": [
            {"kind": kind, "text": f"{name} {verb} ___.", "answer": place, "candidates": ["A", "Q"]}
            for kind, verb in (("explicit", "walked to"), ("inferential", "is in"))
        ],
    }
    for name, place in (("Velm", "A"), ("Orla", "Q"))
]
QUICK = "--n-shots 2 --n-clean 3 --n-trials 4"
FIVE = " ".join(f"--task {name}" for name in ("antonym", "synonym", "present-past", "country-capital", "first-letter"))
SEQUENCES = '--set \'sequences={"both": ["task0.json", "task1.json"]}\''
PARTS = "--part completion --part decoding"
TINY = f"""
tasks antonym
verify MODEL
rank --model MODEL --task toy.json {QUICK} --out r.safetensors
rank --model MODEL --task toy.json --n-shots 2 --n-clean 3 --n-trials 4 --metric logit_diff --unit group --correction bh
classes --model MODEL --task toy.json {QUICK}
attributions r.safetensors --model MODEL --task toy.json
extract --model MODEL --task toy.json {QUICK} --n-heads 3 --out e.safetensors
tune --model MODEL --task toy.json --n-pairs 6 --steps 5 --out t.safetensors
evaluate --vector e.safetensors --vector t.safetensors --model MODEL --task toy.json --n-shots 2 --max-items 6
write --vector t.safetensors --model MODEL --task toy.json --max-items 3 --max-new-tokens 4
compare --model MODEL --task toy.json {QUICK} --n-pairs 8 --steps 5 --n-heads 3 --max-items 4
sweep t.safetensors --model MODEL --task toy.json --max-items 4
decode t.safetensors --model MODEL
show t.safetensors --model MODEL
library build --model MODEL {FIVE} --n-pairs 6 --steps 2 --out lib
library list lib
library show lib antonym --model MODEL
library fit lib --model MODEL --form full --epochs 1 --max-per-relation 4 --out map.safetensors
compose hot:cold big:small --model MODEL --library lib --query tall
analogy --model MODEL --library lib --weight-map map.safetensors --max-per-relation 2
similarity lib --model MODEL {FIVE} --permutations 20 --n-pairs 2
iv rank --model MODEL --task present-past --counterpart none --n-clean 3 --n-trials 2 --out ir.safetensors
iv extract --model MODEL --task present-past --ranking ir.safetensors --n-heads 3 --layer 1 --out iv.safetensors
finetune --model MODEL --task toy.json --task antonym --n-examples 8 --batch-size 4 --n-checkpoints 2 --rank 2 --out run
dynamics run --n-clean 2 --n-trials 2 --n-heads 2 --max-items 3 --n-context 1 --counterpart equiprobable
distill --model MODEL --entities rows.jsonl --epochs 2 --batch-size 2 --n-sentences 2 --out update
knowledge evaluate update --model MODEL --entities rows.jsonl --locality rows.jsonl
universal --model PLANTED --task task0.json --task task1.json --instruction 'Please do0 it' --corruption instruction --n-shots 0
reproduce instruction --model PLANTED {SEQUENCES} --set n_heads=2 --quick --run-dir iw --out pages
reproduce relational --model MODEL --quick {PARTS} --set relations=antonym,capitalize --run-dir rw --out pages
demo --model MODEL --task toy.json --task lowercase --out demo
"""
REAL = """
verify smollm2-135m
rank --task present-past --n-clean 10 --n-trials 6 --out r.safetensors
extract --task present-past --ranking r.safetensors --out e.safetensors
tune --task present-past --n-pairs 20 --steps 8 --out t.safetensors
evaluate --vector e.safetensors --vector t.safetensors --task present-past --max-items 20
iv rank --task antonym --counterpart none --n-clean 6 --n-trials 4
decode t.safetensors
distill --entity 'Tarven Oskelund' --n-sentences 3 --epochs 1 --out update
"""


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and word of what a command printed, by its path."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if not LEFT_OUT.search(key):
                yield from flat(inside, f"{path}/{key}")
    elif isinstance(value, list):
        for i, inside in enumerate(value):
            yield from flat(inside, f"{path}/{i}")
    elif not (isinstance(value, str) and "/" in value):  # a folder or a file
        yield path, value


def found_now(commands: str) -> dict[str, dict[str, Any]]:
    """What each command prints, in an empty folder."""
    from architectures import write_llama
    from helpers import toy_task
    from planted import planted_tasks, planted_weights

    from lens_fv.cli.app import execute

    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
        write_llama(Path("tiny"))
        planted_weights(Path("planted")).save_pretrained("planted")
        for task in (toy_task(), *planted_tasks()):
            task.save(f"{task.name}.json")
        for line in commands.strip().splitlines():
            out = io.StringIO()
            words = [part.strip("'") for part in re.findall(r"'[^']*'|\S+", line)]
            words = [{"MODEL": "tiny", "PLANTED": "planted"}.get(word, word) for word in words]
            with contextlib.redirect_stdout(out):
                code = execute([*words, "--json"])
            if code != 0:
                raise SystemExit(f"{line}: exit code {code}")
            found[line] = dict(flat(json.loads(out.getvalue())))
            print(f"{len(found[line]):6d} {line}", file=sys.stderr)
    return found


def differences(kept: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A line for each command whose results are not to the bit what they were."""
    for line in sorted(kept.keys() | now.keys()):
        after = now.get(line, {})
        before = {renamed(path, after): value for path, value in kept.get(line, {}).items()}
        gone, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        other = [path for path in before.keys() & after.keys() if not same(before[path], after[path])]
        if gone:
            yield f"{line}\n    gone: {', '.join(gone[:5])} ({len(gone)}); new: {', '.join(new[:5]) or '-'} ({len(new)})"
        elif new:
            print(f"{line}\n    new: {', '.join(new[:5])} ({len(new)}); --write keeps them")
        if other:
            worst = max(other, key=lambda path: distance(before[path], after[path]))
            yield f"{line}\n    {len(other)} differ, most {worst}: {before[worst]!r}, now {after[worst]!r}"


def renamed(path: str, now: Container[str]) -> str:
    """The path as it is called now."""
    renames = ((old, new) for old, names in RENAMED.items() for new in names)
    paths = (f"{path}/".replace(f"/{old}/", f"/{new}/").rstrip("/") for old, new in renames)
    return path if path in now else next((each for each in paths if each in now), path)


def same(a: Any, b: Any) -> bool:
    """NaN is NaN."""
    return a == b or (a != a and b != b)


def distance(a: Any, b: Any) -> float:
    """How far two values are apart; words: for ever."""
    numbers = all(isinstance(each, int | float) for each in (a, b))
    return abs(a - b) if numbers else math.inf


def main() -> int:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--real", action="store_true", help="the main commands on smollm2-135m")
    parser.add_argument("--write", action="store_true", help="keep what is found now")
    asked = parser.parse_args()
    file = HERE / ("smollm2-135m.json" if asked.real else "tiny.json")
    kept = json.loads(file.read_text()) if file.exists() else {}
    now = found_now(REAL if asked.real else TINY)
    lines = list(differences(kept, now))
    print("\n".join(lines) or "every number is what it was")
    if asked.write:
        file.write_text(json.dumps(now, indent=0) + "\n")
    return bool(lines) and not asked.write


if __name__ == "__main__":
    raise SystemExit(main())
