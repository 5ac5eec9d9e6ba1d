"""What a run shows while it goes on."""

import functools
import time
from types import TracebackType
from typing import Any, Self

from ..autograd.locks import forkable_lock


@functools.cache
def _bar() -> Any:
    """tqdm's bar, for a terminal or a notebook, with a lock that no other process has.

    tqdm's own is shared with all that are forked: one that is killed while it draws would block the others for ever.
    """
    from tqdm.auto import tqdm  # takes longer to import than most of this library

    bar: Any = type("Bar", (tqdm,), {})
    bar.set_lock(forkable_lock())
    return bar


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
