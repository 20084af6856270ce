from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Pair, Prompt, PromptTemplate, encode_prompt, encode_prompts, few_shot, zero_shot
from lens_fv.tasks.encoding import Encoder

HOT, BIG = Pair("hot", ("cold",)), Pair("big", ("small", "little one"))


def tiny(folder: Path, tokenizer: Tokenizer, *, n_ctx: int = 64) -> LensModel:
    """A random two-layer Llama around a tokenizer that has been on disk, as a user's has."""
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>")
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=n_ctx,
    )
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=LlamaForCausalLM(config), tokenizer=AutoTokenizer.from_pretrained(folder)
    )
    return LensModel.wrap(bridge)


def metaspace(characters: str, words: list[str]) -> Tokenizer:
    """A BPE tokenizer that marks blanks with ▁, puts one in front of every text, and knows some whole words."""
    vocabulary = {token: i for i, token in enumerate(["▁", *characters])}
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(1, len(word)):
            merge = (word[:end], word[end])
            vocabulary.setdefault("".join(merge), len(vocabulary))
            if merge not in merges:
                merges.append(merge)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    return tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    words = ["▁hot", "▁cold", "▁big", "▁small", "▁little", "▁one"]
    return tiny(tmp_path_factory.mktemp("tiny"), metaspace("QA:=\nabcdefghijklmnopqrstuvwxyz", words))


def pieces(model: LensModel, tokens: tuple[int, ...]) -> list[str]:
    return model.tokenizer.convert_ids_to_tokens(list(tokens))


def test_a_lens_model_is_an_encoder(model: LensModel):
    assert isinstance(model, Encoder)


def test_prompt_and_answers_token_by_token(model: LensModel):
    encoded = encode_prompt(model, few_shot(BIG, [HOT]))
    assert pieces(model, encoded.tokens) == [
        *["<s>", "▁", "Q", ":", "▁hot", "\n", "A", ":", "▁cold", "\n", "\n"],
        *["Q", ":", "▁big", "\n", "A", ":"],
    ]
    assert [pieces(model, answer) for answer in encoded.answers] == [["▁small"], ["▁little", "▁one"]]
    assert encoded.first_tokens == {encoded.answers[0][0], encoded.answers[1][0]}


def test_prompt_and_answer_together_are_the_text_together(model: LensModel):
    for prompt in (zero_shot(HOT), few_shot(HOT, [BIG, BIG])):
        encoded = encode_prompt(model, prompt)
        assert [*encoded.tokens, *encoded.answers[0]] == model.encode(prompt.text + prompt.answers[0])
    assert encode_prompts(model, [prompt, zero_shot(HOT)]) == [encoded, encode_prompt(model, zero_shot(HOT))]


def test_answers_are_tokenised_in_context(model: LensModel):
    # Alone, this tokenizer would put a blank before the answer that the prompt does not have.
    prompt = zero_shot(HOT, template=PromptTemplate(query="{input}=", answer="{output}"))
    assert pieces(model, tuple(model.encode("cold", bos=False))) == ["▁cold"]
    assert pieces(model, encode_prompt(model, prompt).answers[0]) == ["c", "o", "l", "d"]


def test_acceptable_answers_may_share_their_first_token(model: LensModel):
    encoded = encode_prompt(model, zero_shot(Pair("hot", ("cold", "cold one"))))
    assert len(encoded.answers) == 2
    assert len(encoded.first_tokens) == 1


def test_a_merge_across_the_boundary_falls_back_to_the_answer_alone(tmp_path: Path):
    tokens = ["A", ":", " ", "c", "h", ": ", " c"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [(":", " "), (" ", "c")]))
    merging = tiny(tmp_path, tokenizer)
    prompt = zero_shot(Pair("h", ("c",)), template=PromptTemplate(query="{input}A:"))
    together = pieces(merging, tuple(merging.encode("hA: c")))
    assert together == ["<s>", "h", "A", ": ", "c"]  # the prompt's own ":" is gone
    encoded = encode_prompt(merging, prompt)
    assert pieces(merging, encoded.tokens) == ["<s>", "h", "A", ":"]
    assert pieces(merging, encoded.answers[0]) == [" c"]


def test_an_answer_without_tokens_is_refused(model: LensModel):
    with pytest.raises(LensFVError, match="answer '冷' to 'hot' has no tokens in tiny"):
        encode_prompt(model, Prompt("Q: hot\nA:", ("冷",), (), Pair("hot", ("冷",))))


def test_the_context_holds_prompt_and_longest_answer_and_no_more(tmp_path: Path, model: LensModel):
    prompt = few_shot(BIG, [HOT])
    encoded = encode_prompt(model, prompt)
    needed = len(encoded.tokens) + 2
    words = ["▁hot", "▁cold", "▁big", "▁small", "▁little", "▁one"]
    tokenizer = metaspace("QA:=\nabcdefghijklmnopqrstuvwxyz", words)
    assert encode_prompt(tiny(tmp_path, tokenizer, n_ctx=needed), prompt) == encoded
    short = tiny(tmp_path, tokenizer, n_ctx=needed - 1)
    said = rf"has {needed - 2} tokens and its answer up to 2, tiny reads {needed - 1} at most; use fewer than 1 shots"
    with pytest.raises(LensFVError, match=said):
        encode_prompt(short, prompt)
    with pytest.raises(LensFVError, match="shorten the input"):
        encode_prompt(short, zero_shot(Pair("xyz" * 30, ("cold",))))
