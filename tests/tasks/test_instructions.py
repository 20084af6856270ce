"""Instructions from files, and prompts as turns of a chat."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from lens_fv.errors import LensFVError
from lens_fv.tasks import Pair, Task, chat_template, encode_prompt, few_shot, load_instructions, load_task
from lens_fv.tasks.token_classes import token_classes

TURNS = (
    "{{ bos_token }}{% if messages[0]['role'] != 'system' %}<sys>Be kind.<end>{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
BIG, HOT = Pair("big", ("small",)), Pair("hot", ("cold",))


def chatter(folder, template, prepend_bos=True):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template

    def encode(text, *, bos=None):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [tokenizer.bos_token_id, *ids] if (prepend_bos if bos is None else bos) else ids

    return SimpleNamespace(name="toy", n_ctx=512, tokenizer=tokenizer, prepend_bos=prepend_bos, encode=encode)


@pytest.mark.parametrize("prepend_bos", [True, False])
@pytest.mark.parametrize("instruction", ["Say the opposite.", None])
def test_a_prompt_is_what_the_tokenizer_writes(tiny_tokenizer, prepend_bos, instruction):
    model = chatter(tiny_tokenizer, TURNS, prepend_bos)
    template = chat_template(model)
    prompt = few_shot(HOT, [BIG], template=template, instruction=instruction)
    first = f"{instruction}\n\nbig" if instruction else "big"
    turns = [("user", first), ("assistant", "small"), ("user", "hot")]
    messages = [{"role": role, "content": text} for role, text in turns]
    ids = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    encoded = encode_prompt(model, prompt)
    assert list(encoded.tokens) == ids
    assert model.tokenizer.decode(encoded.answers[0]) == "cold"
    classes = token_classes(model, prompt, template=template)
    shown = [
        model.tokenizer.decode([t]) for t, c in zip(encoded.tokens, classes.classes, strict=True) if c == "query_demonstration"
    ]
    assert "".join(shown) == "hot"


@pytest.mark.parametrize(
    "template",
    [None, "{{ messages[0]['content'] }}", "{% for m in messages %}<{{ loop.index }}>{{ m['content'] }}{% endfor %}"],
)
def test_a_chat_that_is_none_is_refused(tiny_tokenizer, template):
    with pytest.raises(LensFVError, match="chat template of toy: "):
        chat_template(chatter(tiny_tokenizer, template))


def test_instructions_are_read_from_every_format(tmp_path: Path):
    texts = ["Say the opposite.", "Was ist das Gegenteil?"]
    files = {
        "a.json": json.dumps({"dataset_name": "antonym", "prompts": texts}),
        "b.json": json.dumps([*texts, texts[0], " "]),
        "c.json": json.dumps({"instructions": texts}),
        "d.txt": "\n".join(["", *texts, ""]),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert load_instructions(tmp_path / name) == tuple(texts), name
    (tmp_path / "e.txt").write_text("caf\u00e9?\ncafe\u0301?\n", encoding="utf-8")
    assert len(load_instructions(tmp_path / "e.txt")) == 1
    (tmp_path / "f.json").write_text(json.dumps({"prompts": texts, "instructions": texts[:1]}), encoding="utf-8")
    with pytest.raises(LensFVError, match="they can be prompts or instructions; leave one out"):
        load_instructions(tmp_path / "f.json")


@pytest.mark.parametrize("content", [None, "", "[]", "[1]", "{", '{"prompts": "one"}', '{"other": []}'])
def test_what_are_no_instructions_is_said(tmp_path: Path, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(LensFVError, match=r"file\.json: .*give instructions: |instructions in .*file\.json: "):
        load_instructions(path)


PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "instructions"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published instructions at ../shared/data")
def test_published_instructions_are_read():
    found = {path.name: load_instructions(path) for path in PUBLISHED.glob("*_prompts.json")}
    assert len(found) == 16
    assert all(len(texts) > 20 for texts in found.values())


def test_every_built_in_relation_has_instructions():
    task = load_task("antonym")
    assert isinstance(task, Task)
    assert len(set(task.instructions)) >= 3
