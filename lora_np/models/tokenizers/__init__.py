"""Text to token ids and back: bytes, or a pretrained vocabulary read from a model's files.

Reading order: base.py and batch.py (batches, chats, streams), special.py (tokens that are no text), options.py (what a
call is told), byte.py (the smallest tokenizer there is), pretrained.py (the real ones), load.py and gguf.py (the files
they come from), chat.py and sandbox.py (templates).
"""

from .byte import ByteTokenizer
from .gguf import tokenizer_from_gguf
from .load import load_tokenizer
from .pretrained import PretrainedTokenizer

__all__ = ["ByteTokenizer", "PretrainedTokenizer", "load_tokenizer", "tokenizer_from_gguf"]
