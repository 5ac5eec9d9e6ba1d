"""The size of the notebooks' runs, from the environment."""

import importlib

import pytest

from lora_course import budget

module = importlib.import_module("lora_course.budget")  # the package has a function of that name


@pytest.fixture(autouse=True)
def _not_told_yet(monkeypatch):
    monkeypatch.setattr(module, "_told", [])


@pytest.mark.parametrize(("value", "expected"), [(None, 160), ("full", 160), ("small", 4)])
def test_the_variable_chooses(monkeypatch, value, expected):
    monkeypatch.delenv("LORA_NP_BUDGET", raising=False)
    if value is not None:
        monkeypatch.setenv("LORA_NP_BUDGET", value)
    assert budget(full=160, small=4) == expected


@pytest.mark.parametrize("value", ["", "Small", "tiny", "1"])
def test_another_value_is_refused(monkeypatch, value):
    monkeypatch.setenv("LORA_NP_BUDGET", value)
    with pytest.raises(ValueError, match=f'LORA_NP_BUDGET must be "full" or "small", got {value!r}'):
        budget(full=160, small=4)


def test_a_small_budget_says_once_that_its_figures_mean_nothing(monkeypatch, capsys):
    monkeypatch.setenv("LORA_NP_BUDGET", "small")
    budget(full=1, small=1)
    budget(full=2, small=1)
    assert capsys.readouterr().out == module.BANNER + "\n"
    assert "mean nothing" in module.BANNER


def test_a_full_budget_says_nothing(monkeypatch, capsys):
    monkeypatch.setenv("LORA_NP_BUDGET", "full")
    budget(full=1, small=1)
    assert capsys.readouterr().out == ""
