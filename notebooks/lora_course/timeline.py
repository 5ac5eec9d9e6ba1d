"""Where the time of one training step goes: every large operation of the engine, when it began and when it ended."""

import dataclasses
import threading
from contextlib import contextmanager
from typing import NamedTuple

from lora_np.autograd import fused

from .device import moment, seconds_between

PARTS = {  # what is told apart: the engine's fused operations
    "linear layers": ("linear", "lora_linear", "lora_rows"),
    "attention": ("self_attention", "attention", "bounded_attention", "text_attention", "rotary"),
    "norm, GELU": ("layer_norm", "rms_norm", "gelu", "silu", "swiglu", "relu"),
    "head and loss": ("linear_cross_entropy", "cross_entropy", "capped_cross_entropy"),
    "optimizer": ("optimizer",),
}
REST = "the rest"  # residual sums, embedding, Python between the operations, waiting


class Span(NamedTuple):
    """One operation of a step. Times in milliseconds since the step began; `lane` is the number of its thread."""

    part: str
    phase: str  # "forward", "backward" or "step"
    start: float
    end: float
    lane: int


@dataclasses.dataclass
class Timeline:
    """One training step: its operations in the order in which they began, and how long it took, in milliseconds."""

    spans: list
    milliseconds: float

    @property
    def lanes(self):
        """How many threads worked on it."""
        return 1 + max((span.lane for span in self.spans), default=0)

    def by_part(self):
        """{part: milliseconds}, with the `REST`; they add up to the step.

        Where several threads worked at the same time, each operation counts by its share of them.
        """
        totals = dict.fromkeys(PARTS, 0.0)
        for span in self.spans:
            totals[span.part] += (span.end - span.start) / self.lanes
        return {**totals, REST: max(0.0, self.milliseconds - sum(totals.values()))}


def time_line(model, optimizer, batch, device="cpu", warm_up=2):
    """The `Timeline` of one training step on `batch`, after `warm_up` steps that are not looked at.

    Nobody waits between the steps. So a GPU that is slower than Python still has work when the step that is looked at
    begins, and an operation's time there is its own; a faster one waits for Python, and the waiting is in the spans.
    """
    for _ in range(warm_up):
        _step(model, optimizer, batch)
    with watched(device) as notes:
        start, before, end = _step(model, optimizer, batch, device)
    notes.append(("optimizer", "step", before, end, threading.get_ident()))
    return Timeline(_spans(notes, start), 1e3 * seconds_between(start, end))


def _step(model, optimizer, batch, device="cpu"):
    """Forward, backward, optimizer; the moments when the first began, when the last began, and when it ended."""
    start = moment(device)
    model(**batch).loss.backward()
    before = moment(device)
    optimizer.step()
    end = moment(device)
    optimizer.zero_grad()
    return start, before, end


@contextmanager
def watched(device="cpu"):
    """Inside this block, each fused operation of the engine notes when it begins and ends; yields the list of notes.

    A note is (operation, phase, moment of beginning, moment of end, thread). The engine looks its operations up by
    name at each call; here others stand under these names, which note, call the first, and note again.
    """
    places = [fused]
    if device != "cpu":
        from lora_np.autograd import cuda

        places.append(cuda)
    notes, before = [], []
    for place in places:
        for name in place.__all__:
            operation, _, phase = name.rpartition("_")
            if phase in ("forward", "backward"):
                function = getattr(place, name)
                before.append((place, name, function))
                setattr(place, name, _noting(function, operation, phase, device, notes))
    try:
        yield notes
    finally:
        for place, name, function in before:
            setattr(place, name, function)


def _noting(function, operation, phase, device, notes):
    def noting(*args, **kwargs):
        start = moment(device)
        result = function(*args, **kwargs)
        notes.append((operation, phase, start, moment(device), threading.get_ident()))
        return result

    return noting


def _spans(notes, start):
    """Notes as Spans, with this thread as lane 0."""
    part_of = {operation: part for part, operations in PARTS.items() for operation in operations}
    lanes, spans = {threading.get_ident(): 0}, []
    for operation, phase, *moments, thread in notes:
        begin, end = (1e3 * seconds_between(start, point) for point in moments)
        spans.append(Span(part_of[operation], phase, begin, end, lanes.setdefault(thread, len(lanes))))
    return sorted(spans, key=lambda span: span.start)
