"""SmolLM2's tokenizer from GGUF metadata: against Transformers, and against a BPE written out by hand."""

import copy
import itertools
import json
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz
from tokenizer_helpers import SPECIAL, texts, trained
from tokenizers import Tokenizer

from lora_np.models.tokenizers import load_tokenizer, tokenizer_from_gguf
from lora_np.models.tokenizers.gguf import RULES

thorough = settings(fuzz, max_examples=400)

# Bytes that SmolLM2's vocabulary does not have: some control characters, and what begins no assigned character.
UNKNOWN = set("\x04\x06\x13\x14\x16\x1d")


def is_known(character):
    return character not in UNKNOWN and not 0x40000 <= ord(character) < 0xC0000


@thorough
@given(texts())
def test_every_text_comes_back(smollm2, text):
    text = "".join(filter(is_known, text))
    assert smollm2.decode(smollm2.encode(text)) == text


@pytest.mark.parametrize("character", sorted([*UNKNOWN, "\U00040000", "\U000bffff"]))
def test_a_byte_that_is_not_in_the_vocabulary_is_left_out(smollm2, character):
    assert character not in smollm2.decode(smollm2.encode(f"a{character}b"))


def test_the_special_tokens(smollm2):
    assert (smollm2.bos_token, smollm2.bos_token_id) == ("<|im_start|>", 1)
    assert (smollm2.eos_token, smollm2.eos_token_id) == ("<|im_end|>", 2)
    assert (smollm2.pad_token, smollm2.pad_token_id) == ("<|im_end|>", 2)
    assert (smollm2.unk_token, smollm2.unk_token_id) == ("<|endoftext|>", 0)
    assert sorted(smollm2.all_special_ids) == list(range(17))
    assert smollm2.vocab_size == len(smollm2) == len(smollm2.get_vocab()) == 49152
    assert smollm2.encode("<|im_start|>") == [1]
    assert smollm2.encode("a")[0] > 16  # none is added
    assert smollm2.decode([1, *smollm2.encode("a b"), 2], skip_special_tokens=True) == "a b"
    assert "system" in smollm2.chat_template


@pytest.fixture(scope="module", params=[None, "llama", "gpt2"])
def saved(request, smollm2, tmp_path_factory):
    """Transformers' tokenizer of a directory written here; with a model's config beside it, or without."""
    from transformers import AutoConfig, AutoTokenizer

    directory = tmp_path_factory.mktemp("saved")
    smollm2.save_pretrained(directory)
    if request.param is not None:
        AutoConfig.for_model(request.param).save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def from_gguf(smollm2_gguf):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)


@pytest.mark.parity
class TestTransformers:
    @thorough
    @given(text=texts(), skip=st.booleans(), ids=st.lists(st.integers(0, 49151), max_size=40))
    def test_a_saved_directory_gives_equal_ids_and_text(self, smollm2, saved, text, skip, ids):
        found = smollm2.encode(text)
        assert found == saved.encode(text)
        for row in (found, ids):
            assert smollm2.decode(row, skip) == saved.decode(row, skip_special_tokens=skip)

    def test_a_saved_directory_gives_equal_special_tokens(self, smollm2, saved):
        for name in ("bos", "eos", "pad", "unk"):
            assert getattr(saved, f"{name}_token_id") == getattr(smollm2, f"{name}_token_id")
        assert sorted(saved.all_special_ids) == sorted(smollm2.all_special_ids)
        assert saved.chat_template == smollm2.chat_template
        assert saved.padding_side == smollm2.padding_side
        assert saved.get_vocab() == smollm2.get_vocab()
        assert len(saved) == smollm2.vocab_size

    @thorough
    @given(texts())
    def test_their_own_reading_of_the_file_agrees_on_texts_without_digits(self, smollm2, from_gguf, text):
        """They do not read the splitting rule's name, and so join digits and the white space before them."""
        text = "".join(c for c in text if not unicodedata.category(c).startswith("N"))
        ids = smollm2.encode(text)
        assert ids == from_gguf.encode(text)
        assert smollm2.decode(ids) == from_gguf.decode(ids)


def test_a_saved_directory_loads_here_as_it_was(smollm2, smollm2_saved):
    loaded = load_tokenizer(smollm2_saved)
    assert loaded.backend.to_str() == smollm2.backend.to_str()
    assert loaded.all_special_ids == smollm2.all_special_ids
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "chat_template", "padding_side"):
        assert getattr(loaded, name) == getattr(smollm2, name)


@pytest.fixture(scope="module")
def tables(smollm2_metadata):
    vocabulary = {token: i for i, token in enumerate(smollm2_metadata["tokenizer.ggml.tokens"])}
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(smollm2_metadata["tokenizer.ggml.merges"])}
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    alphabet = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return vocabulary, ranks, alphabet


class TestByHand:
    """Byte-level BPE in plain Python, with GPT-2's splitting rule read character by character."""

    SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
        chr(c) for c in range(0x2000, 0x200B)
    }
    CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

    @classmethod
    def kind(cls, character):
        if character in cls.SPACES:
            return "space"
        category = unicodedata.category(character)[0]
        return {"L": "letter", "N": "number"}.get(category, "sign")

    @classmethod
    def split_digits(cls, text):
        """Each digit alone; what lies between, whole."""
        start = 0
        for i, character in enumerate(text):
            if cls.kind(character) == "number":
                yield from [text[start:i], character] if i > start else [character]
                start = i + 1
        if start < len(text):
            yield text[start:]

    @classmethod
    def words(cls, text):
        i = 0
        while i < len(text):
            end = cls.end_of_word(text, i)
            yield text[i:end]
            i = end

    @classmethod
    def end_of_word(cls, text, i):
        for contraction in cls.CONTRACTIONS:
            if text.startswith(contraction, i):
                return i + len(contraction)
        first = i + 1 if text[i] == " " and i + 1 < len(text) else i
        kind = cls.kind(text[first])
        if kind == "space":
            first, kind = i, "space"
        end = first
        while end < len(text) and cls.kind(text[end]) == kind:
            end += 1
        # Of white space before a word, the last one belongs to the word (or, if it is no " ", stands alone).
        return end - 1 if kind == "space" and end < len(text) and end - i > 1 else end

    @classmethod
    def merge(cls, symbols, ranks):
        while len(symbols) > 1:
            ranked = [(ranks.get(pair, len(ranks)), i) for i, pair in enumerate(itertools.pairwise(symbols))]
            rank, i = min(ranked)
            if rank == len(ranks):
                break
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        return symbols

    def encode(self, text, tables):
        vocabulary, ranks, alphabet = tables
        for piece in self.split_digits(text):
            for word in self.words(piece):
                symbols = [alphabet[byte] for byte in word.encode() if alphabet[byte] in vocabulary]
                yield from (vocabulary[token] for token in self.merge(symbols, ranks))

    @thorough
    @given(texts(special=False))
    def test_the_ids_are_equal(self, smollm2, tables, text):
        old = unicodedata.ucd_3_2_0.category  # characters of which every library's tables say the same
        assume(all(old(c)[0] == unicodedata.category(c)[0] and old(c) != "Cn" for c in text))
        assume(not any(token.strip() in text for token in SPECIAL))
        assert smollm2.encode(text) == list(self.encode(text, tables))

    def test_digits_stand_alone(self, smollm2, tables):
        ids = smollm2.encode("in  1234 ways")
        assert [smollm2.decode([i]) for i in ids] == ["in", "  ", "1", "2", "3", "4", " ways"]
        assert ids == list(self.encode("in  1234 ways", tables))


def metadata_of(backend, **changes):
    """GGUF key-values of a byte-level BPE; a change to None removes its key."""
    vocabulary = backend.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    added = backend.get_added_tokens_decoder()
    kinds = [1 if i not in added else 3 if added[i].special else 4 for i in range(len(tokens))]
    merges = [" ".join(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    fields = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": kinds, "merges": merges, **changes}
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items() if value is not None}


@pytest.fixture(scope="module")
def backend():
    return trained(special=("<s>", "</s>"), added=("<think>", "low rank"))


class TestSmallFiles:
    @settings(fuzz, max_examples=200)
    @given(texts().flatmap(lambda text: st.sampled_from([text, f"{text}<think>low rank", f"<s>{text}</s>"])))
    @pytest.mark.parametrize("pre", ["gpt-2", "default", None])
    def test_a_bpe_comes_back_from_its_metadata(self, backend, pre, text):
        tokenizer = tokenizer_from_gguf(metadata_of(backend, pre=pre))
        assert tokenizer.encode(text) == backend.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_control_tokens_are_special_and_user_defined_ones_are_text(self, backend):
        tokenizer = tokenizer_from_gguf(metadata_of(backend))
        assert tokenizer.convert_ids_to_tokens(tokenizer.all_special_ids) == ["<s>", "</s>"]
        assert len(tokenizer.encode("<think>")) == 1
        assert tokenizer.decode(tokenizer.encode("<s><think>"), skip_special_tokens=True) == "<think>"

    def test_without_types_named_tokens_are_special(self, backend):
        tokenizer = tokenizer_from_gguf(metadata_of(backend, token_type=None, eos_token_id=1))
        assert tokenizer.all_special_ids == [1]
        assert tokenizer.encode("</s>") == [1]
        assert len(tokenizer.encode("<s>")) > 1
        assert tokenizer.bos_token is tokenizer.pad_token is tokenizer.bos_token_id is tokenizer.chat_template is None

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, "a"),
            ({"add_bos_token": True}, "<s>a"),
            ({"add_eos_token": True}, "a</s>"),
            ({"add_bos_token": True, "add_eos_token": True}, "<s>a</s>"),
            ({"add_bos_token": True, "add_eos_token": True, "eos_token_id": 0}, "<s>a<s>"),
            ({"pre": "llama-bpe"}, "<s>a"),
            ({"pre": "llama-bpe", "add_bos_token": False}, "a"),
            ({"pre": "llama-bpe", "bos_token_id": None}, "a"),
        ],
    )
    def test_special_tokens_around_a_text(self, backend, changes, expected):
        changes = {"bos_token_id": 0, "eos_token_id": 1, **changes}
        tokenizer = tokenizer_from_gguf(metadata_of(backend, **changes))
        assert tokenizer.decode(tokenizer.encode("a")) == expected
        assert tokenizer.decode(tokenizer.encode("a", add_special_tokens=False)) == "a"

    @pytest.mark.parametrize(
        ("pre", "text", "pieces"),
        [
            ("gpt-2", "I'M 1234  x!\n\n y", ["I", "'", "M", " 1234", " ", " x", "!", "\n\n", " y"]),
            ("smollm", "I'M 1234  x!\n\n y", ["I", "'", "M", " ", "1", "2", "3", "4", " ", " x", "!", "\n\n", " y"]),
            ("llama-bpe", "I'M 1234  x!\n\n y", ["I", "'M", " ", "123", "4", " ", " x", "!\n\n", " y"]),
            ("qwen2", "I'M 1234  x!\n\n y", ["I", "'M", " ", "1", "2", "3", "4", " ", " x", "!\n\n", " y"]),
            ("llama-bpe", "(e\u0301)", ["(e", "\u0301)"]),
            ("qwen2", "(e\u0301)", ["(é", ")"]),
        ],
    )
    def test_how_each_rule_splits(self, backend, pre, text, pieces):
        backend = tokenizer_from_gguf(metadata_of(backend, pre=pre)).backend
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        found = [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]
        assert found == pieces

    @pytest.mark.parity
    def test_a_file_that_names_no_rule_gives_a_warning(self, backend, recwarn):
        tokenizer_from_gguf(metadata_of(backend))
        assert not recwarn.list
        with pytest.warns(UserWarning, match=r"does not say how texts are split \(tokenizer\.ggml\.pre\)"):
            tokenizer_from_gguf(metadata_of(backend, pre=None))

    @pytest.mark.parity
    @pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
    def test_the_rules_are_those_of_transformers(self, pre):
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

        assert RULES[pre].regex == GGUF_PRE_TOKENIZER_SPLITS[pre]

    def test_a_piece_that_is_a_token_is_not_merged_by_llamas_rule(self):
        """Llama 3 has tokens that its merges do not lead to."""
        backend = trained(special=("<s>",))
        metadata = metadata_of(backend)
        metadata["tokenizer.ggml.tokens"].append("zqzq")
        metadata["tokenizer.ggml.token_type"].append(1)
        assert len(tokenizer_from_gguf(metadata).encode("zqzq")) == 4
        metadata["tokenizer.ggml.pre"] = "llama-bpe"
        assert len(tokenizer_from_gguf(metadata).encode("zqzq")) == 1

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model": None}, r"no tokenizer\.ggml\.model"),
            ({"model": "bert"}, r"tokenizer\.ggml\.model is 'bert'; known here are 'gpt2'"),
            ({"model": 3}, r"tokenizer\.ggml\.model should be a text, not int"),
            (
                {"pre": "tekken"},
                r"tokenizer\.ggml\.pre is 'tekken'; the rules known here are 'default', 'gpt-2'",
            ),
            ({"pre": ["gpt-2"]}, r"tokenizer\.ggml\.pre should be a text, not list"),
            ({"tokens": None}, r"no tokenizer\.ggml\.tokens"),
            ({"tokens": "abc"}, r"tokenizer\.ggml\.tokens should be a list, not str"),
            ({"tokens": ["a", 3]}, r"an entry of tokenizer\.ggml\.tokens should be a text, not int"),
            ({"tokens": ["a", "b", "a"]}, r"tokenizer\.ggml\.tokens has 'a' more than once"),
            ({"tokens": []}, "do not fit"),
            ({"merges": None}, r"no tokenizer\.ggml\.merges"),
            ({"merges": ["ab"]}, r"tokenizer\.ggml\.merges has 'ab'; each should be two tokens"),
            ({"merges": ["a b c"]}, r"tokenizer\.ggml\.merges has 'a b c'"),
            ({"merges": ["a nothing"]}, "vocabulary and merges do not fit"),
            ({"token_type": [1, 1]}, r"token_type has 2 entries for \d+ tokens"),
            ({"token_type": [1.0]}, r"an entry of tokenizer\.ggml\.token_type should be a whole number, not float"),
            ({"bos_token_id": 10**6}, r"tokenizer\.ggml\.bos_token_id is 1000000, but there are \d+ tokens"),
            ({"eos_token_id": -1}, r"tokenizer\.ggml\.eos_token_id is -1"),
            ({"padding_token_id": "1"}, r"tokenizer\.ggml\.padding_token_id should be a whole number, not str"),
            ({"unknown_token_id": True}, r"tokenizer\.ggml\.unknown_token_id should be a whole number, not bool"),
            ({"add_bos_token": 1}, r"tokenizer\.ggml\.add_bos_token should be true or false, not int"),
        ],
    )
    def test_metadata_that_makes_no_tokenizer_is_refused(self, backend, changes, message):
        with pytest.raises(ValueError, match=message):
            tokenizer_from_gguf(metadata_of(backend, **changes))

    def test_a_chat_template_is_a_text(self, backend):
        metadata = {**metadata_of(backend), "tokenizer.chat_template": ["x"]}
        with pytest.raises(ValueError, match=r"tokenizer\.chat_template should be a text, not list"):
            tokenizer_from_gguf(metadata)

    def test_the_metadata_is_not_changed(self, backend):
        metadata = metadata_of(backend)
        before = copy.deepcopy(metadata)
        tokenizer_from_gguf(metadata)
        assert metadata == before
        assert isinstance(backend, Tokenizer)
