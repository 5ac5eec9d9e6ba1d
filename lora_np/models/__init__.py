"""Language models, their files, their tokenizers, and generating text.

Reading order: gpt2.py, llama.py (qwen3.py says what differs from it), gpt_neox.py, base.py (what all models do),
context.py and kv_cache.py; then generation/, loading/ and tokenizers/. A new architecture has its line in
architectures.py.
"""

from ..aliases import moved_names
from .gpt2 import GPT2Config, GPT2LMHeadModel
from .gpt_neox import GPTNeoXConfig, GPTNeoXForCausalLM
from .kv_cache import KVCache
from .llama import LlamaConfig, LlamaForCausalLM
from .loading import AutoModelForCausalLM, AutoTokenizer
from .mistral import MistralConfig, MistralForCausalLM
from .qwen2 import Qwen2Config, Qwen2ForCausalLM
from .qwen3 import Qwen3Config, Qwen3ForCausalLM
from .tokenizers import ByteTokenizer, PretrainedTokenizer

__getattr__ = moved_names(__name__)

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "ByteTokenizer",
    "GPT2Config",
    "GPT2LMHeadModel",
    "GPTNeoXConfig",
    "GPTNeoXForCausalLM",
    "KVCache",
    "LlamaConfig",
    "LlamaForCausalLM",
    "MistralConfig",
    "MistralForCausalLM",
    "PretrainedTokenizer",
    "Qwen2Config",
    "Qwen2ForCausalLM",
    "Qwen3Config",
    "Qwen3ForCausalLM",
]
