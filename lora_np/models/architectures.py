"""The architectures that can be loaded: what a config.json calls each, its configuration and its model.

A new one needs its line here and its file. Tensor names in GGUF (loading/gguf.py) and the layers that LoRA adapts
when none are named (lora/targets.py) are for those that have them.
"""

from .base import CausalLM
from .config import ModelConfig
from .gpt2 import GPT2Config, GPT2LMHeadModel
from .gpt_neox import GPTNeoXConfig, GPTNeoXForCausalLM
from .llama import LlamaConfig, LlamaForCausalLM
from .qwen3 import Qwen3Config, Qwen3ForCausalLM

ARCHITECTURES: dict[str, tuple[type[ModelConfig], type[CausalLM]]] = {
    GPT2Config.model_type: (GPT2Config, GPT2LMHeadModel),
    GPTNeoXConfig.model_type: (GPTNeoXConfig, GPTNeoXForCausalLM),
    LlamaConfig.model_type: (LlamaConfig, LlamaForCausalLM),
    Qwen3Config.model_type: (Qwen3Config, Qwen3ForCausalLM),
}
