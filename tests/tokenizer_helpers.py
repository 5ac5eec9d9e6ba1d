"""Texts that find the corners of a tokenizer, and small tokenizers to load."""

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FRAGMENTS = [
    *(" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\x00", "\x1c", "\x85", "\xa0", "\u2028", "\u3000"),
    *("don't", "I'LL", "we've", "'s", "'", "''re", "A", "the", " the", "The", "hello", " world", "ß", "ſ"),
    *("0", "1", "42", " 7", "1234567", "3.14", "1e-5", "٣", "½", "Ⅷ", "²", "４２", "x1", "1x", "1 ", "  9"),
    *(
        "é",
        "e\u0301",
        "ñandú",
        "中文",
        "日本語",
        "한국어",
        "עברית",
        "हिन्दी",
        "😀",
        "👩‍💻",
        "\ufffd",
        "\ufeff",
        "\U00040000",
    ),
    *("def f(x):\n    return x\n", "if x == 1:\n\tpass", "==", "!=", "->", "()", "...", "#", "<|", "|>", "<s>", "```"),
]
SPECIAL = ["<|im_start|>", "<|im_end|>\n", " <|endoftext|> ", "<repo_name>"]


def texts(special=True):
    """Any Unicode text, often made of fragments on which tokenizers differ; also with special tokens in it."""
    fragments = st.sampled_from([*FRAGMENTS, *(SPECIAL if special else ())])
    return st.text() | st.lists(fragments | st.text(max_size=3), max_size=12).map("".join)


LEARNED_FROM = ["Hello world, hello low-rank world! How low is the rank?", "Ein Wort, zwei Wörter; 12 + 30 = 42."] * 4


def trained(vocab_size=400, special=("<unk>", "<s>", "</s>", "<pad>"), bos=None, added=()):
    """A small byte-level BPE (a `tokenizers.Tokenizer`) that puts the token `bos` before texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LEARNED_FROM, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    if bos:
        pairs = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=pairs)
    return tokenizer


def sentencepiece_like(prefix="prepend", special=("<unk>", "<s>", "</s>")):
    """A small BPE of Llama 2's kind (a `tokenizers.Tokenizer`): a space is "▁", unknown characters are bytes.

    prefix   what puts a "▁" before texts: "prepend" (a normalizer, as in Llama 2's file), or a Metaspace with this
             prepend_scheme: "always", "first", "never"
    """
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    letters = sorted(set("".join(LEARNED_FROM)) - {" "} | {"▁"})
    merges = [("▁", "l"), ("l", "o"), ("▁", "r"), ("▁l", "o"), ("▁", "▁"), ("a", "n"), ("▁r", "an"), ("▁", "H")]
    tokens = list(dict.fromkeys([*special, *bytes_, *letters, *("".join(pair) for pair in merges)]))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prefix == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=prefix, split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts + [decoders.Strip(" ", 1, 0)] * (prefix != "never"))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    pairs = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=pairs)
    return tokenizer
