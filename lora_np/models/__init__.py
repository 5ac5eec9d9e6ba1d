"""Language models, their files, their tokenizers, and generating text."""

from ..aliases import moved_names
from .auto import AutoModelForCausalLM, AutoTokenizer
from .context import KVCache
from .gpt2 import GPT2Config, GPT2LMHeadModel
from .llama import LlamaConfig, LlamaForCausalLM
from .tokenizers import ByteTokenizer, PretrainedTokenizer

__getattr__ = moved_names(__name__)

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "ByteTokenizer",
    "GPT2Config",
    "GPT2LMHeadModel",
    "KVCache",
    "LlamaConfig",
    "LlamaForCausalLM",
    "PretrainedTokenizer",
]
