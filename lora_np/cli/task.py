"""What a fine-tuning run learns from, measures on and shows: running text, or examples of prompts and answers.

A task has
    train        the data to learn from, as `training.train` takes it
    evaluation   {name: held-out data}, as `training.evaluate` takes it; the first is of the kind that is learnt
    ids          held-out token ids (n, T), on which models can be compared
    samples(model) -> what the model writes, one text for each `questions`
    steps        how many the run has
    questions    [(title, text)] of what it was asked
    asks         (is it asked as text that goes on, without a chat template?, what it could be asked)
    notes        lines about the data for the user
"""

import math
import os
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..lora import PeftModel
from ..models.base import CausalLM
from ..models.loading.auto import TINY_PYTHON
from ..models.tokenizers.base import BaseTokenizer
from ..training import ExampleData, TextData, load_text, prose_documents, python_documents
from ..training.data import hold_out_last, split_documents
from ..training.docstrings import docstring_examples
from ..training.examples import load_examples, split_examples
from ..training.folders import hold_out_ends, load_folder
from ..training.records import holds_examples, read_fields
from .model import check_vocabulary
from .options import ResolvedOptions
from .writing import chat_prompt

EVALUATION_WINDOWS, SAMPLE_LENGTH, SHOWN_EXAMPLES = 64, 240, 3
FEW = 10  # on fewer, a loss is mostly chance
DOCSTRINGS = "docstrings"

Example = dict[str, Any]  # {"prompt", "completion"}, {"messages"} or {"text"}
TrainingData = TextData | ExampleData


def make_task(options: ResolvedOptions, tokenizer: BaseTokenizer, window: int) -> "Task":
    """The task that `options.data` names: "docstrings", a file of examples, a text; None is English prose."""
    if options.data == DOCSTRINGS:
        return ExampleTask(docstring_examples(), "Docstrings", options, tokenizer, window)
    if options.data is not None and not os.path.isdir(options.data) and holds_examples(options.data):
        return ExampleTask(load_examples(options.data), Path(options.data).name, options, tokenizer, window)
    return TextTask(options, tokenizer, window)


class TextTask:
    """Running text, cut into windows; the model learns every token of it."""

    def __init__(self, options: ResolvedOptions, tokenizer: BaseTokenizer, window: int) -> None:
        self.notes: list[str] = []
        if options.data is None:
            parts, name = split_documents(prose_documents()), "English prose"
        elif os.path.isdir(options.data):
            documents, others = load_folder(options.data)
            parts, name = hold_out_ends(documents), Path(options.data).resolve().name
            read = f"Texts read from {options.data}: {len(documents)}"
            self.notes = [read + (f"; left out, as they are no texts: {_some(others)}" if others else "")]
        else:
            parts, name = hold_out_last(load_text(options.data)), Path(options.data).name
        parts = {part: parts[part] for part in ("train", "test")}
        try:
            tokens = {part: TextData(text, tokenizer, window, options.batch_size) for part, text in parts.items()}
        except ValueError as error:
            raise ValueError(_too_short(parts, name, tokenizer, window) or error) from None
        held_out = {name: tokens["test"]}
        if options.base == TINY_PYTHON:  # what the base was trained on is known
            source = split_documents(python_documents(), held_out=0.05)["test"]
            held_out["Python source"] = TextData(source, tokenizer, window, options.batch_size)
        self.train, self.tokenizer, self.seed = tokens["train"], tokenizer, options.seed
        self.evaluation = {name: evenly_spaced(text.windows(), EVALUATION_WINDOWS) for name, text in held_out.items()}
        self.ids = self.evaluation[name]
        self.prompt = self._prompt(self.ids[min(1, len(self.ids) - 1)])
        self.questions = [("Held-out text to go on from:", self.prompt)]
        self.steps = planned_steps(options, self.train)
        passes = self.steps * options.batch_size * window / len(tokens["train"].tokens)
        learnt, held = len(tokens["train"].tokens), len(tokens["test"].tokens)
        self.asks = True, self.prompt
        self.notes += measured_on_few(len(self.ids), "window")
        self.notes += [f"{learnt:,} tokens to learn from ({passes:.1f} passes), {held:,} held out\n"]

    def _prompt(self, ids: np.ndarray, length: int = 150) -> str:
        """Some words of a held-out window, from a line's beginning on."""
        text = self.tokenizer.decode(ids).replace("\0", "\n")
        text = text[text.find("\n") + 1 :].lstrip("\n")[:length]
        words = text.rpartition(" ")[0]
        return f"{words} " if words or not text else text

    def samples(self, model: CausalLM | PeftModel) -> list[str]:
        """What the model writes after the prompt."""
        ids = self.tokenizer.encode(self.prompt)
        options: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_k": None, "top_p": 0.95}
        options |= {"repetition_penalty": 1.0, "seed": self.seed}
        text = model.generate(ids, max_new_tokens=SAMPLE_LENGTH, eos_token_id=[], **options)
        return ["".join(self.tokenizer.decode_stream(text[0, len(ids) :], before=ids))]


def _too_short(parts: dict[str, dict[str, str]], name: str, tokenizer: BaseTokenizer, window: int) -> str:
    """What to do where a part of a text is shorter than a window; nothing if that is not so."""
    learnt, held = (len(TextData(parts[part], tokenizer, 1, 1).tokens) for part in ("train", "test"))
    if (shortest := min(learnt, held)) >= window:
        return ""
    characters = sum(len(text) for part in parts.values() for text in part.values())
    needed = 1.1 * characters * window * max(1 / shortest, 10 / (learnt + held))  # a tenth of a text is held out
    shorter = f", or --max-length {shortest}, which fits both parts" if shortest > 1 else ""
    return (
        f"{name} has {learnt:,} tokens to learn from and {held:,} held out, and each part needs a window of {window}: "
        f"use a text of about {math.ceil(needed / 100) * 100:,} characters{shorter}"
    )


class ExampleTask:
    """Prompts and answers; the model learns the answers."""

    def __init__(
        self, examples: list[Example], name: str, options: ResolvedOptions, tokenizer: BaseTokenizer, window: int
    ) -> None:
        parts = split_examples(examples, seed=options.seed)
        held_out: Any = evenly_spaced(np.array(parts["validation"], dtype=object), EVALUATION_WINDOWS)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.train = ExampleData(parts["train"], tokenizer, window, options.batch_size, options.packing)
            self.evaluation = {name: ExampleData(held_out, tokenizer, window, options.batch_size)}
        self.steps = planned_steps(options, self.train)
        passes = self.steps * options.batch_size / self.train.rows
        learnt, measured, held = self.train.examples, len(held_out), len(parts["validation"])
        counts = f"{learnt:,} examples to learn from ({passes:.1f} passes), {held:,} held out"
        self.notes = [f"Note: {warning.message}" for warning in caught]
        if options.data not in (None, DOCSTRINGS):
            self.notes.insert(0, read_fields(options.data))
        self.notes += measured_on_few(measured, "example")
        self.notes += [counts + (f", {measured} of them measured\n" if measured < held else "\n")]
        self.ids = next(self.evaluation[name].batches(4))["input_ids"]
        self.tokenizer, self.window = tokenizer, window
        every = ((example, question_and_answer(example, tokenizer)) for example in held_out)
        shown = [(example, found) for example, found in every if found[1]][:SHOWN_EXAMPLES]  # others ask nothing
        asked = [found for _, found in shown]
        self.prompts = [prompt for _, prompt, _ in asked]
        self.asks = "messages" not in held_out[0], shown[0][0].get("prompt", asked[0][0]) if shown else ""
        self.questions = [(f"Held-out example, answer: {answer.strip()}", shown) for shown, _, answer in asked]

    def samples(self, model: CausalLM | PeftModel) -> list[str]:
        """The model's answer to each question."""
        texts = []
        for prompt in self.prompts:
            ids = prompt[-self.window :]
            options: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
            options["pad_token_id"] = self.tokenizer.eos_token_id
            text = model.generate(ids, max_new_tokens=min(40, SAMPLE_LENGTH), **options)
            texts.append(self.tokenizer.decode(text[0, len(ids) :], skip_special_tokens=True).strip())
        return texts


Task = TextTask | ExampleTask


def measured_on_few(count: int, what: str) -> list[str]:
    """A note where what was held out is too little to measure on."""
    several = f"{count} {what}{'s' if count != 1 else ''}"
    return [f"Note: measured on {several}: these numbers say little"] if count < FEW else []


def planned_steps(options: ResolvedOptions, data: Any) -> int:
    """The optimizer steps of a run: as many as are asked for, or as so many passes over the data's rows take."""
    if options.epochs is None:
        return options.steps
    return max(1, math.ceil(options.epochs * math.ceil(data.rows / options.batch_size)))


def _some(names: list[str], most: int = 5) -> str:
    """The first of some names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_tokens(task: Task, model: CausalLM | PeftModel) -> list[str]:
    """Notes about where the model will stop after learning a task.

    ValueError if the tokenizer has a token in the data that the model has not.
    """
    learnt, tokenizer, vocab_size = task.train.tokens, task.tokenizer, model.config.vocab_size
    check_vocabulary("data", int(learnt.max()), tokenizer, vocab_size)
    if isinstance(task, ExampleTask):
        learnt = learnt[task.train.is_target]
    own = (model.get_base_model() if isinstance(model, PeftModel) else model).generation_config
    stops = np.array([] if own.eos_token_id is None else own.eos_token_id, int).reshape(-1).tolist()
    if np.isin(stops, learnt).any():
        return []
    ends = ", ".join(f"{tokenizer.convert_ids_to_tokens(i)!r} ({i})" for i in stops) or "no token"
    own = f"{tokenizer.eos_token!r} ({tokenizer.eos_token_id})" if tokenizer.eos_token else "none"
    return [
        f"Note: generating stops at {ends}, which is not among what is learnt (the tokenizer's end token is {own}): "
        "the model does not learn where to stop"
    ]


def question_and_answer(example: Example, tokenizer: BaseTokenizer) -> tuple[str, list[int], str]:
    """(what to show of the question, the ids that the model is given, the answer that is wanted) of an example."""
    if "messages" in example:
        last = max(i for i, message in enumerate(example["messages"]) if message["role"] == "assistant")
        before, answer = example["messages"][:last], example["messages"][last]["content"]
        shown = before[-1]["content"]
        prompt = tokenizer.encode(chat_prompt(tokenizer, before), add_special_tokens=False)
    elif "prompt" in example:
        shown, answer = example["prompt"], example["completion"]
        prompt = tokenizer.encode(shown)
    else:
        half = len(example["text"]) // 2
        shown, answer = example["text"][:half], example["text"][half:]
        prompt = tokenizer.encode(shown)
    return (
        textwrap.shorten(shown, 400, placeholder=" ...") if "\n" not in shown else _first_lines(shown),
        prompt,
        answer,
    )


def _first_lines(text: str, most: int = 12) -> str:
    lines = text.splitlines()
    return "\n".join(lines[:most] + ["..."] * (len(lines) > most))


def evenly_spaced(rows: np.ndarray, most: int = EVALUATION_WINDOWS) -> np.ndarray:
    """At most `most` of the rows, evenly spaced from the first to the last."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(int)]
