"""Models from files: auto.py (by name or path), checkpoints.py (directories), gguf.py, fetch.py (what pip brings)."""

from .auto import AutoModelForCausalLM, AutoTokenizer
from .checkpoints import load_pretrained

__all__ = ["AutoModelForCausalLM", "AutoTokenizer", "load_pretrained"]
