"""Text to token ids and back: bytes, or a pretrained vocabulary read from a model's files.

Reading order: base.py and batch.py (batches, chats, streams), special.py (tokens that are no text), options.py (what a
call is told), byte.py (the smallest tokenizer there is), pretrained.py (the real ones), load.py and gguf.py (the files
they come from), templates.py, chat.py and sandbox.py (chat templates).
"""

from .batch import BatchEncoding
from .byte import ByteTokenizer
from .gguf import tokenizer_from_gguf
from .load import load_tokenizer
from .pretrained import PretrainedTokenizer
from .special import AddedToken

__all__ = [
    "AddedToken",
    "BatchEncoding",
    "ByteTokenizer",
    "PretrainedTokenizer",
    "load_tokenizer",
    "tokenizer_from_gguf",
]
