"""Pairs of texts in one row, beside Transformers' tokenizers."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_np import AutoTokenizer, ByteTokenizer
from lora_np.models.tokenizers.pairs import kept

WORDS = ["low", "lower", "newest", "the", "a b", "", "é"]
texts = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
CUTS = ["longest_first", "only_first", "only_second", True]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tokenizers as files: bytes, and words that were learnt, with and without tokens around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from lora_np.models.tokenizers.pretrained import PretrainedTokenizer, surround

    found = {"bytes": tmp_path_factory.mktemp("bytes")}
    ByteTokenizer().save_pretrained(found["bytes"])
    for name, around in {"words": (None, None), "bos": ("<s>", None), "both": ("<s>", "</s>")}.items():
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        special = ["<s>", "</s>"]
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(WORDS * 9, trainer)
        surround(backend, *around)
        config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
        found[name] = tmp_path_factory.mktemp(name)
        PretrainedTokenizer(backend, config).save_pretrained(found[name])
    return found


def both(folder):
    import transformers

    return AutoTokenizer.from_pretrained(str(folder)), transformers.AutoTokenizer.from_pretrained(str(folder))


def said(call):
    """What a call returns, as lists, or None if it refuses."""
    try:
        return {name: np.asarray(rows, object).tolist() for name, rows in call().items()}
    except Exception:
        return None


@pytest.mark.parity
@pytest.mark.parametrize("name", ["bytes", "words", "bos", "both"])
def test_pairs_are_those_of_transformers(folders, name):
    ours, theirs = both(folders[name])

    @settings(max_examples=60, deadline=None, database=None)
    @given(
        pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=3),
        cut=st.sampled_from([*CUTS, False]),
        most=st.integers(5, 12),
        side=st.sampled_from(["left", "right"]),
        special=st.booleans(),
        as_tuples=st.booleans(),
    )
    def check(pairs, cut, most, side, special, as_tuples):
        ours.truncation_side = theirs.truncation_side = side
        arguments = (pairs,) if as_tuples else tuple(map(list, zip(*pairs, strict=True)))
        options = {"truncation": cut, "add_special_tokens": special, "return_special_tokens_mask": True}
        options |= {"max_length": most} if cut else {}
        results = [said(lambda t=t: t(*arguments, **options, return_offsets_mapping=True)) for t in (ours, theirs)]
        assert results[0] == results[1]

    check()


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["template", "trimming"])
def test_what_is_cut_keeps_its_offsets(tmp_path, kind):
    """Llama 3's tokens have offsets without the space before them, which is not left out twice."""
    import transformers
    from tokenizer_helpers import trained
    from tokenizers import processors

    backend = trained()
    around = {"special_tokens": [("<s>", 1)], "single": "<s> $A", "pair": "<s> $A <s>:1 $B:1"}
    trimming = processors.RobertaProcessing(("</s>", 2), ("<s>", 1), trim_offsets=True, add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(**around) if kind == "template" else trimming
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(tmp_path)
    ours, theirs = both(tmp_path)
    text, pair = "How low is the rank?", "Hello low world 42"
    for arguments in ((text,), (text, pair), ([text, pair], [pair, text])):
        for special in (True, False):
            options = {"truncation": True, "max_length": 8, "add_special_tokens": special}
            calls = [functools.partial(t, *arguments, **options, return_offsets_mapping=True) for t in (ours, theirs)]
            results = list(map(said, calls))
            assert results[0] == results[1] is not None


@pytest.mark.parity
@pytest.mark.parametrize("name", ["bytes", "both"])
def test_one_pair_and_its_forms(folders, name):
    ours, theirs = both(folders[name])
    for tokenizer in (ours, theirs):
        tokenizer.padding_side = "left"
    calls = [
        lambda t: t("the low", "lower"),
        lambda t: {"ids": t.encode("the low", "lower")},
        lambda t: {"tokens": t.tokenize("low", "lower")},
        lambda t: t(["the low", "a b"], ["lower", "newest the"], padding=True, return_tensors="np"),
        lambda t: t([("the low", "lower")], max_length=6),
        lambda t: t("the low", ""),
    ]
    for call in calls:
        found, expected = (said(functools.partial(call, t)) for t in (ours, theirs))
        assert found == expected
        assert found is not None


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("a", ["b"]), {}, TypeError, "text_pair must be a str, not list"),
        ((["a"], "b"), {}, TypeError, "text_pair must be a list of str, one for each text, not str"),
        ((["a", "b"], ["c"]), {}, ValueError, "2 texts do not pair with 1"),
        (([["a", "b", "c"]],), {}, TypeError, "a pair of them, not 3 in a list: words are joined"),
        (([("a", 3)],), {}, TypeError, "a text of a pair must be a str, not int"),
        (("a",), {"truncation": "only_second", "max_length": 1}, ValueError, "there is no text_pair"),
        (
            ("ab", "xyz"),
            {"truncation": "only_first", "max_length": 2},
            ValueError,
            "'only_first' leaves no room for that text: of 2 tokens the other one takes 3",
        ),
    ],
)
def test_what_is_no_pair_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ByteTokenizer()(*arguments, **options)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 12))
def test_no_more_is_cut_than_must_be(first, second, room):
    a, b = kept(first, second, room, "longest_first")
    assert a <= first
    assert b <= second
    assert a + b == min(room, first + second)
