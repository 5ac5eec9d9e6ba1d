"""What all tokenizers share: batches with padding and truncation, rows of ids, streams of text."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz
from tokenizer_helpers import texts, trained
from tokenizers import Tokenizer, decoders, models

from lora_np import ByteTokenizer, Tensor
from lora_np.models.tokenizers import PretrainedTokenizer


@pytest.fixture(scope="module")
def surrounded():
    """A tokenizer that puts <s> before every text."""
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PretrainedTokenizer(trained(bos="<s>"), config)


class TestBatches:
    def test_rows_of_one_length_need_no_padding(self):
        batch = ByteTokenizer()(["ab", "cd"], return_tensors="np")
        np.testing.assert_array_equal(batch["input_ids"], [[97, 98], [99, 100]])
        np.testing.assert_array_equal(batch["attention_mask"], np.ones((2, 2)))
        assert {a.dtype for a in batch.values()} == {np.dtype(np.int64)}

    @pytest.mark.filterwarnings("error")
    def test_tensors_are_the_arrays(self):
        tokenizer = ByteTokenizer()
        arrays, tensors = (tokenizer(["ab", "c"], padding=True, return_tensors=kind) for kind in ("np", "pt"))
        assert {type(one) for one in tensors.values()} == {Tensor}
        for name, one in tensors.items():
            np.testing.assert_array_equal(one.numpy(), arrays[name])
        padded = tokenizer.pad(tokenizer("ab", return_tensors="pt"), padding="max_length", max_length=4)
        assert type(padded.input_ids) is Tensor
        assert padded.input_ids.tolist() == [[97, 98, 0, 0]]
        assert type(tensors.to("cpu").input_ids) is Tensor

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_short_rows_are_padded_on_the_side_that_is_asked(self, side):
        rows = {"right": [[97, 0, 0], [98, 99, 100]], "left": [[0, 0, 97], [98, 99, 100]]}
        mask = {"right": [[1, 0, 0], [1, 1, 1]], "left": [[0, 0, 1], [1, 1, 1]]}
        tokenizer = ByteTokenizer()
        tokenizer.padding_side = side
        for batch in (
            tokenizer(["a", "bcd"], padding=True),
            ByteTokenizer()(["a", "bcd"], padding=True, padding_side=side),
        ):
            np.testing.assert_array_equal(batch["input_ids"], rows[side])
            np.testing.assert_array_equal(batch["attention_mask"], mask[side])

    def test_padding_to_a_fixed_length(self):
        batch = ByteTokenizer()(["a", "bc"], padding="max_length", max_length=4)
        np.testing.assert_array_equal(batch["input_ids"], [[97, 0, 0, 0], [98, 99, 0, 0]])

    def test_rows_of_different_lengths_make_no_array_without_padding(self):
        assert ByteTokenizer()(["a", "bcd"])["input_ids"] == [[97], [98, 99, 100]]
        with pytest.raises(ValueError, match=r"rows of 1 to 3 tokens.* pass padding=True"):
            ByteTokenizer()(["a", "bcd"], return_tensors="np")

    @pytest.mark.parity
    @pytest.mark.parametrize("text", ["Hello world", "", ["Hello world"], ["low", "Hello low rank"]])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"padding": True},
            {"padding": True, "return_tensors": "np", "padding_side": "left"},
            {"padding": "max_length", "max_length": 9},
            {"truncation": True, "max_length": 2, "return_offsets_mapping": True},
            {"padding": True, "return_offsets_mapping": True, "add_special_tokens": False},
        ],
    )
    def test_a_call_returns_what_transformers_returns(self, surrounded, text, options, tmp_path):
        from transformers import PreTrainedTokenizerFast

        surrounded.save_pretrained(tmp_path)
        twin = PreTrainedTokenizerFast.from_pretrained(tmp_path)
        found, expected = surrounded(text, **options), twin(text, **options)
        assert {name: type(rows) for name, rows in found.items()} == {k: type(v) for k, v in expected.items()}
        for name, rows in expected.items():
            assert np.array_equal(found[name], rows) if "return_tensors" in options else found[name] == rows
            assert found[name] is getattr(found, name)

    def test_a_name_that_an_encoding_has_not(self):
        with pytest.raises(AttributeError, match="no 'labels' in this encoding, it has input_ids, attention_mask"):
            _ = ByteTokenizer()("a").labels

    def test_an_empty_text_has_no_tokens(self):
        assert ByteTokenizer()("", return_tensors="np")["input_ids"].shape == (1, 0)
        np.testing.assert_array_equal(ByteTokenizer()(["", "a"], padding=True)["attention_mask"], [[0], [1]])

    def test_truncation_keeps_the_beginning_and_the_special_tokens(self, surrounded):
        whole = surrounded.encode("Hello world")
        assert whole[0] == surrounded.bos_token_id
        assert surrounded.encode("Hello world", truncation=True, max_length=2) == whole[:2]
        assert surrounded.encode("Hello world", add_special_tokens=False, truncation=True, max_length=1) == whole[1:2]
        assert surrounded("Hello world", truncation=True, max_length=99)["input_ids"] == whole
        assert ByteTokenizer().encode("abc", truncation=True, max_length=2) == [97, 98]

    def test_no_room_for_text_is_refused(self, surrounded):
        with pytest.raises(ValueError, match="max_length=1 leaves no room for text beside 1 special"):
            surrounded.encode("Hello", truncation=True, max_length=1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"truncation": True, "max_length": 0}, "max_length must be a positive integer, not 0"),
            ({"truncation": True, "max_length": 2.0}, r"not 2\.0"),
            (
                {"truncation": "only_second", "max_length": 2},
                "there is no text_pair",
            ),
            ({"truncation": 1, "max_length": 2}, "truncation must be .* not 1"),
            ({"padding": "long"}, "padding must be .* not 'long'"),
            ({"padding": 1}, "padding must be .* not 1"),
            ({"pad_to_multiple_of": 0}, "pad_to_multiple_of must be a positive integer, not 0"),
            ({"padding_side": "top"}, "'left' or 'right', not 'top'"),
            (
                {"return_tensors": "tf"},
                r"return_tensors='tf': .* lists \(None\), NumPy arrays \('np'\) and its own tensors",
            ),
            (
                {"is_split_into_words": True},
                r"is_split_into_words=True is not possible here: join the words .*' '\.join",
            ),
            ({"stride": 2}, "stride=2 is not possible here"),
            ({"return_overflowing_tokens": True}, "return_overflowing_tokens=True is not possible here"),
            ({"text_target": "d"}, "text_target='d' is not possible here: .* labels"),
            ({"return_token_type_ids": True}, "return_token_type_ids=True is not possible here"),
        ],
    )
    def test_options_that_contradict_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            ByteTokenizer()("abc", **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"truncation": True},
                "truncation=True without effect: give max_length, or set tokenizer.model_max_length",
            ),
            ({"padding": "max_length"}, "padding='max_length' without effect"),
            ({"max_length": 2, "padding": True}, "max_length=2 does nothing without truncation=True"),
            ({"max_length": 2, "truncation": False}, "max_length=2 does nothing without truncation=True"),
        ],
    )
    def test_options_without_effect_are_named(self, options, message):
        with pytest.warns(UserWarning, match=message) as caught:
            assert ByteTokenizer()("abc", **options) == ByteTokenizer()("abc")
        assert caught[0].filename == __file__

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"paddding": True}, "a tokenizer has no option 'paddding'; did you mean 'padding'"),
            ({"return_tensor": "np"}, "no option 'return_tensor'; did you mean 'return_tensors'"),
            ({"xyz": 1}, "a tokenizer has no option 'xyz'$"),
        ],
    )
    def test_an_option_that_there_is_not_is_named_with_the_nearest(self, options, message):
        for call in (ByteTokenizer(), ByteTokenizer().encode, ByteTokenizer().tokenize):
            with pytest.raises(TypeError, match=message):
                call("abc", **options)

    def test_words_are_refused(self):
        for text in ([("a", "b", "c")], [["a"]]):
            with pytest.raises(TypeError, match=r"or a pair of them, not \d in a list: words are joined"):
                ByteTokenizer()(text)

    def test_an_empty_list_is_refused(self):
        with pytest.raises(ValueError, match="there is no text"):
            ByteTokenizer()([])

    @pytest.mark.parametrize("text", [None, 3, b"abc", [["a"]], {"text": "a"}])
    def test_what_is_no_text_is_refused(self, text):
        for called_with in (text, [text]):
            with pytest.raises(TypeError, match=r"must be a str"):
                ByteTokenizer()(called_with)

    def test_without_a_padding_token_the_end_of_text_pads_and_without_both_none_does(self):
        tokenizer = PretrainedTokenizer(trained(), {"eos_token": "</s>"})
        ids = tokenizer(["low", "low rank world"], padding=True)["input_ids"]
        assert ids[0][-1] == tokenizer.eos_token_id
        tokenizer.eos_token = None
        with pytest.raises(ValueError, match=r"neither a pad_token nor an eos_token: set tokenizer\.pad_token"):
            tokenizer(["low", "low rank world"], padding=True)
        assert tokenizer(["low", "low"], padding=True)["input_ids"] == 2 * [tokenizer.encode("low")]  # nothing to fill


class TestRows:
    def test_a_row_may_be_a_list_or_an_array_of_either_shape(self):
        for row in ([104, 105], np.array([104, 105], np.uint8), np.array([[104, 105]]), [[104, 105]], (104, 105)):
            assert ByteTokenizer().decode(row) == (["hi"] if np.ndim(row) == 2 else "hi")
        assert ByteTokenizer().decode(np.zeros((1, 0), int)) == [""]
        assert ByteTokenizer().decode([]) == ""
        assert ByteTokenizer().decode(Tensor(np.array([104, 105]))) == "hi"
        assert ByteTokenizer().batch_decode(Tensor(np.array([[104], [105]]))) == ["h", "i"]
        assert ByteTokenizer().batch_decode([104, 105]) == ["hi"]
        assert ByteTokenizer().batch_decode(np.array([[104], [105]])) == ["h", "i"]

    def test_several_rows_give_several_texts(self):
        for rows in ([[104], [105]], np.array([[104], [105]]), [np.array([104]), np.array([105])], ((104,), (105,))):
            assert ByteTokenizer().decode(rows) == ByteTokenizer().batch_decode(rows) == ["h", "i"]
        assert ByteTokenizer().decode([[104], [105, 105]]) == ["h", "ii"]
        with pytest.raises(ValueError, match=r"one row of ids is wanted, not an array of shape \(2, 1\)"):
            ByteTokenizer().decode([[[104], [105]]])

    def test_ids_that_are_no_integers_are_refused(self):
        with pytest.raises(TypeError, match="integers, not float64"):
            ByteTokenizer().decode([104.0])

    @pytest.mark.parametrize("i", [-1, 2**32])
    def test_what_can_be_no_id_is_refused(self, surrounded, i):
        for tokenizer in (surrounded, ByteTokenizer()):
            with pytest.raises(ValueError, match=f"{i} is no token id"):
                tokenizer.decode([5, i])

    def test_an_id_behind_the_vocabulary_stands_for_no_text(self, surrounded):
        for tokenizer in (surrounded, ByteTokenizer()):
            for i in (tokenizer.vocab_size, tokenizer.vocab_size + 100, 2**31):
                ids = [*tokenizer.encode("low "), i, *tokenizer.encode("rank")]
                assert assert_streams(tokenizer, ids)
                assert tokenizer.decode(ids, skip_special_tokens=True) == "low rank"
                assert tokenizer.convert_ids_to_tokens(i) is None
        with pytest.raises(ValueError, match="eos_token_id = 999999: the vocabulary has no token"):
            surrounded.eos_token_id = 999999

    def test_tokens_and_ids(self, surrounded):
        ids = surrounded.encode("Hello <s>")
        tokens = surrounded.convert_ids_to_tokens(ids)
        assert tokens[0] == tokens[-1] == "<s>"
        assert surrounded.convert_tokens_to_ids(tokens) == ids
        assert surrounded.convert_ids_to_tokens(ids[0]) == "<s>"
        assert surrounded.convert_tokens_to_ids("no such token") == surrounded.unk_token_id
        assert surrounded.get_vocab()["<s>"] == surrounded.bos_token_id

    @pytest.mark.gpu
    def test_a_row_on_the_gpu_is_fetched(self):
        import cupy

        assert ByteTokenizer().decode(cupy.array([[104, 105]])) == ["hi"]


def assert_streams(tokenizer, ids, skip_special_tokens=False):
    """The pieces together are the text, and no piece is empty."""
    pieces = list(tokenizer.decode_stream(iter(ids), skip_special_tokens))
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens)
    assert all(pieces)
    return pieces


class TestStreams:
    def test_a_character_comes_whole(self):
        assert assert_streams(ByteTokenizer(), list("aé😀b".encode())) == ["a", "é", "😀", "b"]

    def test_text_comes_as_soon_as_it_is_whole(self):
        arrived = []

        def ids():
            for i in "né!".encode():
                arrived.append(i)
                yield i

        seen = [(piece, len(arrived)) for piece in ByteTokenizer().decode_stream(ids())]
        assert seen == [("n", 1), ("é", 3), ("!", 4)]

    def test_half_a_character_at_the_end_comes_out(self):
        assert assert_streams(ByteTokenizer(), list("a😀".encode()[:-1])) == ["a", "\ufffd"]

    @settings(fuzz, max_examples=300)
    @given(st.binary(max_size=100) | st.lists(st.sampled_from(b"\xf0\x9f\x98\x80\xe2\x82a\xff"), max_size=150))
    def test_any_bytes(self, content):
        assert_streams(ByteTokenizer(), list(content))

    @pytest.mark.parametrize("unit", [b"\x80", b"\xf0\x9f\x98", b"\xef\xbf\xbd", b"\xe2a\x82"])
    def test_what_never_settles(self, unit):
        assert_streams(ByteTokenizer(), list(unit * 32))

    @settings(fuzz, max_examples=100)
    @given(text=texts(), ids=st.lists(st.integers(0, 300), max_size=80), skip=st.booleans())
    def test_a_learned_vocabulary(self, surrounded, text, ids, skip):
        assert_streams(surrounded, surrounded.encode(text), skip)
        assert_streams(surrounded, ids, skip)

    @settings(fuzz, max_examples=100)
    @given(text=texts(), ids=st.lists(st.integers(0, 49151), max_size=100), skip=st.booleans())
    def test_smollm2(self, smollm2, text, ids, skip):
        assert_streams(smollm2, smollm2.encode(text), skip)
        assert_streams(smollm2, ids, skip)

    def byte_fallback(self):
        """(tokens, tokenizer) as of Llama 2: a word's space is "▁", the first one is dropped, and unknown characters
        are bytes."""
        tokens = ["▁Hi", "▁", "x", *(f"<0x{i:02X}>" for i in range(256))]
        backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(parts)
        return tokens, PretrainedTokenizer(backend, {})

    @settings(fuzz, max_examples=60)
    @given(st.lists(st.sampled_from(["▁Hi", "▁", "x", "😀", "é", "\n"]), max_size=30))
    def test_a_decoder_that_treats_the_first_token_otherwise(self, words):
        (tokens, tokenizer), ids = self.byte_fallback(), []
        for word in words:
            ids += [tokens.index(word)] if word in tokens else [tokens.index(f"<0x{b:02X}>") for b in word.encode()]
        assert tokenizer.decode(ids) == "".join(words).replace("▁", " ").removeprefix(" ")
        assert_streams(tokenizer, ids)

    @settings(fuzz, max_examples=200)
    @given(
        st.lists(st.sampled_from([b"\xf0\x9f", b"\x80", b"a", "é".encode(), "😀".encode(), "▁Hi", "x"]), max_size=20)
    )
    def test_bytes_that_turn_their_neighbours_into_none(self, words):
        """What is out cannot be taken back: pieces and text differ only in characters that became U+FFFD."""
        (tokens, tokenizer), ids = self.byte_fallback(), []
        for word in words:
            ids += [tokens.index(word)] if isinstance(word, str) else [tokens.index(f"<0x{b:02X}>") for b in word]
        pieces = list(tokenizer.decode_stream(iter(ids)))
        assert all(pieces)
        for shown, settled in zip("".join(pieces), tokenizer.decode(ids), strict=True):
            assert settled in (shown, "\ufffd")

    def test_what_can_be_no_id_is_refused_when_it_comes(self, surrounded):
        for tokenizer in (ByteTokenizer(), surrounded):
            pieces = tokenizer.decode_stream(iter([65, -1]))
            assert next(pieces)
            with pytest.raises(ValueError, match="-1 is no token id"):
                next(pieces)

    @settings(fuzz, max_examples=60)
    @given(before=texts(), text=texts(), skip=st.booleans())
    def test_text_that_goes_on_from_another(self, surrounded, before, text, skip):
        for tokenizer in (surrounded, ByteTokenizer()):
            first, second = tokenizer.encode(before), tokenizer.encode_continuation(text)
            pieces = "".join(tokenizer.decode_stream(second, skip, before=first))
            assert tokenizer.decode(first, skip) + pieces == tokenizer.decode(first + second, skip)

    @pytest.mark.parametrize("unit", [b"text ", b"\x80"], ids=["text", "no text"])
    def test_time_grows_with_the_length_not_its_square(self, unit):
        def seconds(length):
            start = time.process_time()
            for _ in ByteTokenizer().decode_stream(unit * length):
                pass
            return time.process_time() - start

        short = min(seconds(1000) for _ in range(3))
        assert min(seconds(8000) for _ in range(2)) < 24 * short  # 8 times as long; its square would be 64 times
