"""The course's running example: a model that writes Python learns to write it in CAPITALS, which one sees at a glance.

The texts are the source files of Python's own standard library, which every Python has: no download.
"""

import functools
import itertools

from lora_np.cli.task import evenly_spaced
from lora_np.models import AutoModelForCausalLM, AutoTokenizer
from lora_np.models.loading.auto import TINY_PYTHON
from lora_np.training import TextData, python_documents
from lora_np.training.data import split_documents


class Capitals:
    """The task, loaded once.

    train        `TextData`: source files in capitals; batch(seed, step)["input_ids"] is (batch_size, window)
    evaluation   {"capitals", "as written"}: windows of held-out files, (windows, window), both of the same places
    tokenizer    bytes

    most: how many source files to train on, None for all; reading them all takes a second or two.
    """

    def __init__(self, window=128, batch_size=8, windows=64, most=None):
        self.tokenizer = AutoTokenizer.from_pretrained(TINY_PYTHON)
        files = split_documents(source_files(), held_out=0.05)
        train = dict(itertools.islice(files["train"].items(), most))
        self.train = TextData(in_capitals(train), self.tokenizer, window, batch_size)
        texts = {"capitals": in_capitals(files["test"]), "as written": files["test"]}
        self.evaluation = {
            name: evenly_spaced(TextData(text, self.tokenizer, window, batch_size).windows(), windows)
            for name, text in texts.items()
        }

    def base(self):
        """The base model as it is shipped, fresh: it has seen the training files as they are written."""
        return AutoModelForCausalLM.from_pretrained(TINY_PYTHON)


@functools.cache
def source_files():
    """{name: text} of Python's own library, read once."""
    return python_documents()


def in_capitals(documents):
    """{name: text} with every ASCII letter a capital; all else stays, so that no text gets longer."""
    return {name: text.translate(TO_CAPITALS) for name, text in documents.items()}


TO_CAPITALS = {small: small - 32 for small in range(ord("a"), ord("z") + 1)}


def share_of_capitals(text):
    """How many of the letters in a text are capitals, 0 to 1; 0 if it has none."""
    letters = [letter for letter in text if letter.isalpha()]
    return sum(letter.isupper() for letter in letters) / max(1, len(letters))
