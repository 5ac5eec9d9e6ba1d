"""Models from files. auto.py: by name or path; checkpoints.py: directories; gguf.py: GGUF; fetch.py: what pip can bring."""

from .auto import AutoModelForCausalLM, AutoTokenizer
from .checkpoints import load_pretrained

__all__ = ["AutoModelForCausalLM", "AutoTokenizer", "load_pretrained"]
