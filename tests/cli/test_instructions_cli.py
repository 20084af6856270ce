"""iv rank and iv extract, end to end, on a tiny model in a folder."""

import pytest

QUICK = ["--n-clean", "3", "--n-trials", "2"]


def test_rank_and_extract(run, tmp_path):
    code, ranked, _ = run("iv", "rank", "--task", "present-past", "--counterpart", "none", *QUICK)
    assert code == 0
    assert len(ranked["heads"]) == 12
    assert ranked["counterparts"] == [None] * 4
    assert ranked["queries"] == {"selection": "all"}
    code, extracted, _ = run(
        "iv", "extract", "--task", "present-past", "--ranking", ranked["file"], "--n-heads", "3", "--layer", "1"
    )
    assert code == 0
    assert extracted["heads"] == [[h["layer"], h["head"]] for h in ranked["heads"][:3]]
    assert extracted["counterpart"] == "none"
    assert extracted["queries"] == {"selection": "all"}
    assert run("show", extracted["file"], model=False)[1]["kind"] == "InstructionVector"
    (tmp_path / "asks.txt").write_text("Say it in the past.\n")
    code, again, _ = run("iv", "extract", "--task", "toy.json", "--instructions", "asks.txt", *QUICK, "--out", "v.safetensors")
    assert code == 0
    assert (again["instructions"], again["counterpart"]) == (["Say it in the past."], "equiprobable")
    assert (tmp_path / "v.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "toy.json"], "by the instructions of toy: it has none; give some"),
        (["--task", "toy.json", "--instructions", "gone.txt"], "gone.txt: no such file; give instructions"),
        (["--queries", "answered"], "it answers none of 29 queries"),
        (["--template", "chat"], "its tokenizer has none; use a plain template"),
    ],
)
def test_bad_input_is_one_line(run, arguments, message):
    code, _, error = run("iv", "rank", *arguments, *QUICK)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_ranking_by_demonstrations_makes_no_instruction_vector(run):
    code, ranked, _ = run("rank", "--task", "present-past", "--n-shots", "2", *QUICK)
    assert code == 0
    code, _, error = run("iv", "extract", "--task", "present-past", "--ranking", ranked["file"])
    assert code == 2
    assert "were not ranked by instructions" in error
