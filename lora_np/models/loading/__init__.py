"""Models from files: auto.py (by name or path), checkpoints.py (directories), gguf.py, fetch.py (what pip brings)."""

from .auto import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from .checkpoints import load_pretrained
from .quantization import BitsAndBytesConfig

__all__ = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "BitsAndBytesConfig", "load_pretrained"]
