"""An exception at any line of the library that an action runs through: what Ctrl-C or a full memory can do."""

import os
import random
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

import lora_np
from lora_np.autograd import locks, threads

PACKAGE = str(Path(lora_np.__file__).parent) + os.sep
EVERY_LINE = os.environ.get("LORA_NP_EVERY_LINE") == "1"  # and each time that it is run; takes hours
MOST = 100  # points for one action, else


class Lines:
    """The lines of lora_np, [(file, line)], that run in an action; with `at`, `kind` is raised before that one, from 0.

    part: a folder of lora_np, to look at its lines alone.
    """

    def __init__(self, at=None, kind=None, part=""):
        self.at, self.kind, self.folder, self.lines = at, kind, os.path.join(PACKAGE, part), []

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(self.folder):
            return None
        if event == "line":
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.lines) - 1 == self.at:
                raise self.kind(f"at line number {self.at}")  # kept nowhere: what it holds goes with it
        return self

    def run(self, action):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            with np.errstate():  # puts back what a block of the library has set: see `_let_go`
                return action()
        finally:
            sys.settrace(before)
            _let_go()


def _let_go():
    """Let go of locks that are still held.

    A trace also raises where a `with` block is left, before it lets go of its lock: no signal can come there.
    """
    while locks.leaves._is_owned():
        locks.leaves.release()
    if threads._process.one_at_a_time.locked():
        threads._process.one_at_a_time.release()


def points_of(action):
    """Where to interrupt `action()`, as the numbers of the lines that it runs: a sample of the places in the source."""
    counted = Lines()
    counted.run(action)
    if EVERY_LINE:
        return list(range(len(counted.lines)))
    times = defaultdict(list)
    for i, line in enumerate(counted.lines):
        times[line].append(i)
    chance = random.Random(0)
    places = [chance.choice(found) for found in times.values()]
    return sorted(chance.sample(places, min(MOST, len(places))))


def interrupted(action, at, kind=KeyboardInterrupt, part=""):
    """Run `action()` with an exception before line number `at` (of a part). Was it raised, and not caught inside?"""
    try:
        Lines(at, kind, part).run(action)
    except kind:
        return True
    return False


def assert_all_or_nothing(make, action, state, kind=KeyboardInterrupt):
    """`action(subject)`, interrupted anywhere, leaves `state(subject)` as it was before or as it is after, whole.

    make: makes the same `subject` each time.
    """
    subject = make()
    points = points_of(lambda: action(subject))
    after = state(subject)
    before = state(make())
    undone = 0
    for at in points:
        subject = make()
        raised = interrupted(lambda: action(subject), at, kind)  # noqa: B023
        found = state(subject)
        assert found in ((before, after) if raised else (after,)), f"a mix, after an exception at line number {at}"
        undone += found == before
    assert undone > len(points) / 2
