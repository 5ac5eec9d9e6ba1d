"""Text to numbers and back."""

from pathlib import Path

import numpy as np

from ..storage import read_json, write_json


class ByteTokenizer:
    """One token per byte of UTF-8: ids 0 to 255. Every text has exactly one encoding, and none is unknown.

    Byte 0, which text does not use, stands between documents (`eos_token_id`).
    """

    vocab_size, eos_token_id = 256, 0

    def encode(self, text):
        """The ids of a text, a list of ints."""
        return list(text.encode("utf-8"))

    def decode(self, ids):
        """The text of some ids. Bytes that are not valid UTF-8, such as half a character, show as U+FFFD."""
        return bytes(int(i) for i in np.asarray(ids).reshape(-1)).decode("utf-8", errors="replace")

    def __call__(self, text):
        """{"input_ids": array (1, T)}: one text as a batch that a model takes."""
        return {"input_ids": np.array([self.encode(text)], dtype=np.int64)}

    def save_pretrained(self, directory):
        """Write tokenizer_config.json, by which `AutoTokenizer` finds this class again."""
        write_json(Path(directory) / "tokenizer_config.json", {"tokenizer_class": "ByteTokenizer"})


def load_tokenizer(directory):
    """The tokenizer that a directory's tokenizer_config.json names."""
    path = Path(directory) / "tokenizer_config.json"
    name = read_json(path).get("tokenizer_class")
    if name != "ByteTokenizer":
        raise ValueError(f"{path} asks for the tokenizer {name!r}; only 'ByteTokenizer' is known")
    return ByteTokenizer()
