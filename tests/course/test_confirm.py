"""What a notebook's text says is checked in automatic runs, and stops no reader."""

import numpy as np
import pytest

from lora_course import confirm


@pytest.mark.parametrize("asked", [None, "0", "1"])
def test_what_holds_says_nothing(monkeypatch, capsys, asked):
    monkeypatch.delenv("LORA_NP_CONFIRM", raising=False)
    if asked is not None:
        monkeypatch.setenv("LORA_NP_CONFIRM", asked)
    confirm(np.float64(1.0) == 1, "the sum is one")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("asked", [None, "0"])
def test_a_reader_is_told_and_goes_on(monkeypatch, capsys, asked):
    monkeypatch.delenv("LORA_NP_CONFIRM", raising=False)
    if asked is not None:
        monkeypatch.setenv("LORA_NP_CONFIRM", asked)
    confirm(2 + 2 == 5, "the sum is five")
    assert capsys.readouterr().out == "differs from the text: the sum is five\n"


def test_an_automatic_run_stops(monkeypatch):
    monkeypatch.setenv("LORA_NP_CONFIRM", "1")
    with pytest.raises(AssertionError, match="differs from the text: the sum is five"):
        confirm(np.bool_(False), "the sum is five")
