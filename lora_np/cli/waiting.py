"""What takes long says so."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

PAUSE = 2.5  # seconds of silence, at most


@contextlib.contextmanager
def waiting(what: str, pause: float | None = None) -> Iterator[None]:
    """Around what may take long: every `pause` seconds (`PAUSE`) a line on standard error says what is being done.

    On a terminal it is one line that changes. Of what takes less time nothing is seen, nor where no thread starts.
    """
    done, began = threading.Event(), time.monotonic()
    seen = threading.Event()

    def tell() -> None:
        while not done.wait(PAUSE if pause is None else pause):
            seen.set()
            line = f"{what} ({time.monotonic() - began:.0f} s)"
            sys.stderr.write(f"\r{line}" if sys.stderr.isatty() else f"{line}\n")
            sys.stderr.flush()

    thread = threading.Thread(target=tell, daemon=True)
    with contextlib.suppress(RuntimeError):  # in a browser there is one thread
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.is_alive():
            thread.join()
        if seen.is_set() and sys.stderr.isatty():
            sys.stderr.write("\n")
