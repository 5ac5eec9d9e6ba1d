"""Texts that find the corners of a tokenizer, and small tokenizers to load."""

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

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
