"""Language models, their files, their tokenizers, and generating text."""

from .auto import AutoModelForCausalLM, AutoTokenizer
from .gpt2 import GPT2Config, GPT2LMHeadModel
from .tokenizers import ByteTokenizer

__all__ = ["AutoModelForCausalLM", "AutoTokenizer", "ByteTokenizer", "GPT2Config", "GPT2LMHeadModel"]
