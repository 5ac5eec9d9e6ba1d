"""Models from files.

auto.py and classifiers.py (by name or path), checkpoints.py (directories), gguf.py, fetch.py (what pip brings).
"""

from .auto import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from .checkpoints import load_pretrained
from .classifiers import AutoModelForSequenceClassification
from .quantization import BitsAndBytesConfig

__all__ = [
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoTokenizer",
    "BitsAndBytesConfig",
    "load_pretrained",
]
