"""tests/benchmarks/calls.py counts right."""

import sys

import pytest
from benchmarks.calls import LIMITS, counted, measured

FILES = {
    "package/top.py": """
def start(double, numbers):
    total = helper() + helper()
    for number in numbers(2):
        total += double(number)
    return total

def helper():
    return 0
""",
    "package/lower/double.py": """
import math

def double(number):
    return math.prod([number, 2])
""",
    "package/lower/numbers.py": """
def numbers(count):
    yield 1
    yield 2
""",
    "package_beside/outside.py": """
def passed_on(work):
    return work()
""",
}


@pytest.fixture
def functions(tmp_path):
    """The functions of these files by name."""
    found = {}
    for name, source in FILES.items():
        exec(compile(source, str(tmp_path / name), "exec"), found)
    return found


def test_calls_and_changes_of_file_are_counted(functions, tmp_path):
    """start, helper, helper | numbers | double | numbers | double | numbers, which ends; none of passed_on or math."""

    def work():
        return functions["passed_on"](lambda: functions["start"](functions["double"], functions["numbers"]))

    assert counted(work, tmp_path / "package") == (8, 6, 6)
    assert counted(work, tmp_path / "package" / "lower") == (5, 5, 6)
    assert counted(work, tmp_path / "package_beside") == (1, 1, 6)


def test_an_error_passes_and_ends_the_counting(functions, tmp_path):
    before = sys.getprofile()
    with pytest.raises(ZeroDivisionError):
        counted(lambda: functions["passed_on"](lambda: 1 / 0), tmp_path)
    assert sys.getprofile() is before


def test_what_is_measured_calls_functions_of_several_files_and_always_as_many(monkeypatch):
    monkeypatch.setenv("LORA_NP_NUM_THREADS", "1")
    found = measured()
    assert found.keys() == LIMITS.keys()
    assert all(calls > changes > 10 for calls, changes in found.values())
    assert measured() == found
