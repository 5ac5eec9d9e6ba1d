"""Keywords: what means nothing is accepted, what would do something is refused, and a misspelt one gets the nearest."""

import inspect
from dataclasses import dataclass

import pytest
from lora_helpers import refusal

from lora_np import GPT2Config, LoraConfig
from lora_np.keywords import NamedFields, Unused, check_unused, near_misses, unknown_keyword

TABLE = {"quiet": Unused(), "mixed": Unused("there is one kind"), "format": Unused("there is one format", ("plain",))}


@pytest.mark.parametrize("given", [{}, {"quiet": 3}, {"mixed": False}, {"mixed": None}, {"format": "plain"}])
def test_values_that_mean_nothing_pass(given):
    check_unused("load", given, TABLE)


@pytest.mark.parametrize("given", [{"mixed": True}, {"mixed": 0}, {"format": "other"}, {"format": False}])
def test_values_that_would_do_something_are_refused_with_the_reason(given):
    (name,) = given
    message = refusal(ValueError, lambda: check_unused("load", given, TABLE))
    assert message == f"load: {name}={given[name]!r} is not supported: {TABLE[name].why}"


def test_an_unknown_keyword_gets_the_nearest_of_all():
    message = refusal(TypeError, lambda: check_unused("load", {"quite": 1}, TABLE, ("path",)))
    assert message == "load has no option 'quite'; did you mean 'quiet'?"
    message = refusal(TypeError, lambda: check_unused("load", {"pth": 1}, TABLE, ("path",)))
    assert message == "load has no option 'pth'; did you mean 'path'?"


def test_without_a_near_one_all_are_listed():
    assert unknown_keyword("load", "xyz", ("path", "name", "_hidden")) == "load has no option 'xyz'; it has path, name"


def test_near_misses_keep_a_functions_signature_and_result():
    @near_misses
    def add(first, second=2):
        """Sum."""
        return first + second

    assert add(1, second=4) == 5
    assert list(inspect.signature(add).parameters) == ["first", "second"]
    assert add.__doc__ == "Sum."
    assert "did you mean 'second'?" in refusal(TypeError, lambda: add(1, secnd=3))
    with pytest.raises(TypeError, match="missing 1 required"):
        add()


def test_fields_of_a_dataclass():
    @dataclass
    class Settings(NamedFields):
        size: int = 1

    assert Settings(size=3) == Settings(3)
    assert refusal(TypeError, lambda: Settings(sise=3)) == "Settings has no option 'sise'; did you mean 'size'?"


def test_fields_of_a_class_derived_from_a_dataclass():
    @dataclass
    class Settings(NamedFields):
        size: int = 1

    class Other(Settings):
        pass

    class Own(Settings):
        def __init__(self, colour):
            super().__init__(2)
            self.colour = colour

    assert Other(size=3).size == 3
    assert refusal(TypeError, lambda: Other(sise=3)) == "Other has no option 'sise'; did you mean 'size'?"
    own = Own(colour="red")
    assert (own.size, own.colour) == (2, "red")


def test_what_a_class_says_of_itself_is_no_option():
    """ClassVars stand among a dataclass's fields."""
    for kind, name in ((LoraConfig, "prefix"), (GPT2Config, "model_type"), (GPT2Config, "architecture")):
        message = refusal(TypeError, lambda kind=kind, name=name: kind(**{name: "x"}))
        assert message.startswith(f"{kind.__name__} has no option {name!r}; ")
        assert f" {name}," not in refusal(TypeError, lambda kind=kind: kind(qqqq=1))
