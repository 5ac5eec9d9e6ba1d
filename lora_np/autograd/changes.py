"""What may be kept as long as nothing changes: neither the arrays of modules nor what modules have as attributes.

To look at a hundred adapters in each of two hundred layers, only to see that all is as it was, takes longer than to
compute with them. So whatever changes one of them says so here, `note`, and what was kept is gone with all it holds.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

_memo: WeakKeyDictionary[Any, Any] | None = None


def note() -> None:
    """Say that an array or an attribute of a module is another now, or that an array is about to be written to.

    (A write by hand, `p.data[...] = `, is seen by nobody.)
    """
    global _memo
    _memo = None


def memo() -> WeakKeyDictionary[Any, Any]:
    """{whose it is: what is kept}, a new one after each change.

    Ask for it first, then read what you make something of, and put the result in there. If something changes
    meanwhile, in another thread, nobody will find it.
    """
    global _memo
    found = _memo
    if found is None:
        found = _memo = WeakKeyDictionary()
    return found


def watch() -> Callable[[], bool]:
    """A function that says whether nothing has changed since this call."""
    before = ref(memo())
    return lambda: memo() is before()
