"""Names of floating-point types, as users write them."""

import sys

import numpy as np
import pytest
from lora_helpers import refusal

from lora_np import nn


@pytest.mark.parametrize("given", [np.float16, np.dtype("float16"), "float16", "torch.float16", "half", "torch.half"])
def test_every_spelling(given):
    assert nn.float_type(given) == np.float16


def test_bfloat16_is_a_package_of_its_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    for given in ("bfloat16", "bf16", "torch.bfloat16"):
        with pytest.raises(ImportError, match="bfloat16 needs the package ml_dtypes: pip install"):
            nn.float_type(given)


@pytest.mark.parity
def test_torchs_own():
    import torch

    assert [nn.float_type(d).name for d in (torch.half, torch.float32, torch.double)] == [
        "float16",
        "float32",
        "float64",
    ]
    pytest.importorskip("ml_dtypes")
    assert nn.float_type(torch.bfloat16).name == "bfloat16"


@pytest.mark.parametrize("given", ["int8", np.int64, "floaty", 32, None, "torch.complex64"])
def test_others_are_refused_by_name(given):
    assert refusal(ValueError, lambda: nn.float_type(given, "torch_dtype")).startswith("torch_dtype must be one of")
