"""Exercise 15: a healthy run and five broken ones, made here and now; which fault is in which, and what shows it?

The task: after `def read_text(` the small model is to write `> READ_TEXT` and the byte that ends a text.
"""

import dataclasses
import functools
import json
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np

from lora_np import AdamW, AutoModelForCausalLM, LoraConfig, PeftModel, get_peft_model, manual_seed, no_grad
from lora_np.models.loading.auto import TINY_PYTHON

from ..capitals import source_files
from .checking import Exercise, checker

CHECKPOINTING = "B stays 0 under checkpointing"
SQUARE = "only square layers are adapted"
ALPHA = "alpha is forgotten in the file"
SHIFTED = "the mask is shifted"
END = "the end is never learnt"
FAULTS = (CHECKPOINTING, SQUARE, ALPHA, SHIFTED, END)
NUMBERS = ("trained", "norms of B", "loss by position", "stops", "loss after reload")

_FAULT_OF = {"A": SHIFTED, "B": CHECKPOINTING, "C": ALPHA, "D": END, "E": SQUARE}
_SHOWN_BY = dict(zip((SQUARE, CHECKPOINTING, SHIFTED, END, ALPHA), NUMBERS, strict=True))
_IF_IT_WERE = {
    CHECKPOINTING: "some blocks would have learnt nothing: a norm of B would be exactly 0 there",
    SQUARE: "fewer numbers would be trained than in the healthy run",
    ALPHA: "the model that is loaded from the file would not be the one that was trained",
    SHIFTED: "the byte at one end of the answer would never have been trained, whatever the others are",
    END: "the model would not know where to stop",
}
END_OF_TEXT, LONGEST = 0, 10  # the byte that ends a text (and fills rows up); letters of a name
WIDTH = 2 * LONGEST + 8


@dataclasses.dataclass
class Report:
    """What a run says of itself. Losses are in nats per byte of the answer, on held-out names but for `losses`."""

    losses: list  # of training, as the run itself counts them
    trained: int  # how many numbers learn
    norms: list  # of B, one for each block
    by_position: np.ndarray  # loss of the answer's first byte, second byte, ...
    stops: float  # share of the answers after which the end is the most probable byte
    loss: float  # of the model as trained
    reloaded: float  # of the model loaded from the file that it saved


@functools.cache
def names():
    """Names of functions in Python's library, three to ten letters, shuffled."""
    found = {name for text in source_files().values() for name in re.findall(r"def ([a-z_]+)\(", text)}
    found = sorted(name for name in found if 3 <= len(name) <= LONGEST)
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def rows(names):
    """(ids, answered), both (names, WIDTH): in each row a prompt, its answer and the end; answered: where those are."""
    ids = np.full((len(names), WIDTH), END_OF_TEXT)
    answered = np.zeros(ids.shape, bool)
    for i, name in enumerate(names):
        prompt, answer = f"def {name}(".encode(), f"> {name.upper()}".encode()
        ids[i, : len(prompt) + len(answer)] = list(prompt + answer)
        answered[i, len(prompt) : len(prompt) + len(answer) + 1] = True
    return ids, answered


def labels_of(ids, answered, fault=None):
    """ids where they count, -100 elsewhere: with the mask of a broken run if it is one."""
    if fault == SHIFTED:
        answered = np.roll(answered, 1, axis=1)
    if fault == END:
        answered = answered & (ids != END_OF_TEXT)
    return np.where(answered, ids, -100)


def run(fault=None, steps=20, batch_size=16, held_out=32, lr=5e-3):
    """Train an adapter on the task, with a fault in it or none; the `Report`."""
    manual_seed(0)
    pool = names()
    targets = ["attn.c_proj"] if fault == SQUARE else "all-linear"
    config = LoraConfig(r=8, lora_alpha=32, target_modules=targets, fan_in_fan_out=True)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(TINY_PYTHON), config)
    if fault == CHECKPOINTING:
        for block in model.base_model.model.transformer.h[:-1]:
            _without_a_graph(block)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = AdamW(trained, lr=lr, weight_decay=0.0), []
    for step in range(steps):
        first = held_out + step * batch_size
        ids, answered = rows([pool[i % len(pool)] for i in range(first, first + batch_size)])
        loss = model(ids, labels=labels_of(ids, answered, fault)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    ids, answered = rows(pool[:held_out])
    surprise, stops = _on(model, ids, answered)
    loaded, _ = _on(_reloaded(model, fault), ids, answered)
    by_position = [surprise[i, np.flatnonzero(answered[i])[:6]] for i in range(len(ids))]
    return Report(
        losses,
        sum(p.size for p in trained),
        _norms(model),
        np.mean(by_position, axis=0),
        stops,
        float(surprise[answered].mean()),
        float(loaded[answered].mean()),
    )


def _without_a_graph(block):
    """What reentrant checkpointing does to a block whose input needs no gradient: its output has no graph."""
    forward = block.forward

    def without(*arguments):
        with no_grad():
            return forward(*arguments)

    block.forward = without


def _on(model, ids, answered):
    """(-log p of each byte, (rows, WIDTH); the share of the answers after which the end is most probable)."""
    with no_grad():
        logits = model(ids).logits.numpy()
    log_p = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    surprise = np.zeros(ids.shape)
    surprise[:, 1:] = -np.take_along_axis(log_p[:, :-1], ids[:, 1:, None], axis=-1)[..., 0]
    last = [np.flatnonzero(row)[-1] for row in answered]
    chosen = logits[np.arange(len(ids)), np.array(last) - 1].argmax(-1)
    return surprise, float((chosen == END_OF_TEXT).mean())


def _norms(model):
    """The norm of all B of a block together, for each block."""
    squares = {}
    for name, p in model.named_parameters():
        if "lora_B" in name:
            block = int(re.search(r"\.h\.(\d+)\.", name)[1])
            squares[block] = squares.get(block, 0.0) + float((p.numpy() ** 2).sum())
    return [squares[block] ** 0.5 for block in sorted(squares)]


def _reloaded(model, fault):
    """The model as it comes back from the file that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        path = Path(folder) / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        if fault == ALPHA:
            del config["lora_alpha"]
        path.write_text(json.dumps(config), encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a B of zeros is warned of: that would name one of the faults
            return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TINY_PYTHON), folder)


def runs(**budget):
    """{"healthy": Report, "A": Report, ...}: the five broken ones under letters. `budget`: arguments of `run`."""
    return {"healthy": run(**budget)} | {letter: run(fault, **budget) for letter, fault in _FAULT_OF.items()}


def table(reports):
    """The numbers of all runs in lines, one for each run."""
    lines = [f"{'run':<8}{'trained':>8}   {'norms of B, by block':<24}{'stops':>6}{'loss':>8}   after reload"]
    for name, r in reports.items():
        norms = " ".join(f"{norm:5.2f}" for norm in r.norms)
        lines.append(f"{name:<8}{r.trained:>8,}   {norms:<24}{r.stops:>6.0%}{r.loss:>8.3f}   {r.reloaded:.3f}")
    return "\n".join(lines)


def diagnosis():
    """{run: (fault, number)} for the runs A to E, with a fault of FAULTS and the one of NUMBERS that shows it."""
    return {letter: (fault, _SHOWN_BY[fault]) for letter, fault in _FAULT_OF.items()}


def _told(function):
    """{run: (fault, number)} as the function gives it; or a sentence about its form."""
    told = function()
    if told is None:
        return "it returned nothing. Is the `return` missing?"
    if not isinstance(told, dict):
        return 'it should return a dict: {"A": (fault, number), ...}.'
    missing, extra = ([x for x in a if x not in b] for a, b in ((_FAULT_OF, told), (told, _FAULT_OF)))
    if missing or extra:
        return (
            f"it should have the runs A to E; {f'{missing} are missing' if missing else f'{extra} are none of them'}."
        )
    for letter, pair in told.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            return f"run {letter}: give two things, (fault, number)."
        if pair[0] in NUMBERS and pair[1] in FAULTS:
            return f"run {letter}: the fault comes first, then the number."
        for value, known, kind in zip(pair, (FAULTS, NUMBERS), ("FAULTS", "NUMBERS"), strict=True):
            if value not in known:
                return f"run {letter}: {value!r} is not one of {kind}; it has to be spelled as there."
    return told


def has_the_form(function):
    """None, or a sentence if what it returns is not {run: (fault, number)}, or names a fault twice."""
    told = _told(function)
    if isinstance(told, str):
        return told
    faults = [fault for fault, _ in told.values()]
    twice = [fault for fault in FAULTS if faults.count(fault) > 1]
    return f"each fault is in one run; {twice[0]!r} is named {faults.count(twice[0])} times." if twice else None


def _about(letter):
    """The rule that one run's fault and number are right."""

    def rule(function):
        told = _told(function)
        if isinstance(told, str):
            return None
        fault, number = told[letter]
        if fault != _FAULT_OF[letter]:
            return f"run {letter}: were it {fault!r}, {_IF_IT_WERE[fault]}. That is not so in run {letter}."
        if number != _SHOWN_BY[fault]:
            return f"run {letter}: the fault is right. But {number!r} does not prove it: {_IF_IT_WERE[fault]}."
        return None

    return rule


HINTS = (
    "hold each number against the healthy run's. A fault may make several a bit worse; look for what is far off.",
    "is less trained; is a norm of B 0; is the first byte's loss high; is `stops` 0; is the loss another after reload?",
)

check = checker(Exercise(diagnosis, rules=(has_the_form, *map(_about, _FAULT_OF)), hints=HINTS))
