"""Language models, their files, their tokenizers, and generating text.

Reading order: gpt2.py, llama.py (qwen3.py says what differs from it), causal_lm.py (what all models do), context.py
and kv_cache.py; then generation/, loading/ and tokenizers/. A new architecture has its line in architectures.py.
"""

from ..aliases import moved_names
from .gpt2 import GPT2Config, GPT2LMHeadModel
from .kv_cache import KVCache
from .llama import LlamaConfig, LlamaForCausalLM
from .loading import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from .qwen3 import Qwen3Config, Qwen3ForCausalLM
from .tokenizers import ByteTokenizer, PretrainedTokenizer

__getattr__ = moved_names(__name__)

__all__ = [
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "BitsAndBytesConfig",
    "ByteTokenizer",
    "GPT2Config",
    "GPT2LMHeadModel",
    "KVCache",
    "LlamaConfig",
    "LlamaForCausalLM",
    "PretrainedTokenizer",
    "Qwen3Config",
    "Qwen3ForCausalLM",
]
