"""Examples as training data: prompts and the answers to them, of which only the answers are learnt.

An example is a dict of one of three kinds, and every kind may have a "group" beside (see `split_examples`):

    {"text": ...}                                  everything is learnt
    {"prompt": ..., "completion": ...}             the completion is learnt
    {"messages": [{"role", "content"}, ...]}       what the role "assistant" says is learnt

What is not learnt has the label -100. The model still reads it: the loss of each learnt token depends on all before.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Any

import numpy as np

from ..expect import A_TOKENIZER, expect_list, expect_method, expect_path, expect_whole
from ..models.output import IGNORED
from ..storage import write_text
from .data import ended, hashed_fraction
from .datasets import examples_of
from .order import rows_of_step
from .packing import pack
from .protocols import Array, Batch, Example, Tokenizer
from .records import EXPECTED, as_messages, read_records
from .turns import tokenize_chat, unlearnt_end

KINDS = ({"text"}, {"prompt", "completion"}, {"messages"})
A_LIST = "a list of examples, such as load_examples(path) gives it"


def load_examples(path: str | PathLike[str]) -> list[Example]:
    """The examples in a file, all with the same fields.

    JSONL: one JSON object per line; blank lines are skipped. JSON: one list of objects. `.csv` and `.tsv`: tables with
    the names of the fields in the first line. Files for chats are read as messages: those with instruction (and input)
    and output, question and answer, or ShareGPT's conversations.
    FileNotFoundError if there is no such file; ValueError with the file's name and the line's or example's number if
    that cannot be read, has other fields than an example, has no text where it needs some, or is of another kind than
    the first.
    """
    expect_path(path, "path", "the path of a file of examples")
    first = ""
    examples: list[Example] = []
    for where, record in read_records(path):
        examples.append(as_messages(record, where))
        check_example(examples[-1], where)
        fields = ", ".join(sorted(examples[-1]))
        first = first or fields
        if fields != first:
            raise ValueError(f"{where} has the fields {fields}, but those above {first}: use one kind per file")
    if not examples:
        raise ValueError(f"{path} is empty: there is no example in it")
    return examples


def write_jsonl(path: str | PathLike[str], examples: Iterable[Example]) -> None:
    """Write examples as `load_examples` reads them, one JSON object per line."""
    examples = expect_list(examples, "examples", A_LIST)
    write_text(path, "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples))


def check_example(example: Any, where: str = "the example") -> None:
    """ValueError, beginning with `where`, unless `example` is of one of the three kinds and has something to learn."""
    if not isinstance(example, dict):
        raise ValueError(f"{where} should be a JSON object, not a {type(example).__name__}")
    fields = set(example) - {"group"}
    if fields not in KINDS:
        names = sorted(map(str, example))
        found = ", ".join(name if name == name.strip() != "" else repr(name) for name in names) or "none"
        if "input_ids" in fields:
            raise ValueError(f"{where} has the fields {found}: it is tokenised already, which Trainer takes")
        raise ValueError(f"{where} has the fields {found}; expected are {EXPECTED}")
    for name in example.keys() - {"messages"}:
        _check_text(example[name], f"{where}: {name}")
    if "messages" in fields:
        _check_messages(example["messages"], where)
    for name in fields & {"text", "completion"}:
        if not example[name].strip():
            raise ValueError(f"{where}: {name} is empty, so there is nothing to learn from it")


def _check_messages(messages: Any, where: str) -> None:
    """At least one answer, none empty, and somebody who asks first."""
    if not isinstance(messages, list) or not messages:
        raise ValueError(f'{where}: messages should be a list of {{"role", "content"}}, got {messages!r:.80}')
    for number, message in enumerate(messages, 1):
        here = f"{where}: message {number}"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise ValueError(f"{here} should have exactly the fields role and content, got {message!r:.80}")
        for name, value in message.items():
            _check_text(value, f"{here}: {name}")
        if message["role"] == "assistant" and not message["content"].strip():
            raise ValueError(f"{here}, an answer of the assistant, is empty, so there is nothing to learn from it")
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise ValueError(f"{where} has no message with the role assistant, so there is nothing to learn from it")
    if roles[0] == "assistant":
        raise ValueError(f"{where} begins with the assistant's message: a prompt has to stand before the answer")


def _check_text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{where} should be a string, got {value!r:.80}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} is not valid text: half a character (a lone surrogate) at {error.start}") from None


def tokenize_example(
    example: Example, tokenizer: Tokenizer, max_length: int | None = None
) -> tuple[list[int], list[int]]:
    """(ids, labels) of one example, two lists of the same length, at most `max_length`.

    text          the text's ids and the end token; all are targets.
    prompt and    the prompt's ids, with the special tokens that the tokenizer puts before a text, then the
    completion    completion's, then the end token; targets from the completion on. The two are tokenised apart,
                  because at inference the prompt stands alone: a token across the border would never be seen there.
    messages      the conversation as the tokenizer's chat template renders it; targets are the assistant's turns with
                  what ends them, but not the header which the template puts before an answer.
    A label is the token's id if the token is a target, else -100; the first is always -100, as nothing precedes it.
    What comes after the last target is left out, since it has no influence on any. Both lists are empty if no target
    is left. ValueError if the example is none, or if its targets cannot be found with this chat template.
    """
    check_example(example)
    expect_method(tokenizer, "encode", "tokenizer", A_TOKENIZER)
    ids, is_target = _tokenized(example, tokenizer)
    labels = [i if learnt else IGNORED for i, learnt in zip(ids, is_target, strict=True)][:max_length]
    labels[:1] = [IGNORED] * len(labels[:1])
    while labels and labels[-1] == IGNORED:
        labels.pop()
    return ids[: len(labels)], labels


def _tokenized(example: Example, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """(ids, whether each is a target) of a whole example."""
    if "messages" in example:
        return tokenize_chat(example["messages"], tokenizer)
    if "text" in example:
        ids = ended(tokenizer.encode(example["text"]), tokenizer)
        return ids, [True] * len(ids)
    prompt, text = tokenizer.encode(example["prompt"]), example["completion"]
    begins = not example["prompt"]
    completion = tokenizer.encode(text, add_special_tokens=False) if begins else tokenizer.encode_continuation(text)
    completion = ended(completion, tokenizer)
    return [*prompt, *completion], [False] * len(prompt) + [True] * len(completion)


def split_examples(examples: Sequence[Example], held_out: float = 0.1, seed: int = 0) -> dict[str, list[Example]]:
    """{"train", "validation"}: each example goes where a hash of its content says, or of its "group" if all have one.

    Equal examples, and all of a group, are on the same side, so that nothing is validated that was trained on.
    Validation gets about the share `held_out`, and neither side is ever empty. ValueError if there is only one
    example or group, if only some have a group, or if `held_out` is not between 0 and 1.
    """
    examples = expect_list(examples_of(examples, "examples"), "examples", A_LIST)
    for number, example in enumerate(examples, 1):
        check_example(example, f"example {number}")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {held_out}")
    grouped = ["group" in example for example in examples]
    if any(grouped) and not all(grouped):
        raise ValueError(f"{sum(grouped)} of {len(grouped)} examples have a group: all need one, or none")
    keys = [json.dumps(example.get("group", example), sort_keys=True) for example in examples]
    fractions = {key: hashed_fraction(f"{seed}:{key}") for key in keys}
    if len(fractions) < 2:
        what = "groups" if any(grouped) else "different examples"
        raise ValueError(f"nothing can be held out: at least two {what} are needed, here is {len(fractions)}")
    in_order = sorted(fractions, key=fractions.__getitem__)
    held = {key for key in in_order if fractions[key] < held_out} or {in_order[0]}
    if len(held) == len(fractions):
        held.remove(in_order[-1])
    return {
        "train": [example for example, key in zip(examples, keys, strict=True) if key not in held],
        "validation": [example for example, key in zip(examples, keys, strict=True) if key in held],
    }


class ExampleData:
    """Examples as rows of tokens and labels, in batches padded on the right.

    batch(seed, step)    {"input_ids", "labels"}, (B, T) each. The order of every epoch is a permutation that follows
                         from the seed and the epoch's number, so the batch of any step follows from seed and step, and
                         each row comes once per epoch. A batch at the end of an epoch is filled from the next one.
    batches(batch_size)  every row once, for `evaluate`, rows of like length together.
    tokens, is_target    all rows, one after another: the ids, and which of them are learnt
    offsets              where in these each row begins, and where the last one ends
    begins               with packing: which of the tokens are the first of an example; else None
    examples, rows       how many there are
    longest              the T of a batch that has the longest row

    T is the longest row of a batch, rounded up to a multiple of 8 (fewer shapes, and such that a GPU likes), but not
    over `max_length`. An example that is longer is cut at its end; one that has no target left is dropped, with a
    warning that says how many were.

    packing: several examples share a row of up to `max_length` tokens, so that little is padding. The longest go
    first, each into the fullest row that still has room for it (best fit decreasing). A batch then also has
    "seq_idx" (B, T), the number of each token's example in its row: no token sees another example, positions begin
    anew in each, and none is predicted from another, for the first token of each has the label -100. So an example
    teaches what it teaches in a row of its own.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        max_length: int,
        batch_size: int,
        packing: bool = False,
    ) -> None:
        examples = expect_list(examples_of(examples, "examples"), "examples", A_LIST)
        expect_method(tokenizer, "encode", "tokenizer", A_TOKENIZER)
        expect_whole(batch_size, "batch_size")
        expect_whole(max_length, "max_length", least=2)
        self.max_length, self.batch_size = max_length, batch_size
        found = [_as_arrays(*tokenize_example(example, tokenizer, max_length)) for example in examples]
        kept = [(ids, is_target) for ids, is_target in found if len(ids)]
        _report_dropped(len(found) - len(kept), len(found), max_length)
        lengths = [len(ids) for ids, _ in kept]
        rows = pack(lengths, max_length) if packing else [[i] for i in range(len(kept))]
        order = [i for row in rows for i in row]
        self.tokens = np.concatenate([kept[i][0] for i in order])
        self.is_target = np.concatenate([kept[i][1] for i in order])
        self.offsets = np.cumsum([0, *(sum(lengths[i] for i in row) for row in rows)])
        self.begins: Array | None = None
        if packing:
            self.begins = np.zeros(len(self.tokens), bool)
            self.begins[np.cumsum([0, *(lengths[i] for i in order[:-1])])] = True
        self.examples, self.rows = len(kept), len(rows)
        self.pad_id = self._padding(tokenizer)
        _report_endless(examples, tokenizer)

    def _padding(self, tokenizer: Tokenizer) -> int:
        """What fills short rows. It is never learnt nor seen by what is, so any token does that the model has: a pad
        token that was added behind the vocabulary, higher than all ids here, may have no row in the model."""
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
        return next((i for i in known if i is not None and i <= self.tokens.max()), 0)

    @property
    def longest(self) -> int:
        return self._width(int(np.diff(self.offsets).max()))

    def _width(self, tokens: int) -> int:
        return min(-(-tokens // 8) * 8, self.max_length)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.rows:,} rows of up to {self.longest} tokens, in batches of {self.batch_size})"
        )

    def batch(self, seed: int, step: int) -> Batch:
        return self._padded(rows_of_step(seed, step, self.batch_size, self.rows))

    def batches(self, batch_size: int) -> Iterator[Batch]:
        order = np.argsort(np.diff(self.offsets), kind="stable")
        for start in range(0, self.rows, batch_size):
            yield self._padded(order[start : start + batch_size])

    def _padded(self, rows: Sequence[int] | Array) -> Batch:
        """The rows with these numbers, as a batch."""
        spans = [slice(self.offsets[row], self.offsets[row + 1]) for row in rows]
        longest = max(span.stop - span.start for span in spans)
        shape = len(rows), self._width(longest)
        ids, labels = np.full(shape, self.pad_id, np.int64), np.full(shape, IGNORED, np.int64)
        for i, span in enumerate(spans):
            tokens = self.tokens[span]
            ids[i, : len(tokens)] = tokens
            labels[i, : len(tokens)] = np.where(self.is_target[span], tokens, IGNORED)
        batch = {"input_ids": ids, "labels": labels}
        return batch if self.begins is None else {**batch, "seq_idx": _numbered(self.begins, spans, ids.shape)}


def _numbered(begins: Array, spans: list[slice], shape: tuple[int, int]) -> Array:
    """The number of each token's example in its row; padding, which nobody sees, has that of the last."""
    first = np.zeros(shape, bool)
    for row, span in zip(first, spans, strict=True):
        row[: span.stop - span.start] = begins[span]
    return first.cumsum(axis=1) - 1


def _as_arrays(ids: list[int], labels: list[int]) -> tuple[Array, Array]:
    """Four bytes for each id, one for whether it is a target."""
    return np.array(ids, np.int32), np.array(labels, np.int32) != IGNORED


def _report_dropped(dropped: int, total: int, max_length: int) -> None:
    if dropped == total:
        raise ValueError(
            f"none of the {total} examples has anything to learn within max_length = {max_length} tokens: "
            "give a larger max_length"
        )
    if dropped:
        warnings.warn(
            f"{dropped} of {total} examples were dropped: nothing to learn is left of them within max_length = "
            f"{max_length} tokens; a larger max_length keeps them",
            stacklevel=3,
        )


def _report_endless(examples: Sequence[Example], tokenizer: Tokenizer) -> None:
    """Warn if a model that learns these examples is not shown where to stop."""
    chat = next((example["messages"] for example in examples if "messages" in example), None)
    why = "the tokenizer has no end token (eos_token)" if chat is None and tokenizer.eos_token_id is None else None
    if why := why if chat is None else unlearnt_end(chat, tokenizer):
        warnings.warn(f"{why}: a model that learns these examples does not learn where to stop", stacklevel=3)
