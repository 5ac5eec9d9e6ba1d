"""Writing on: the loop over tokens (generate.py), and how each is chosen (sampling.py)."""

from .generate import generate, stream
from .sampling import Sampler

__all__ = ["Sampler", "generate", "stream"]
