"""How exact products of float32 matrices are on a GPU."""

import os

_precision = {"tf32": os.environ.get("LORA_NP_TF32", "0") == "1"}


def set_tf32(enabled):
    """Let float32 products on a GPU round their inputs to TF32: 10 bits of mantissa, several times as fast.

    Off unless LORA_NP_TF32=1. It holds for every product of the engine; what is added up stays float32.
    """
    _precision["tf32"] = bool(enabled)


def tf32_enabled():
    """May float32 products on a GPU use TF32?"""
    return _precision["tf32"]
