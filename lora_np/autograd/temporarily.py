"""Values that hold inside a block, whatever ends it: attributes, and context variables."""

from contextlib import contextmanager


@contextmanager
def temporarily(where, **values):
    """Inside this block, these attributes of `where` have these values; after it, those from before.

    where: what only this thread sees, such as a `threading.local`: others would find the values changed.
    """
    before = {name: getattr(where, name) for name in values}
    try:
        try:
            _set(where, values)
            yield where
        finally:
            _set(where, before)
    finally:
        _set(where, before)  # once more: Ctrl-C may have come just before the line above


def _set(where, values):
    for name, value in values.items():
        setattr(where, name, value)


@contextmanager
def holding(variable, value):
    """Inside this block, this ContextVar has this value; after it, the one from before."""
    before = variable.get()
    try:
        try:
            variable.set(value)
            yield
        finally:
            variable.set(before)
    finally:
        variable.set(before)  # as above
