import random
from collections import Counter
from collections.abc import Sequence

import jaxtyping
import pytest
from hypothesis import given, strategies as st

from lens_fv.errors import LensFVError
from lens_fv.tasks import TEMPLATES, TODD, Pair, PromptTemplate, build_prompts, few_shot, zero_shot

HOT, BIG, UP = Pair("hot", ("cold",)), Pair("big", ("small", "little")), Pair("up", ("down",))
NUMBERS = [Pair(f"in{i}", (f"out{i}",)) for i in range(12)]


def outputs(pairs: Sequence[Pair]) -> list[str]:
    return [pair.output for pair in pairs]


# -- text -------------------------------------------------------------------------------------------------------------


def test_todd_template_to_the_letter():
    prompt = few_shot(BIG, [HOT])
    assert prompt.text == "Q: hot\nA: cold\n\nQ: big\nA:"
    assert prompt.answers == (" small", " little")
    assert prompt.demonstrations == (HOT,)
    assert prompt.query == BIG
    assert few_shot(UP, [HOT, BIG]).text == "Q: hot\nA: cold\n\nQ: big\nA: small\n\nQ: up\nA:"
    assert zero_shot(HOT).text == "Q: hot\nA:"


def test_an_instruction_stands_in_front():
    assert zero_shot(HOT, instruction="Give the opposite.").text == "Give the opposite.\n\nQ: hot\nA:"
    assert few_shot(BIG, [HOT], instruction="Opposites.").text == "Opposites.\n\nQ: hot\nA: cold\n\nQ: big\nA:"


def test_the_other_templates():
    assert few_shot(BIG, [HOT], template=TEMPLATES["arrow"]).text == "hot -> cold\nbig ->"
    assert few_shot(BIG, [HOT], template=TEMPLATES["input-output"]).text == ("Input: hot\nOutput: cold\n\nInput: big\nOutput:")
    assert TEMPLATES["todd"] == TODD


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_end_without_a_blank_and_answers_begin_with_one(name: str):
    prompt = few_shot(BIG, [HOT, UP], template=TEMPLATES[name], instruction="Say it.")
    assert prompt.text == prompt.text.rstrip()
    assert prompt.answers == (" small", " little")
    assert prompt.text.count("hot") == prompt.text.count(" cold") == prompt.text.count("Say it.") == 1


def test_braces_in_words_and_templates_stay():
    template = PromptTemplate(query="f({input}) = {", answer="{output}}", separator=";")
    prompt = few_shot(Pair("{output}", ("{input}",)), [Pair("{0}", ("}",))], template=template)
    assert prompt.text == "f({0}) = {}};f({output}) = {"
    assert prompt.answers == ("{input}}",)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"query": "Q: \nA:"}, r"query .* has no \{input\}"),
        ({"query": "Q: {input}\nA: "}, "ends with a blank"),
        ({"query": "Q: {input}\n"}, "ends with a blank"),
        ({"answer": " "}, r"answer .* has no \{output\}"),
        ({"instruction": "Do this:"}, r"instruction .* has no \{instruction\}"),
    ],
)
def test_a_template_that_cannot_work_is_refused(fields: dict[str, str], said: str):
    with pytest.raises(LensFVError, match=said):
        PromptTemplate(**fields)


# -- shuffled outputs -------------------------------------------------------------------------------------------------

LABELS = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=10)


@given(labels=LABELS, seed=st.integers(), shuffle=st.sampled_from(["permutation", "derangement"]))
def test_shuffling_moves_outputs_and_nothing_else(labels: list[str], seed: int, shuffle):
    pairs = [Pair(f"in{i}", (label,)) for i, label in enumerate(labels)]
    prompt = few_shot(HOT, pairs, shuffle=shuffle, rng=random.Random(seed))
    assert [pair.input for pair in prompt.demonstrations] == [pair.input for pair in pairs]
    assert Counter(outputs(prompt.demonstrations)) == Counter(labels)
    assert prompt.answers == (" cold",)
    assert prompt.text == few_shot(HOT, prompt.demonstrations).text


@given(labels=LABELS, seed=st.integers())
def test_a_derangement_keeps_as_few_equal_outputs_as_possible(labels: list[str], seed: int):
    pairs = [Pair(f"in{i}", (label,)) for i, label in enumerate(labels)]
    shown = outputs(few_shot(HOT, pairs, shuffle="derangement", rng=random.Random(seed)).demonstrations)
    kept = sum(old == new for old, new in zip(labels, shown, strict=True))
    # A label on more than half of the demonstrations has to land on some of its own.
    assert kept == max(0, 2 * max(Counter(labels).values()) - len(labels))


@given(n=st.integers(2, 8), seed=st.integers())
def test_no_demonstration_keeps_its_own_output_even_among_equal_ones(n: int, seed: int):
    # The second output tells apart what reads the same.
    pairs = [Pair(f"in{i}", ("same", f"own{i}")) for i in range(n)]
    shown = few_shot(HOT, pairs, shuffle="derangement", rng=random.Random(seed)).demonstrations
    assert all(old.outputs != new.outputs for old, new in zip(pairs, shown, strict=True))


def test_a_derangement_avoids_other_acceptable_answers():
    pairs = [Pair("big", ("small", "little")), Pair("large", ("little",)), Pair("up", ("down",)), Pair("in", ("out",))]
    for seed in range(50):
        shown = few_shot(HOT, pairs, shuffle="derangement", rng=random.Random(seed)).demonstrations
        assert all(new.output not in old.outputs for old, new in zip(pairs, shown, strict=True))


def test_a_permutation_leaves_one_in_place_on_average():
    kept = [
        sum(a == b for a, b in zip(NUMBERS, few_shot(HOT, NUMBERS, shuffle="permutation", rng=rng).demonstrations))
        for rng in map(random.Random, range(400))
    ]
    assert 0.8 < sum(kept) / len(kept) < 1.2


def test_every_derangement_comes_up():
    shown = {
        tuple(outputs(few_shot(HOT, NUMBERS[:4], shuffle="derangement", rng=random.Random(seed)).demonstrations))
        for seed in range(300)
    }
    assert len(shown) == 9  # there are nine of four things


def test_what_cannot_be_shuffled_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user has no type checker at run time
    with pytest.raises(LensFVError, match="derangement of 1 demonstration"):
        few_shot(HOT, [BIG], shuffle="derangement")
    with pytest.raises(LensFVError, match="has to be 'none', 'permutation' or 'derangement'"):
        few_shot(HOT, [BIG, UP], shuffle="labels")  # pyright: ignore[reportArgumentType]
    assert few_shot(HOT, [BIG], shuffle="permutation").demonstrations == (BIG,)
    assert few_shot(HOT, [], shuffle="derangement") == zero_shot(HOT)


# -- drawing prompts --------------------------------------------------------------------------------------------------


def test_every_query_once_and_in_order_unless_told():
    prompts = build_prompts(NUMBERS, NUMBERS, n_shots=3)
    assert [prompt.query for prompt in prompts] == NUMBERS
    for prompt in prompts:
        assert len(set(prompt.demonstrations)) == 3
        assert prompt.query not in prompt.demonstrations


def test_queries_come_again_only_after_all_have_been():
    asked = [prompt.query.input for prompt in build_prompts(NUMBERS, NUMBERS, n_shots=2, n_prompts=30)]
    everything = {pair.input for pair in NUMBERS}
    assert set(asked[:12]) == set(asked[12:24]) == everything
    assert len(set(asked[24:])) == 6
    assert asked[:12] != asked[12:24]


def test_neither_the_query_nor_its_reverse_is_shown():
    pool = [HOT, Pair("cold", ("warm", "hot")), Pair("hot", ("icy",)), BIG, UP]
    for seed in range(20):
        for prompt in build_prompts([HOT], pool, n_shots=2, seed=seed):
            assert set(prompt.demonstrations) == {BIG, UP}
    # the same in another Unicode normalisation
    tea, mate = Pair("the\u0301", ("mate\u0301",)), [Pair("th\u00e9", ("tea",)), Pair("mat\u00e9", ("th\u00e9",)), BIG, UP]
    assert set(build_prompts([tea], mate, n_shots=2)[0].demonstrations) == {BIG, UP}
    # "cold" answers the query, but the pair is no reverse: asking for the opposite of ice gives nothing away.
    assert len(build_prompts([HOT], [Pair("ice", ("cold",)), BIG], n_shots=2)) == 1


def test_the_seed_decides_and_more_prompts_begin_like_fewer():
    def build(**options) -> list[str]:
        return [prompt.text for prompt in build_prompts(NUMBERS, NUMBERS, n_shots=4, **options)]

    assert build(seed=1, n_prompts=20) == build(seed=1, n_prompts=20)
    assert build(seed=1, n_prompts=20) != build(seed=2, n_prompts=20)
    assert build(seed=1, n_prompts=20)[:5] == build(seed=1, n_prompts=5)
    assert build(seed=1, shuffle="derangement") == build(seed=1, shuffle="derangement")


def test_drawn_prompts_are_the_same_on_every_machine():
    first = build_prompts(NUMBERS, NUMBERS, n_shots=2, n_prompts=1, shuffle="derangement", seed=3)[0]
    assert first.text == "Q: in9\nA: out7\n\nQ: in7\nA: out9\n\nQ: in2\nA:"


def test_clean_and_shuffled_prompts_show_the_same_demonstrations():
    clean = build_prompts(NUMBERS, NUMBERS, n_shots=4, n_prompts=15, seed=5)
    shuffled = build_prompts(NUMBERS, NUMBERS, n_shots=4, n_prompts=15, seed=5, shuffle="derangement")
    for one, other in zip(clean, shuffled, strict=True):
        assert one.query == other.query
        assert [pair.input for pair in one.demonstrations] == [pair.input for pair in other.demonstrations]
        assert set(outputs(one.demonstrations)) == set(outputs(other.demonstrations))
        assert one.text != other.text


def test_options_reach_the_prompts():
    prompt = build_prompts([HOT], [BIG], n_shots=1, template=TEMPLATES["arrow"], instruction="Opposites.")[0]
    assert prompt.text == "Opposites.\n\nbig -> small\nhot ->"
    assert build_prompts([HOT], [], n_shots=0) == [zero_shot(HOT)]


@pytest.mark.parametrize(
    ("queries", "options", "said"),
    [
        ([HOT], {"n_shots": 10}, "asked for 10 shots, the pool has 1 pair, 0 of them usable for the query 'hot'"),
        ([BIG], {"n_shots": 2}, "asked for 2 shots, the pool has 1 pair, 1 of them usable"),
        ([], {"n_shots": 0}, "0 queries"),
        ([HOT], {"n_shots": -1}, "n_shots=-1.: it has to be a whole number at least 0"),
        ([HOT], {"n_shots": 0, "n_prompts": 0}, "n_prompts=0.: it has to be a whole number at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_said(queries: list[Pair], options: dict[str, int], said: str):
    with pytest.raises(LensFVError, match=said):
        build_prompts(queries, [HOT], **options)
