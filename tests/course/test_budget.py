"""The size of the notebooks' runs, from the environment."""

import pytest

from lora_course import budget


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
