"""SentencePiece's kind of BPE (Kudo and Richardson, 2018): tokens with scores, spaces as "▁", what is unknown as bytes.

Of all neighbours that make a token together, the pair whose token has the highest score is joined first; so the scores
say the order of the merges. Llama 2, Mistral and Gemma have such vocabularies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ...extras import require

if TYPE_CHECKING:
    import tokenizers

SPACE = "\u2581"  # ▁


def merges_by_score(
    vocabulary: Mapping[str, int], scores: Sequence[float], left_out: Collection[str]
) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, best first: by the score of what they make.

    vocabulary: {token: id}, scores: by id. Tokens `left_out` are neither made nor joined: in SentencePiece special ones
    and bytes stand beside the text, and user-defined ones are found in it before. A token that can be made in several
    ways is made with the longest left part first, as in Transformers.
    """
    ordinary = set(vocabulary).difference(left_out)
    best_first = sorted(ordinary, key=lambda token: (-scores[vocabulary[token]], vocabulary[token]))
    return [
        (token[:cut], token[cut:])
        for token in best_first
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in ordinary and token[cut:] in ordinary
    ]


def scored_bpe(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], unknown: str | None, prefix: bool
) -> tokenizers.Tokenizer:
    """A `tokenizers.Tokenizer` of this kind, with neither special tokens nor a rule for what surrounds a text.

    unknown: the token for what no token stands for, not even bytes. prefix: does a text begin with a "▁" of its own,
    and each part of it between special tokens?
    """
    tokenizers = require("tokenizers", "a pretrained tokenizer", "text")
    bytes_ = all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    model = tokenizers.models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=bytes_)
    backend = tokenizers.Tokenizer(model)
    spaces = tokenizers.normalizers.Replace(" ", SPACE)
    before = [tokenizers.normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = tokenizers.normalizers.Sequence([*before, spaces])
    decoders = tokenizers.decoders
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return backend
