"""An exception at a chosen line of this library's code, as Ctrl-C or a full memory may raise one anywhere."""

import contextlib
import copy
import warnings

import numpy as np
from hypothesis import note
from interruption_helpers import Lines

from lora_sequences.sides import logits
from lora_sequences.snapshots import changes, snapshot


def broken_off(action, at, kind):
    """Run `action()` and raise before line number `at`; (where that was, what came out)."""
    lines, came_out = Lines(at, kind), None
    try:
        lines.run(action)
    except BaseException as raised:  # the error itself, or what it was turned into
        came_out = raised
    where = lines.lines[at] if at < len(lines.lines) else None
    return where, came_out


def check_interrupted(model, what, operation, part, kind):
    """Do an operation on copies of a model: once to the end, once with an error raised at that part (0 to 1) of it.

    After that the copy must be as the model, or as the one on which the operation was done, and compute the same.
    """
    done, subject, lines = copy.deepcopy(model), copy.deepcopy(model), Lines()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ValueError, RuntimeError, KeyError):  # it may be refused
            lines.run(lambda: operation(done))
        where, raised = broken_off(lambda: operation(subject), int(part * (len(lines.lines) - 1)), kind)
    note(f"{what}, {kind.__name__} at {where}, came out as {raised!r}")
    before, expected, after = snapshot(model), snapshot(done), snapshot(subject)
    assert after in (before, expected), f"{what} broken off at {where}, and half done:\n{changes(before, after)}"
    like = model if after == before else done
    if what not in ("unload", "merge_and_unload") or after == before:
        assert np.array_equal(logits(subject), logits(like)), f"{what} broken off at {where}, and other logits"
