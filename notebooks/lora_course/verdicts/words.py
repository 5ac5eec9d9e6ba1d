"""Numbers in words: a task with an exact reward, and a base that can do it only now and then.

A row is "4", "0", "7", "=", then the answer, then the end: tokens are digits and words. The base has read numbers in
three manners: right, digit by digit, and with a slip, one word being another. Only the first is rewarded.
"""

import numpy as np

from lora_np.autograd import manual_seed
from lora_np.models import GPT2Config, GPT2LMHeadModel
from lora_np.training import TrainingArguments, train

ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ONES += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
WORDS = [*ONES, *TENS, "hundred"]
VOCABULARY = ["end", "=", *"0123456789", *WORDS]
ID = {token: i for i, token in enumerate(VOCABULARY)}
END = ID["end"]
PROMPT, ANSWER = 4, 5  # tokens of "407=", and of the longest answer, its end included
MANNERS = {"right": 0.3, "digits": 0.3, "slip": 0.4}  # how often the base has read each
PARTS = {"train": 700, "validation": 100, "test": 200}  # of the numbers below 1,000
BASE = {"steps": 400, "rows": 64, "rate": 3e-3}


def spelled(n):
    """The words of a number below 1,000: 407 is four hundred seven."""
    hundreds, rest = divmod(n, 100)
    found = [ONES[hundreds], "hundred"] if hundreds else []
    if rest >= len(ONES):
        tens, ones = divmod(rest, 10)
        return [*found, TENS[tens - 2], *([ONES[ones]] if ones else [])]
    return found if hundreds and not rest else [*found, ONES[rest]]


def prompts(numbers):
    """Ids (n, 4)."""
    return np.array([[ID[d] for d in f"{n:03d}="] for n in numbers])


def answers(found):
    """Ids (n, 5) of lists of words, each filled up with ends."""
    return np.array([[ID[word] for word in words] + [END] * (ANSWER - len(words)) for words in found])


def right(numbers):
    """The ids (n, 5) of the right answers."""
    return answers([spelled(n) for n in numbers])


def labels(ids):
    """What is learnt of rows (n, 9): the answer up to its first end, -100 elsewhere."""
    found = np.full_like(ids, -100)
    found[:, PROMPT:] = np.where(written(ids[:, PROMPT:]), ids[:, PROMPT:], -100)
    return found


def written(ids):
    """Which tokens of answers (n, 5) were written: those up to the first end."""
    ended = np.cumsum(ids == END, axis=1)
    return (ended == 0) | ((ended == 1) & (ids == END))


def split(seed):
    """{"train", "validation", "test": numbers}, in a random order."""
    order = np.random.default_rng(seed).permutation(1000)
    return dict(zip(PARTS, np.split(order, np.cumsum(list(PARTS.values()))[:-1]), strict=True))


class Read:
    """Rows of numbers as the base reads them, or of right answers alone: what `train` takes."""

    def __init__(self, numbers, rows, manners=MANNERS):
        self.numbers, self.rows, self.manners = numbers, rows, manners
        self.batch_size = rows

    def batch(self, seed, step):
        rng = np.random.default_rng((seed, step))
        numbers = rng.choice(self.numbers, self.rows)
        manners = rng.choice(list(self.manners), self.rows, p=list(self.manners.values()))
        found = answers([self._answer(n, manner, rng) for n, manner in zip(numbers, manners, strict=True)])
        ids = np.concatenate([prompts(numbers), found], axis=1)
        return {"input_ids": ids, "labels": labels(ids)}

    def _answer(self, n, manner, rng):
        words = [ONES[int(d)] for d in f"{n:03d}"] if manner == "digits" else spelled(n)
        if manner == "slip":
            words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))]
        return words


def base(seed, small=False):
    """A model of 64 channels and two blocks that has read the training numbers in all manners."""
    manual_seed(seed)
    shape = {"n_positions": PROMPT + ANSWER, "n_embd": 64, "n_layer": 2, "n_head": 2}
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(vocab_size=len(VOCABULARY), bos_token_id=END, eos_token_id=END, **shape, **still)
    model = GPT2LMHeadModel(config)
    args = TrainingArguments(
        steps=40 if small else BASE["steps"], learning_rate=BASE["rate"], betas=(0.9, 0.98), seed=seed
    )
    train(model, Read(split(seed)["train"], BASE["rows"]), args, progress=False)
    return model
