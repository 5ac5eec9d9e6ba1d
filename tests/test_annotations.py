"""The public surface says its types: every public function and method of a room has complete annotations.

mypy checks that annotations are right; it cannot ask for them in public places alone. This test does.
"""

import functools
import importlib
import inspect

import pytest

ROOMS = ("lora", "models", "training", "cli")


def public_names(module):
    """The names of `__all__`; without one, those of the functions and classes that the room defines."""
    defined = [name for name, value in vars(module).items() if in_rooms(value, [module.__name__])]
    return getattr(module, "__all__", [name for name in defined if not name.startswith("_")])


def functions(value, rooms):
    """(name, function) of all that is called through a public function or class, as far as `rooms` define it.

    rooms: dotted names. Base classes count too where they lie in a room: their methods are the class's own to a user.
    """
    if inspect.isclass(value):
        for cls in value.__mro__:
            if in_rooms(cls, rooms):
                for name, member in vars(cls).items():
                    if not name.startswith("_") or name in ("__init__", "__call__"):
                        yield from ((f"{cls.__name__}.{name}", found) for found in plain_functions(member))
    elif callable(value) and in_rooms(value, rooms):
        yield from ((value.__name__, found) for found in plain_functions(value))


def in_rooms(value, rooms):
    module = getattr(value, "__module__", None) or ""
    return any(f"{module}.".startswith(f"{room}.") for room in rooms)


def plain_functions(member):
    """The functions behind a method of any kind, a property, or what a decorator made."""
    if isinstance(member, property):
        members = [member.fget, member.fset, member.fdel]
    elif isinstance(member, functools.cached_property):
        members = [member.func]
    elif isinstance(member, staticmethod | classmethod):
        members = [member.__func__]
    else:
        members = [member]
    return [found for found in map(inspect.unwrap, filter(None, members)) if inspect.isfunction(found)]


def missing(name, function):
    """What a function does not say the type of. A method's first parameter needs none, nor what `__init__` returns."""
    parameters = list(inspect.signature(function).parameters.values())
    if "." in name and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    found = [f"{name}({p.name})" for p in parameters if p.annotation is p.empty]
    has_result = "return" in function.__annotations__ or name.endswith(".__init__")
    return found if has_result else [*found, f"{name} -> ?"]


def all_missing(value, rooms):
    return [line for name, function in functions(value, rooms) for line in missing(name, function)]


def cases():
    for room in ROOMS:
        module = importlib.import_module(f"lora_np.{room}")
        for name in public_names(module):
            yield pytest.param(module, name, id=f"{room}.{name}")


@pytest.mark.parametrize(("module", "name"), list(cases()))
def test_a_public_name_is_annotated(module, name):
    rooms = [f"lora_np.{room}" for room in ROOMS]
    assert all_missing(getattr(module, name), rooms) == []


def test_the_rooms_have_public_names():
    ids = {case.id for case in cases()}
    assert {"lora.PeftModel", "models.GPT2LMHeadModel", "training.train", "cli.main"} <= ids


# What the test sees, on code made for it


class Base:
    def inherited(self, a): ...


class Example(Base):
    field: int = 0

    def __init__(self, a, b: int): ...

    def __call__(self, *args, **kwargs: int) -> None: ...

    def __len__(self): ...

    def _private(self, a): ...

    def whole(self, a: int, *, b: str = "") -> "Example": ...

    @staticmethod
    def static(a, b: int) -> int: ...

    @classmethod
    def made(cls, a) -> int: ...

    @property
    def size(self): ...

    @size.setter
    def size(self, value) -> None: ...

    @functools.cached_property
    def kept(self): ...

    @functools.cache  # noqa: B019  never called
    def cached(self, a: int): ...


def example(a, b: int, *rest, c=0, **more) -> None: ...


def complete(a: int) -> None: ...


def test_what_is_missing_is_found_and_nothing_else():
    assert all_missing(Example, [__name__]) == [
        "Example.__init__(a)",
        "Example.__call__(args)",
        "Example.static(a)",
        "Example.made(a)",
        "Example.size -> ?",
        "Example.size(value)",
        "Example.kept -> ?",
        "Example.cached -> ?",
        "Base.inherited(a)",
        "Base.inherited -> ?",
    ]
    assert all_missing(example, [__name__]) == ["example(a)", "example(rest)", "example(c)", "example(more)"]
    assert all_missing(functools.cache(example), [__name__]) == all_missing(example, [__name__])
    assert all_missing(complete, [__name__]) == []
    assert all_missing("no function", [__name__]) == []


def test_what_other_rooms_define_is_left_to_them():
    assert all_missing(Example, ["lora_np"]) == all_missing(example, ["lora_np"]) == []
