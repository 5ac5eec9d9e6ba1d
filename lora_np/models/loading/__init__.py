"""Models from files.

auto.py and classifiers.py (by name or path), checkpoints.py (directories), gguf.py, fetch.py (what pip brings).
"""

from .auto import AutoModelForCausalLM, AutoTokenizer
from .checkpoints import load_pretrained
from .classifiers import AutoModelForSequenceClassification

__all__ = ["AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoTokenizer", "load_pretrained"]
