"""Where chat templates run: Jinja's sandbox, with bounds on what a template may take.

A template comes with the model, from whoever made that. Jinja's sandbox keeps it away from Python's objects. What is
here keeps it from running for ever and from filling the memory:

    steps     every pass of a loop, every call and every filter takes some
    size      everything that is made is measured, and what grows by multiplication (a * n, replace, a width in a
              format) is estimated before it is made
    output    all that is written, also into variables and by macros

The bounds grow with what the template is given, so that long conversations stay possible.
"""

import functools
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

STEPS, LARGEST = 50_000, 1_000_000  # for an empty conversation; sizes are in characters
ELEMENT = 16  # of a list, in characters
LARGEST_NUMBER = 1 << 16  # bits
WIDTH = re.compile(r"\d{5}|\*|\{[^{}]*\{")  # a large width in a format, or one that comes as a value
PASSED_ON = {"length", "count", "first", "last", "default", "d"}  # filters that make nothing of what they are given
NUMBERS_MULTIPLY = {"center", "indent", "batch", "slice", "tojson", "truncate", "wordwrap", "round"}


class TooMuchError(TemplateError):
    """A template took more than it may."""


class Bounds:
    """What one rendering may still take."""

    def __init__(self, given: int) -> None:
        self.most_steps = self.steps = STEPS + 4 * given
        self.most = self.room = LARGEST + 20 * given
        self.pieces: list[str] = []  # the text so far
        self.length = 0  # of them together
        self.spans: list[tuple[int, int]] = []  # where in the text stands what `note_span` was told of

    def step(self, count: int = 1) -> None:
        """Count steps."""
        self.steps -= count
        if self.steps < 0:
            raise TooMuchError(f"it did not end within {self.most_steps:,} steps")

    def check(self, size: int) -> None:
        """Refuse what is, or would be, of this size."""
        if size > self.most:
            raise TooMuchError(f"it makes something of more than {self.most:,} characters")

    def measured(self, value: Any) -> Any:
        """`value`, unless it is too large; an iterator is measured as it goes."""
        if isinstance(value, Iterator) and not isinstance(value, LoopContext):
            return self._passing(value)
        size = self.size(value)
        self.check(size)
        self.step(size >> 8)
        return value

    def listed(self, value: Any) -> Any:
        """As `measured`, but an iterator comes back as a list."""
        value = self.measured(value)
        return list(value) if isinstance(value, Iterator) else value

    def written(self, value: Any) -> Any:
        """`value`, which is written somewhere."""
        self.room -= self.size(value)
        if self.room < 0:
            raise TooMuchError(f"it writes more than {self.most:,} characters")
        return value

    def size(self, value: Any) -> int:
        """The characters and elements in `value`, each as often as it is in there; no further than to the bound."""
        if isinstance(value, (str, bytes)):
            return len(value)
        total, todo = 0, [value]
        while todo and total <= self.most:
            value = todo.pop()
            total += ELEMENT
            if isinstance(value, (str, bytes)):
                total += len(value)
            elif isinstance(value, int):
                total += value.bit_length() >> 2
            elif isinstance(value, (list, tuple, set, frozenset)):
                todo.extend(value)
            elif isinstance(value, dict):
                todo.extend(value)
                todo.extend(value.values())
            elif isinstance(value, Namespace):
                todo.append(value._Namespace__attrs)
        return total

    def looped(self, value: Any, weight: int = 1) -> Any:
        """`value`, of which each element costs `weight` steps."""
        if hasattr(value, "__len__"):
            self.step(len(value) * weight)
            return value
        return self._passing(value, weight)

    def _passing(self, value, weight=1):
        total = 0
        for element in value:
            self.step(weight)
            total += self.size(element)
            self.check(total)
            yield element

    def multiplied(self, left: Any, right: Any) -> None:
        """Refuse left * right if it is too large."""
        for one, other in ((left, right), (right, left)):
            if isinstance(one, int) and not isinstance(other, (int, float)):
                self.check(self.size(other) * max(one, 0))
        if isinstance(left, int) and isinstance(right, int):
            self.check_number(left.bit_length() + right.bit_length())

    def check_number(self, bits: int) -> None:
        """Refuse a number of so many bits."""
        if bits > LARGEST_NUMBER:
            raise TooMuchError("it computes numbers without end")

    def formatted(self, form: Any, values: Any) -> None:
        """Refuse a format that may become too large with these values."""
        if not isinstance(form, (str, bytes)):
            return
        text = form if isinstance(form, str) else form.decode("latin-1")
        if WIDTH.search(text):
            raise TooMuchError(f"it formats with {text!r:.60}, which may grow without end")
        self.check(len(text) * 10_000 if re.search(r"\d{4}", text) else len(text))
        self.check((text.count("%") + text.count("{")) * self.size(values))

    def replaced(self, text: Any, old: Any, new: Any) -> None:
        """Refuse text.replace(old, new) if it is too large."""
        if isinstance(text, (str, bytes)) and isinstance(old, type(text)):
            count: int = text.count(old)  # type: ignore[arg-type]
            self.check(len(text) + count * self.size(new))

    def method(self, owner: Any, name: str, values: list[Any]) -> None:
        """Refuse a method of a text or number that may make something too large of it."""
        numbers = [value for value in values if isinstance(value, int)]
        if not isinstance(owner, (str, bytes)):
            self.check(max(numbers, default=0) if name == "to_bytes" else 0)
        elif name == "replace" and len(values) > 1:
            self.replaced(owner, values[0], values[1])
        elif name in ("format", "format_map", "__mod__"):
            self.formatted(owner, values)
        elif name == "join" and values and hasattr(values[0], "__len__"):
            self.check(len(values[0]) * len(owner))
        elif name in ("expandtabs", "translate"):
            self.check(len(owner) * (max(numbers, default=8) if name == "expandtabs" else self.size(values)))
        else:
            self.check(max(numbers, default=0) if name in ("ljust", "rjust", "center", "zfill") else 0)

    def filtered(self, name: str, value: Any, options: list[Any]) -> None:
        """Refuse a filter that may make something too large of `value`."""
        numbers = max((option for option in options if isinstance(option, int)), default=0)
        if name == "replace" and len(options) > 1:
            self.replaced(str(value), str(options[0]), options[1])
        elif name == "format":
            self.formatted(value, options)
        elif name == "sum" and any(isinstance(option, (list, tuple)) for option in options):
            raise TooMuchError("it adds up lists, which takes without end")
        elif name == "round" and numbers > 100:
            self.check_number(4 * numbers)
        elif name in NUMBERS_MULTIPLY:
            lines = 1 + (value.count("\n") if isinstance(value, str) else self.size(value))
            self.check(numbers * lines)
        if name in ("indent", "join", "wordwrap"):
            texts = sum(len(option) for option in options if isinstance(option, str))
            self.check(texts * (1 + (len(value) if hasattr(value, "__len__") else 0)))


_BOUNDS: ContextVar[Bounds] = ContextVar("bounds")


def run(template: Template, values: dict[str, Any]) -> tuple[str, list[tuple[int, int]]]:
    """(the text that a template of an `Environment` makes of `values`, the spans that were noted in it).

    TooMuchError if it takes more than it may; else whatever the template raises.
    """
    bounds = Bounds(len(repr(values)))
    before = _BOUNDS.set(bounds)
    try:
        for piece in template.generate(values):
            bounds.pieces.append(piece)
            bounds.length += len(piece)
            bounds.check(bounds.length)
        return "".join(bounds.pieces), bounds.spans
    finally:
        _BOUNDS.reset(before)


def note_span(length: int) -> None:
    """Note that a text of this length is written next."""
    bounds = _BOUNDS.get()
    bounds.spans.append((bounds.length, bounds.length + length))


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox with bounds: those that stand in `_BOUNDS` while a template renders."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(optimized=False, finalize=_finalize, **options)  # nothing is computed before it renders
        self.globals.pop("lipsum")
        for name, function in self.filters.items():
            self.set_filter(name, function)
        self.filters["_measured"], self.filters["_looped"] = _measured, _looped

    def set_filter(self, name: str, function: Any) -> None:
        """Add a filter, with bounds."""
        self.filters[name] = _bounded(name, function)

    def _parse(self, source, name, filename):
        return _Measures().visit(super()._parse(source, name, filename))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """left operator right, if that is not too much."""
        bounds = _BOUNDS.get()
        bounds.step()
        if operator == "*":
            bounds.multiplied(left, right)
        elif operator == "%":
            bounds.formatted(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            bounds.check_number(left.bit_length() * abs(right))
        return bounds.measured(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as in Jinja)
        """__obj(*args, **kwargs), if that is not too much."""
        bounds = _BOUNDS.get()
        bounds.step(2)
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # Jinja wraps str.format
        if isinstance(owner, (str, bytes, int)):
            args = tuple(bounds.listed(value) for value in args)
            bounds.method(owner, getattr(__obj, "__name__", ""), [*args, *kwargs.values()])
            bounds.measured(owner)
        if isinstance(__obj, LoopContext):
            args = tuple(bounds.looped(value) for value in args)
        return bounds.measured(super().call(__context, __obj, *args, **kwargs))

    def joined(self, *values: Any) -> str:
        """The texts of `values`, one after another: what ~ makes."""
        return "".join(str(_BOUNDS.get().measured(value)) for value in values)


class _Measures(NodeTransformer):
    """A template's tree, with what makes something large or repeats something sent through the filters above."""

    def visit_For(self, node):
        written = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_looped", nodes.Const(1 + (written >> 8)))
        return node

    def visit_Concat(self, node):
        self.generic_visit(node)
        return nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None, lineno=node.lineno)

    def visit_Operand(self, node):
        self.generic_visit(node)
        node.expr = _filter(node.expr, "_measured")  # comparing reads all of it
        return node

    def visit_Getitem(self, node):
        self.generic_visit(node)
        return _filter(node, "_measured") if isinstance(node.arg, nodes.Slice) else node

    def visit_AssignBlock(self, node):
        self.generic_visit(node)
        node.filter = _filter(node.filter, "_measured")
        return node

    def visit_List(self, node):
        self.generic_visit(node)
        return _filter(node, "_measured")

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node):
        self.generic_visit(node)
        return _filter(node, "_measured") if node.ctx == "load" else node


def _filter(node, name, *options):
    return nodes.Filter(node, name, list(options), [], None, None, lineno=node.lineno if node is not None else 1)


@pass_context
def _measured(context, value):
    return _BOUNDS.get().measured(value)


@pass_context
def _looped(context, value, weight):
    return _BOUNDS.get().looped(value, weight)


@pass_context
def _finalize(context, value):
    """What {{ }} writes."""
    bounds = _BOUNDS.get()
    bounds.step()
    return bounds.written(value)


def _bounded(name, function):
    """A filter that is stopped where it would make too much."""
    passed = 1 if hasattr(function, "jinja_pass_arg") else 0

    def bounded(*args, **kwargs):
        bounds = _BOUNDS.get()
        bounds.step()
        if name in PASSED_ON or len(args) <= passed:
            return function(*args, **kwargs)
        first, value, options = args[:passed], args[passed], args[passed + 1 :]
        value = bounds.listed(value) if name == "join" else bounds.measured(value)
        bounds.filtered(name, value, [*options, *kwargs.values()])
        return bounds.measured(function(*first, value, *options, **kwargs))

    return functools.update_wrapper(bounded, function)
