import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from lens_fv.errors import LensFVError
from lens_fv.tasks import Pair, Task, load_task, load_tasks

PAIRS = (Pair("hot", ("cold",)), Pair("big", ("small", "little")), Pair("été", ("hiver, froid",)))
ROWS: list[dict[str, Any]] = [
    {"input": "hot", "output": "cold"},
    {"input": "big", "output": ["small", "little"]},
    {"input": "été", "output": "hiver, froid"},
]
SAMPLES: list[dict[str, Any]] = [{"subject": row["input"], "object": row["output"]} for row in ROWS]
ONE_A_LINE = "\n".join(json.dumps(row) for row in ROWS)

SAME_TASK = {
    "list.json": json.dumps(ROWS, indent=1),
    "escaped.json": json.dumps(ROWS, ensure_ascii=True),
    "lines.jsonl": ONE_A_LINE + "\n\n",
    "lines-called.json": ONE_A_LINE.replace("\n", "\r\n"),
    "lines.txt": ONE_A_LINE,
    "samples.json": json.dumps({"name": "opposites", "prompt_templates": ["{} is not"], "samples": SAMPLES}),
    "instances.json": json.dumps({"Definition": ["Say the opposite."], "Instances": ROWS}),
    "pairs.json": json.dumps({"name": "opposites", "pairs": ROWS}),
    "table.csv": 'input,output\nhot,cold\nbig,small|little\nété,"hiver, froid"\n',
    "windows.csv": 'Input,Output\r\nhot, cold\r\n\r\nbig, small | little\r\nété,"hiver, froid"\r\n',
    "other-names.csv": 'id,Target,Word\n1,cold,hot\n2,small|little,big\n3,"hiver, froid",été\n',
    "semicolons.csv": "input;output\nhot;cold\nbig;small|little\nété;hiver, froid\n",
    "table.tsv": "subject\tobject\nhot\tcold\nbig\tsmall|little\nété\thiver, froid\n",
    "table.txt": "input\toutput\nhot\tcold\nbig\tsmall|little\nété\thiver, froid",
    "repeated.json": json.dumps([ROWS[0], {"input": "big", "output": "small"}, *ROWS, ROWS[0]]),
    "blanks.json": json.dumps([{"input": " hot ", "output": "cold\n"}, *ROWS[1:]]),
}


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", SAME_TASK)
def test_every_format_gives_the_same_pairs(tmp_path: Path, name: str, encoding: str):
    assert load_task(write(tmp_path, name, SAME_TASK[name], encoding)).pairs == PAIRS


def test_names_come_from_the_caller_then_the_content_then_the_file(tmp_path: Path):
    assert load_task(write(tmp_path, "list.json", SAME_TASK["list.json"])).name == "list"
    assert load_task(write(tmp_path, "samples.json", SAME_TASK["samples.json"])).name == "opposites"
    assert load_task(tmp_path / "samples.json", name="mine").name == "mine"
    assert load_task(tmp_path / "samples.json").clozes == ("{input} is not",)
    assert load_task(str(tmp_path / "list.json")).name == "list"


def test_natural_instructions_are_read_with_their_definition(tmp_path: Path):
    about = {
        "Contributors": ["someone"],
        "Source": ["a corpus"],
        "URL": ["https://example.org"],
        "Categories": ["Sentiment Analysis", "Other"],
        "Definition": ["Say POS or NEG.", "Judge the sentence."],
        "Positive Examples": [{"input": "x", "output": "POS", "explanation": "y"}],
        "Instances": [{"id": "t-1", "input": "Lovely.", "output": ["POS"]}, {"id": "t-2", "input": "Dull.", "output": ["NEG"]}],
        "Instance License": ["CC BY 4.0"],
    }
    (tmp_path / "task363").mkdir()
    task = load_task(write(tmp_path / "task363", "train.json", json.dumps(about)))
    assert task == Task(
        "task363",
        (Pair("Lovely.", ("POS",)), Pair("Dull.", ("NEG",))),
        instructions=("Say POS or NEG.", "Judge the sentence."),
        group="Sentiment Analysis",
        source="a corpus; https://example.org",
        licence="CC BY 4.0",
    )


def test_our_own_format_is_read_in_full(tmp_path: Path):
    about = {
        "name": "opposites",
        "group": "lexical semantics",
        "languages": ["en", "en"],
        "relation_words": ["opposite"],
        "instructions": ["Give the opposite.", "Name the contrary."],
        "clozes": ["The opposite of {input} is"],
        "source": "Written for this test.",
        "licence": "CC0-1.0",
    }
    assert load_task(write(tmp_path, "own.json", json.dumps({**about, "pairs": ROWS}))) == Task(
        name="opposites",
        pairs=PAIRS,
        relation_words=("opposite",),
        instructions=("Give the opposite.", "Name the contrary."),
        clozes=("The opposite of {input} is",),
        group="lexical semantics",
        languages=("en", "en"),
        source="Written for this test.",
        licence="CC0-1.0",
    )


def test_what_is_written_is_read_back(tmp_path: Path):
    for task in (load_task("antonym"), Task("mine", PAIRS)):
        assert load_task(task.save(tmp_path / "deep" / "task.json")) == task


def test_whole_numbers_become_text(tmp_path: Path):
    rows = [{"input": 4, "output": [5, "five"]}]
    assert load_task(write(tmp_path, "n.json", json.dumps(rows))).pairs == (Pair("4", ("5", "five")),)


def test_one_object_is_a_task_of_one_pair(tmp_path: Path):
    text = '{\n"input": "hot",\n"output": "cold"\n}'
    assert load_task(write(tmp_path, "one.json", text)).pairs == (PAIRS[0],)


TEXT = st.text(st.characters(exclude_categories=["C"]), min_size=1).map(str.strip).filter(bool)


@given(pairs=st.dictionaries(TEXT, st.lists(TEXT, min_size=1, unique=True), min_size=1))
def test_a_json_list_keeps_any_text(tmp_path_factory: pytest.TempPathFactory, pairs: dict[str, list[str]]):
    rows = [{"input": given, "output": outputs} for given, outputs in pairs.items()]
    folder = tmp_path_factory.mktemp("any")
    task = load_task(write(folder, "list.json", json.dumps(rows, ensure_ascii=False)))
    assert {pair.input: list(pair.outputs) for pair in task.pairs} == pairs
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert load_task(write(folder, "lines.jsonl", lines)).pairs == task.pairs


WRONG = {
    "empty.json": ("", "file is empty"),
    "blank.csv": (" \n\n", "file is empty"),
    "no-rows.json": ("[]", "no rows"),
    "no-rows.csv": ("input,output\n", "no rows"),
    "no-output.json": (
        '[\n {"input": "hot", "output": "cold"},\n\n {"input": "big"}\n]',
        r"line 4 \(row 2\): no output",
    ),
    "empty-output.json": ('[\n{"input": "hot", "output": " "}\n]', r"line 2 \(row 1\): no output"),
    "empty-list.json": ('[{"input": "hot", "output": []}]', r"line 1 \(row 1\): no output"),
    "null.json": ('[{"input": "hot", "output": ["cold", null]}]', r"line 1 \(row 1\): no output"),
    "no-input.json": ('[{"output": "cold"}]', r"line 1 \(row 1\): no input"),
    "float.json": ('[{"input": "half", "output": 0.5}]', r"output has to be text, found 0\.5"),
    "truth.json": ('[{"input": "half", "output": true}]', "output has to be text, found true"),
    "texts.json": ('["hot", "cold"]', r'line 1 \(row 1\): expected an object .* found "hot"'),
    "number.json": ("17", "unknown format, it starts with '17'"),
    "prose.txt": ("The opposite of hot is cold.\n", "unknown format, it starts with 'The opposite"),
    "keys.json": ('{"hot": "cold", "big": "small"}', "unknown format, a JSON object with the keys hot, big"),
    "cut.json": ('[\n{"input": "hot", "output": "cold"},\n{"input": "bi', "line 3: not valid JSON"),
    "no-comma.json": ('[\n{"input": "a", "output": "b"}\n{"input": "c", "output": "d"}]', "line 3: not valid JSON"),
    "samples.json": (
        '{"name": "x",\n"samples": [\n{"subject": "a", "object": "b"},\n{"subject": "c"}]}',
        "line 4 .row 2",
    ),
    "instances.json": (
        '{"Definition": ["Do."],\n"Instances": [\n{"id": "1", "input": "a", "output": ["b"]},\n{"id": "2", "input": "c"}]}',
        r"line 4 \(row 2\): no output",
    ),
    "definition.json": (
        '{"Definition": [7], "Instances": [{"input": "a", "output": "b"}]}',
        '"instructions" has to be a list',
    ),
    "words.json": (
        '{"instructions": "Do.", "pairs": [{"input": "a", "output": "b"}]}',
        '"instructions" has to be a list',
    ),
    "cloze.json": ('{"clozes": ["It is"], "pairs": [{"input": "a", "output": "b"}]}', "needs {input} in it"),
    "instruction.json": ('{"instructions": [""], "pairs": [{"input": "a", "output": "b"}]}', "empty relation word"),
    "lines.jsonl": ('{"input": "a", "output": "b"}\n\n{"input": "c"}\n', "line 3: no output"),
    "cut.jsonl": ('{"input": "a", "output": "b"}\n{"input": "c", "out', "line 2: not valid JSON"),
    "cut-lines.json": ('{"input": "a", "output": "b"}\n{"input": "c", "out', "line 2: not valid JSON"),
    "no-header.csv": ("hot,cold\nbig,small\n", "header needs the columns input and output, found hot, cold"),
    "half-header.csv": ("input,colour\nsky,blue\n", "header needs the columns input and output"),
    "short.csv": ("input,output\nhot,cold\nbig\n", "line 3: no output"),
    "no-pair.txt": ("Hot, cold and warm\nwater", "unknown format, it starts with 'Hot, cold"),
    "alternative.csv": ("input,output\nhot,cold|\n", "line 2: no output"),
    "long.csv": ("input,output\nParis,Paris, France\n", "line 2: 3 columns where the first line has 2"),
    "two-inputs.csv": (
        "word,answer,source\nhot,cold,WordNet\n",
        "line 1: the input can be word or source; say which with input_column=",
    ),
    "two-outputs.tsv": ("word\tanswer\ttarget\nhot\tcold\twarm\n", "line 1: the output can be answer or target; say which"),
    "twice.csv": ("input,input,output\nhot,big,cold\n", "the input can be input or input"),
    "two-inputs.jsonl": ('{"word": "hot", "source": "WordNet", "answer": "cold"}', "line 1: the input can be word or source"),
    "slash.csv": ("input,output\nman,woman/lady\n", "line 2: 'woman/lady' can be one answer or several; say alternatives='/'"),
    "slash.txt": ("hot\tcold\nman\twoman/lady\n", "line 2: 'woman/lady' can be one answer or several"),
    "half-header.txt": (
        "word\tplural\nhouse\thouses\n",
        "line 1: the header needs .* if it is a pair already, number the columns",
    ),
    "three-words.txt": ("hot cold\nbig very small\n", "line 2: 3 columns where the first line has 2"),
    "one-word.txt": ("hot cold\nbig\n", "line 2: no output"),
    "commas.csv": (",,\n,\n", "no rows"),
    "line-break.csv": ('"in\nput",output,x\n', "the header needs .* found in put, output, x"),
    "quote.csv": ('input,output\n"hot,cold\nbig,small\n', "not a valid table"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line_with_file_and_line(tmp_path: Path, name: str):
    text, said = WRONG[name]
    with pytest.raises(LensFVError, match=said) as caught:
        load_task(write(tmp_path, name, text))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


TWO_WAYS = "word,answer,source\nhot,cold,WordNet\nbig,small,mine\n"


def test_what_can_be_read_in_two_ways_is_read_as_it_is_said(tmp_path: Path):
    file = write(tmp_path, "pairs.csv", TWO_WAYS)
    read = load_task(file, input_column="Word", output_column="answer")
    assert [(pair.input, *pair.outputs) for pair in read.pairs] == [("hot", "cold"), ("big", "small")]
    assert load_task(file, input_column="source", output_column="word").pairs[0] == Pair("WordNet", ("hot",))
    assert load_task(file, input_column="word").pairs == read.pairs
    with pytest.raises(LensFVError, match="input_column='colour' asked for; the columns are word, answer, source"):
        load_task(file, input_column="colour")
    lines = write(tmp_path, "pairs.jsonl", '{"word": "hot", "source": "WordNet", "answer": "cold"}\n')
    assert load_task(lines, input_column="word").pairs == (Pair("hot", ("cold",)),)
    # "input" and "output" are what they say, whatever else there is
    own = write(tmp_path, "own.csv", "source,output,input,target\nWordNet,cold,hot,x\n")
    assert load_task(own).pairs == (Pair("hot", ("cold",)),)


def test_alternatives_are_parted_by_what_is_named(tmp_path: Path):
    file = write(tmp_path, "kin.csv", "input,output\nman,woman/lady\nking,queen\n")
    assert load_task(file, alternatives="/").pairs[0].outputs == ("woman", "lady")
    assert load_task(file, alternatives="").pairs[0].outputs == ("woman/lady",)
    assert load_task(write(tmp_path, "both.csv", "input,output\nman,woman/wife|lady\n")).pairs[0].outputs == (
        "woman/wife",
        "lady",
    )
    # JSON has lists for that: a text is one answer
    listed = write(tmp_path, "kin.json", '[{"input": "man", "output": "woman/lady"}]')
    assert load_task(listed).pairs[0].outputs == ("woman/lady",)
    assert load_task(listed, alternatives="/").pairs[0].outputs == ("woman", "lady")


@pytest.mark.parametrize("mark", ["\t", " ", "   "])
def test_two_columns_without_a_header(tmp_path: Path, mark: str):
    text = "".join(f"{a}{mark}{b}\n" for a, b in (("hot", "cold"), ("big", "small"), ("hot", "cool")))
    assert load_task(write(tmp_path, "pairs.txt", text)).pairs == (Pair("hot", ("cold", "cool")), Pair("big", ("small",)))
    assert load_task(write(tmp_path, "pairs", text), name="mine").name == "mine"


def test_columns_without_a_header_by_number(tmp_path: Path):
    file = write(tmp_path, "pairs.csv", "1,hot,cold\n2,big,small\n")
    assert load_task(file, input_column="2", output_column="3").pairs == (Pair("hot", ("cold",)), Pair("big", ("small",)))
    assert load_task(file, input_column="3", output_column="2").pairs[0] == Pair("cold", ("hot",))
    with pytest.raises(LensFVError, match="line 1: column 4 asked for; the first line has 3: 1, hot, cold"):
        load_task(file, input_column="2", output_column="4")


@pytest.mark.parametrize("mark", ["\t", " "])
@pytest.mark.parametrize("header", ["", "word\tanswer\n"])
def test_files_of_the_bigger_analogy_test_set(tmp_path: Path, mark: str, header: str):
    folder = tmp_path / "1_Inflectional_morphology"
    folder.mkdir()
    # the first pair looks like half a header
    text = header.replace("\t", mark) + f"word{mark}words\nman{mark}men/guys\n"
    task = load_task(write(folder, "I01 [noun - plural_reg].txt", text))
    assert task.pairs == (Pair("word", ("words",)), Pair("man", ("men", "guys")))
    assert (task.name, task.group) == ("I01-noun-plural_reg", "inflectional morphology")


def test_a_folder_is_many_tasks(tmp_path: Path):
    (tmp_path / "3_Encyclopedic_semantics").mkdir()
    write(tmp_path / "3_Encyclopedic_semantics", "E10 [male - female].txt", "man\twoman/lady\n")
    (tmp_path / "1_Inflectional_morphology").mkdir()
    write(tmp_path / "1_Inflectional_morphology", "I01 [noun - plural_reg].txt", "album\talbums\n")
    write(tmp_path, "metadata.json", "{}")  # it comes with them
    assert [task.name for task in load_tasks(tmp_path)] == ["I01-noun-plural_reg", "E10-male-female"]
    own = tmp_path / "own"
    own.mkdir()
    write(own, "b.csv", TWO_WAYS)
    write(own, "a.json", SAME_TASK["list.json"])
    write(own, "notes.md", "what this is")
    with pytest.raises(LensFVError, match=r"b\.csv, line 1: the input can be word or source"):
        load_tasks(own)
    (own / "b.csv").unlink()
    assert [task.name for task in load_tasks(own)] == ["a"]
    assert load_tasks(own / "a.json") == (load_task(own / "a.json"),)
    (own / "more").mkdir()
    write(own / "more", "a.json", SAME_TASK["list.json"])
    with pytest.raises(LensFVError, match="two tasks are called a; rename a file"):
        load_tasks(own)
    with pytest.raises(LensFVError, match="no task file in it"):
        (tmp_path / "none").mkdir()
        load_tasks(tmp_path / "none")


GOOGLE = """//Copyright
: capital-common-countries
Athens Greece Baghdad Iraq
Athens Greece Bangkok Thailand
Baghdad Iraq Athens Greece
: gram8-plural
bird birds cat cats
"""


def test_the_sections_of_googles_analogies_are_tasks(tmp_path: Path):
    capitals, plural = load_tasks(write(tmp_path, "questions-words.txt", GOOGLE))
    assert (capitals.name, plural.name) == ("capital-common-countries", "gram8-plural")
    assert capitals.pairs == (Pair("Athens", ("Greece",)), Pair("Baghdad", ("Iraq",)), Pair("Bangkok", ("Thailand",)))
    assert plural.pairs == (Pair("bird", ("birds",)), Pair("cat", ("cats",)))
    with pytest.raises(LensFVError, match="load_tasks, load_analogies"):
        load_task(tmp_path / "questions-words.txt")


def test_a_word_is_one_however_it_is_encoded(tmp_path: Path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    rows = [{"input": decomposed, "output": "bar"}, {"input": composed, "output": ["caff\u00e8", "bar"]}]
    rows += [{"input": "x", "output": [composed, decomposed]}]
    task = load_task(write(tmp_path, "words.json", json.dumps(rows)))
    # as it was written first
    assert task.pairs == (Pair(decomposed, ("bar", "caff\u00e8")), Pair("x", (composed,)))


def test_a_file_in_another_encoding_names_the_line(tmp_path: Path):
    with pytest.raises(LensFVError, match=r"latin\.csv, line 3: not UTF-8"):
        load_task(write(tmp_path, "latin.csv", "input,output\nhot,cold\nété,hiver\n", "latin-1"))
    with pytest.raises(LensFVError, match=r"wide\.csv, line 1: not UTF-8"):
        load_task(write(tmp_path, "wide.csv", "input,output\nhot,cold\n", "utf-16"))


def test_what_is_no_file_is_said(tmp_path: Path):
    with pytest.raises(LensFVError, match="no such file"):
        load_task(tmp_path / "nothing.json")
    with pytest.raises(LensFVError, match="a folder"):
        load_task(tmp_path)


def test_lines_are_right_whatever_the_rows_hold(tmp_path: Path):
    rows: list[dict[str, Any]] = [{"input": f'],"[{i}', "output": ["a, b", "}\u2028\n"]} for i in range(50)]
    good = json.dumps(rows, indent=2, ensure_ascii=False)[:-2]
    text = '{"source": "\\"pairs\\": [1, 2",\n"pairs": ' + good + ',\n\n{"input": "last"}]}'
    with pytest.raises(LensFVError, match=rf"line {text.count(chr(10)) + 1} \(row 51\): no output"):
        load_task(write(tmp_path, "strange.json", text))


# -- published data, where it lies beside the repository --------------------------------------------------------------

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.skipif(not (DATA / "todd").is_dir(), reason="no published word pairs at ../shared/data")
def test_published_files_are_read_whole():
    files = sorted([*(DATA / "todd").rglob("*.json"), *(DATA / "lre").rglob("*.json")])
    assert files
    for file in files:
        data = json.loads(file.read_text(encoding="utf-8"))
        rows = data if isinstance(data, list) else data["samples"]
        facts = {tuple(str(value).strip() for value in sorted_by_role(row)) for row in rows}
        task = load_task(file)
        assert {(pair.input, output) for pair in task.pairs for output in pair.outputs} == facts, file
        assert len(task) == len({given for given, _ in facts}), file


@pytest.mark.skipif(not (DATA / "superni").is_dir(), reason="no Super-NaturalInstructions at ../shared/data")
def test_published_instructions_are_read_whole():
    for file in sorted((DATA / "superni").rglob("train.json")):
        data, task = json.loads(file.read_text(encoding="utf-8")), load_task(file)
        assert task.name == file.parent.name
        assert task.instructions == tuple(data["Definition"])
        assert {pair.input for pair in task.pairs} == {row["input"].strip() for row in data["Instances"]}


def sorted_by_role(row: dict[str, str]) -> tuple[str, str]:
    return (row["input"], row["output"]) if "input" in row else (row["subject"], row["object"])
