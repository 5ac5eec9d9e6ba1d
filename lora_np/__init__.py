"""lora_np: LoRA from scratch in NumPy, with its own autograd, exact to PEFT's file format.

Reading order
  1. lora/layer.py            the idea: y = x Wᵀ + b + s·B(A(dropout(x)))
  2. autograd/tensor.py       Tensor, Node, backward: the whole engine
  3. autograd/ops.py          small operations, each with its gradient
  4. autograd/fused/          larger ones, derived: linear and lora_linear, attention, layer norm, GELU, losses
  5. nn/, models/             modules, and transformers made of them: gpt2.py, llama.py; generation.py
  6. lora/                    adapters on a whole model; its __init__ has the order
  7. training/                optimizers, data, the loop
"""

import importlib
from typing import TYPE_CHECKING

from . import aliases
from .autograd import Tensor, gradcheck, manual_seed, no_grad

if TYPE_CHECKING:  # for editors; Python reads the parts one by one, when a name is asked for that it has not found yet
    from .lora import LoraConfig, PeftModel, TaskType, get_peft_model
    from .models import (
        AutoModelForCausalLM,
        AutoTokenizer,
        ByteTokenizer,
        GPT2Config,
        GPT2LMHeadModel,
        KVCache,
        LlamaConfig,
        LlamaForCausalLM,
        PretrainedTokenizer,
    )
    from .training import SGD, AdamW, ExampleData, TextData, TrainingArguments, evaluate, train

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AdamW",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "ByteTokenizer",
    "ExampleData",
    "GPT2Config",
    "GPT2LMHeadModel",
    "KVCache",
    "LlamaConfig",
    "LlamaForCausalLM",
    "LoraConfig",
    "PeftModel",
    "PretrainedTokenizer",
    "TaskType",
    "Tensor",
    "TextData",
    "TrainingArguments",
    "evaluate",
    "get_peft_model",
    "gradcheck",
    "manual_seed",
    "no_grad",
    "train",
]

_PARTS = ("lora", "models", "training", "costs", "nn", "storage")
_moved = aliases.moved_names(__name__)


def __getattr__(name):
    """A name of `__all__`, or a part of the package, that was not needed so far. It is looked for here only once."""
    if name in _PARTS:
        return importlib.import_module(f".{name}", __name__)
    if name in __all__:
        for part in _PARTS:
            found = getattr(importlib.import_module(f".{part}", __name__), name, None)
            if found is not None:
                globals()[name] = found
                return found
    return _moved(name)


def __dir__():
    return sorted({*globals(), *__all__, *_PARTS})
