"""Exercise 17, the capstone: a whole fine-tuning run, scored by its loss on text that nobody has trained on."""

import dataclasses
import functools
import itertools

import numpy as np

from lora_np import AdamW, AutoModelForCausalLM, AutoTokenizer, LoraConfig, evaluate, get_peft_model, manual_seed
from lora_np.cli.task import evenly_spaced
from lora_np.models.loading.auto import TINY_PYTHON
from lora_np.training import TextData, prose_documents
from lora_np.training.data import split_documents

from ..budget import budget
from .checking import Exercise, checker

MOST = 40_000  # numbers that may learn
GRADES = {"very good": 1.13, "good": 1.15, "enough": 1.17}  # {grade: held-out loss that has to be reached}
PROBED = 5  # batches of the short run in which faults are looked for


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run gets: batches, rows and bytes in each, and windows of held-out text."""

    batches: int = 100
    rows: int = 8
    window: int = 128
    held_out: int = 64


SMALL = Plan(batches=8, rows=4, window=64, held_out=8)


def plan():
    """The `Plan` of this notebook's budget."""
    return budget(full=Plan(), small=SMALL)


class Batches:
    """The batches of a run, to be gone through once: int arrays (rows, window). `len` says how many there are."""

    def __init__(self, data, number, look=None):
        self.data, self.number, self.look, self.taken = data, number, look or (lambda: None), 0

    def __len__(self):
        return self.number

    def __iter__(self):
        while self.taken < self.number:
            self.look()
            self.taken += 1
            yield self.data.batch(seed=17, step=self.taken)["input_ids"]
        self.look()


@functools.cache
def texts():
    """English prose of Python's own documentation, by file: {"train", "validation", "test"}."""
    return split_documents(prose_documents())


@functools.cache
def prose(part, window, rows):
    """One part of the prose as `TextData`."""
    return TextData(texts()[part], AutoTokenizer.from_pretrained(TINY_PYTHON), window, rows)


def base():
    """The small GPT-2 that has learnt Python source, fresh."""
    return AutoModelForCausalLM.from_pretrained(TINY_PYTHON)


def held_out(size, part="test"):
    """Windows of the test files, (windows, window); or of another part's."""
    return evenly_spaced(prose(part, size.window, size.rows).windows(), size.held_out)


@functools.cache
def base_loss(size):
    """The base model's loss on the held-out text."""
    return float(evaluate(base(), held_out(size)))


@dataclasses.dataclass
class Score:
    """What a run reached. losses in nats per byte, on held-out text."""

    model: object
    loss: float
    trained: int
    taken: int  # batches

    @property
    def grade(self):
        """The best grade that the loss reaches; None if none."""
        return next((grade for grade, most in GRADES.items() if self.loss <= most), None)


@functools.lru_cache(maxsize=4)
def score(function, size=None):
    """The `Score` of one run of `function(model, batches)`; the second time it is remembered."""
    size = size or plan()
    manual_seed(0)
    batches = Batches(prose("train", size.window, size.rows), size.batches)
    model = function(base(), batches)
    trained = sum(p.size for p in model.parameters() if p.requires_grad)
    try:
        loss = float(evaluate(model, held_out(size)))
    except FloatingPointError:  # it is not finite
        loss = np.inf
    return Score(model, loss, trained, batches.taken)


def validation_loss(function, size=None):
    """The loss that a run of `function(model, batches)` reaches on files of neither kind: to choose settings by."""
    size = size or plan()
    return float(evaluate(score(function, size).model, held_out(size, "validation")))


def fine_tune(model, batches):
    """An adapter on all linear layers, AdamW with a rate that falls, one step for each batch; the adapted model."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", fan_in_fan_out=True)
    model = get_peft_model(model, config)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for step, ids in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / len(batches))
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def _adapters(model):
    """{name: parameter} of all A and B in a model."""
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


@dataclasses.dataclass
class Probe:
    """A short run, watched: what came back, and A, B and their gradients before each batch and after the last."""

    returned: object
    model: object  # that was handed in
    before: dict  # its weights then
    taken: int
    looks: list  # [{name: (array, gradient or None)}]
    asked: list  # [(ids, labels)] of each call of the model


@functools.lru_cache(maxsize=4)
def probe(function):
    """The `Probe` of a function, made once."""
    manual_seed(0)
    model, looks, asked = base(), [], []
    forward = model.forward

    def watched(input_ids=None, *arguments, labels=None, **others):
        asked.append((input_ids, labels))
        return forward(input_ids, *arguments, labels=labels, **others)

    model.forward = watched
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}

    def look():
        found = _adapters(model)
        looks.append({n: (p.numpy().copy(), None if p.grad is None else p.grad.copy()) for n, p in found.items()})

    batches = Batches(prose("train", 32, 2), PROBED, look)
    return Probe(function(model, batches), model, before, batches.taken, looks, asked)


def returns_an_adapted_model(function):
    """None, or a sentence if what comes back is no model with an adapter, or one with too many numbers."""
    seen = probe(function)
    if seen.returned is None:
        return "it returned nothing. Is the `return` missing?"
    if not hasattr(seen.returned, "named_parameters"):
        return f"it should return the adapted model; it returns a {type(seen.returned).__name__}."
    adapters = _adapters(seen.returned)
    if not adapters:
        return "there is no adapter in what it returns: get_peft_model(model, LoraConfig(...)), and do not merge it."
    trained = sum(p.size for p in seen.returned.parameters() if p.requires_grad)
    if trained > MOST:
        return f"{trained:,} numbers learn; at most {MOST:,} may: a smaller rank, or fewer layers."
    others = {name: p.numpy() for name, p in seen.model.named_parameters() if "lora_" not in name}
    changed = [name for name, old in seen.before.items() if not np.array_equal(others[_found(name, others)], old)]
    return f"the base has changed, in {changed[0]}: it stays frozen, only A and B learn." if changed else None


def _found(name, others):
    """The name that a weight has when its layer is inside an adapter's."""
    path, _, kind = name.rpartition(".")
    return name if name in others else f"{path}.base_layer.{kind}"


def takes_all_batches(function):
    """None, or a sentence if the run ends before its batches do."""
    taken = probe(function).taken
    if taken == 0:
        return "no batch was taken: for ids in batches: ..."
    if taken == 1:
        return "it ends after the first batch: does `return` stand inside the loop?"
    return f"it takes {taken} of {PROBED} batches; take all." if taken < PROBED else None


def labels_are_the_ids(function):
    """None, or a sentence if the model is asked for other bytes than the next ones."""
    for ids, labels in probe(function).asked:
        if labels is not None and not np.array_equal(ids, labels):
            return "the labels are not the ids: the model moves them by one itself. labels=ids."
    return None


def learns(function):
    """None, or a sentence if A and B do not move, or not as an optimizer with a memory moves them."""
    looks = probe(function).looks
    if len(looks) < 3 or not looks[-1]:
        return None
    moved = [_moved(a, b) for a, b in itertools.pairwise(looks)]
    if not any(moved):
        if all(gradient is None for look in looks for _, gradient in look.values()):
            return "nothing has moved, and no gradient is left: is there loss.backward(), and then optimizer.step()?"
        return (
            "there are gradients, and nothing has moved: optimizer.step() is missing, or the optimizer has no A and B "
            "because it was made before get_peft_model."
        )
    return _accumulates(function, moved) or _forgets(looks)


def _moved(a, b):
    return any(not np.array_equal(a[name][0], b[name][0]) for name in a)


def _flat(look, which):
    """All arrays (0) or gradients (1) of a look in one; None if one is missing."""
    parts = [pair[which] for pair in look.values()]
    return None if any(part is None for part in parts) else np.concatenate([part.ravel() for part in parts])


def _accumulates(function, moved):
    """A sentence if each gradient has the earlier ones in it, though steps were taken between them."""
    seen = probe(function)
    first, second = _flat(seen.looks[1], 1), _flat(seen.looks[2], 1)
    if first is None or second is None or not (first.any() and second.any() and all(moved)):
        return None  # they are put to zero after each step
    model, parameters = seen.returned, _adapters(seen.model)
    for name, p in parameters.items():
        p.data = seen.looks[1][name][0].copy()
        p.grad = None
    ids = prose("train", 32, 2).batch(seed=17, step=2)["input_ids"]
    model(ids, labels=ids).loss.backward()
    fresh = np.concatenate([p.grad.ravel() for p in parameters.values()])
    if _cosine(second, fresh) < 0.99 and _cosine(second, first + fresh) > 0.999:
        return "each gradient is added to the ones before it: optimizer.zero_grad() for each batch."
    return None


def _cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _forgets(looks):
    """A sentence if the last step is equally large for all numbers, as only an optimizer's first step is."""
    steps = [np.abs(looks[-1][name][0] - looks[-2][name][0]).ravel() for name in looks[-1] if "lora_B" in name]
    steps = np.concatenate(steps)
    steps = steps[steps > 0]
    if len(steps) and steps.std() < 0.02 * steps.mean():
        return (
            "every step moves every number equally far: the optimizer is made anew for each batch, and has no memory."
        )
    return None


FIRST = (returns_an_adapted_model, takes_all_batches, labels_are_the_ids, learns)  # what a short run shows


def reaches_the_loss(function):
    """None, or a sentence if the held-out loss is not low enough. Says what was reached."""
    if any(rule(function) for rule in FIRST):
        return None  # it is known what is wrong
    size = plan()
    found, at_first = score(function), base_loss(size)
    said = f"held-out loss {found.loss:.3f}, the base's {at_first:.3f}"
    if not np.isfinite(found.loss):
        return f"{said}: a lower learning rate."
    if found.loss > at_first + (0.3 if size == SMALL else 0):  # a few steps may well make it a little worse
        return f"{said}: it got worse. A lower learning rate; or is the loss climbed, not descended?"
    if size == SMALL or found.grade:
        print(f"{said}, {found.trained:,} numbers: {found.grade or 'lower'}.")
        return None
    return f"{said}; {GRADES['enough']:.2f} is enough. {_advice(function)}"


def _advice(function):
    """What to try, from how far a step goes."""
    looks = probe(function).looks
    values = [_flat(look, 0) for look in looks]
    step = max(float(np.abs(b - a).max()) for a, b in itertools.pairwise(values))
    if step < 2e-3:
        return f"No number moves further than {step:.0e} in a step: a higher learning rate."
    return "Other layers, another rank, another rate, a rate that falls towards the end?"


HINTS = (
    "get_peft_model, then AdamW on what has requires_grad, then for each batch: loss, backward, step, zero_grad.",
    "A rate of some 1e-2 is right for so small a model and so few steps; let it fall to zero towards the end.",
)
RULES = (*FIRST, reaches_the_loss)

check = checker(Exercise(fine_tune, rules=RULES, hints=HINTS))
