"""What a run shows while it goes on."""

import contextlib
import contextvars
import functools
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from ..autograd.locks import forkable_lock
from ..autograd.threads import CAN_START


@functools.cache
def _bar() -> Any:
    """tqdm's bar, for a terminal or a notebook, with a lock that no other process has.

    tqdm's own is shared with all that are forked: one that is killed while it draws would block the others for ever.
    """
    from tqdm.auto import tqdm  # takes longer to import than most of this library

    bar: Any = type("Bar", (tqdm,), {} if CAN_START else {"monitor_interval": 0})  # which takes a thread
    bar.set_lock(forkable_lock())
    return bar


_aside: contextvars.ContextVar["Progress | None"] = contextvars.ContextVar("aside", default=None)
SHOWN_EVERY = 0.5  # seconds
T = TypeVar("T")


def counted(batches: Iterable[T]) -> Iterator[T]:
    """The batches, one after another, each told to the bar that waits for them, if one does."""
    for number, batch in enumerate(batches, 1):
        if bar := _aside.get():
            bar.tell(number)
        yield batch


class Progress:
    """A bar of steps, with the last loss that is known and the tokens of a second. Used in a `with` statement.

    step, steps  where the run begins, and where it ends
    shown        False for a bar that nobody sees
    """

    def __init__(self, step: int, steps: int, shown: bool) -> None:
        self.bar = _bar()(initial=step, total=steps, unit="step", disable=not shown)
        self.restart_clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.close()

    @contextlib.contextmanager
    def aside(self, what: str) -> Iterator[None]:
        """Around what is no step: the bar says what it is and how far that has come, and its time left is as before."""
        token = _aside.set(self)
        self.what, self.told = what, time.perf_counter()
        self.bar.set_description(what)
        try:
            yield
        finally:
            _aside.reset(token)
            self._leave_out(time.perf_counter())
            self.bar.set_description(None)
            self.restart_clock()

    def tell(self, number: int) -> None:
        """So many batches are done of what is being done aside."""
        if (now := time.perf_counter()) - self.told >= SHOWN_EVERY:
            self._leave_out(now)
            self.bar.set_description(f"{self.what}, batch {number}")

    def _leave_out(self, now: float) -> None:
        """The time since this was called last is none that steps took."""
        if not self.bar.disable:
            self.bar.start_t += now - self.told
            self.bar.last_print_t += now - self.told
        self.told = now

    def restart_clock(self) -> None:
        """What was done since the last `show` took time, but was no training."""
        self.began, self.tokens = time.perf_counter(), 0

    def count(self, tokens: int) -> None:
        """So many tokens were trained on."""
        self.tokens += tokens

    def show(self, loss: float) -> None:
        """Show this loss, and the tokens of a second since the clock was started."""
        now = time.perf_counter()
        self.bar.set_postfix_str(f"loss={loss:.3f}, {self.tokens / (now - self.began):,.0f} tokens/s")
        self.began, self.tokens = now, 0

    def next_step(self) -> None:
        """A step is done, with all that came after it."""
        self.bar.update()
