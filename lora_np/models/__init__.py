"""Language models, their files, their tokenizers, and generating text.

Reading order: gpt2.py, llama.py (qwen3.py says what differs from it), base.py and pretrained_model.py (what all models
do), context.py and kv_cache.py; then generation/, loading/ and tokenizers/. A new architecture has its line in
architectures.py, and so a classifier (classification.py).
"""

from ..aliases import moved_names
from .classification import GPT2ForSequenceClassification, LlamaForSequenceClassification
from .gpt2 import GPT2Config, GPT2LMHeadModel
from .kv_cache import KVCache
from .llama import LlamaConfig, LlamaForCausalLM
from .loading import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from .tokenizers import ByteTokenizer, PretrainedTokenizer

__getattr__ = moved_names(__name__)

__all__ = [
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoTokenizer",
    "ByteTokenizer",
    "GPT2Config",
    "GPT2ForSequenceClassification",
    "GPT2LMHeadModel",
    "KVCache",
    "LlamaConfig",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "PretrainedTokenizer",
]
