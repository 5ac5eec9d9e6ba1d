"""The architectures that can be loaded: what a config.json calls each, its configuration and its model.

A new one needs its line here and its file. Tensor names in GGUF (loading/gguf.py) and the layers that LoRA adapts
when none are named (lora/targets.py) are for those that have them.
"""

from collections.abc import Mapping
from typing import Any

from ..storage.fields import short
from .base import CausalLM
from .config import ModelConfig
from .gemma2 import Gemma2Config, Gemma2ForCausalLM
from .gemma3 import Gemma3ForCausalLM, Gemma3TextConfig
from .gpt2 import GPT2Config, GPT2LMHeadModel
from .gpt_neox import GPTNeoXConfig, GPTNeoXForCausalLM
from .llama import LlamaConfig, LlamaForCausalLM
from .mistral import MistralConfig, MistralForCausalLM
from .olmo2 import Olmo2Config, Olmo2ForCausalLM
from .phi3 import Phi3Config, Phi3ForCausalLM
from .qwen2 import Qwen2Config, Qwen2ForCausalLM
from .qwen3 import Qwen3Config, Qwen3ForCausalLM
from .smollm3 import SmolLM3Config, SmolLM3ForCausalLM

ARCHITECTURES: dict[str, tuple[type[ModelConfig], type[CausalLM]]] = {
    GPT2Config.model_type: (GPT2Config, GPT2LMHeadModel),
    LlamaConfig.model_type: (LlamaConfig, LlamaForCausalLM),
    MistralConfig.model_type: (MistralConfig, MistralForCausalLM),
    Qwen2Config.model_type: (Qwen2Config, Qwen2ForCausalLM),
    Qwen3Config.model_type: (Qwen3Config, Qwen3ForCausalLM),
    Gemma2Config.model_type: (Gemma2Config, Gemma2ForCausalLM),
    Gemma3TextConfig.model_type: (Gemma3TextConfig, Gemma3ForCausalLM),
    Olmo2Config.model_type: (Olmo2Config, Olmo2ForCausalLM),
    SmolLM3Config.model_type: (SmolLM3Config, SmolLM3ForCausalLM),
    Phi3Config.model_type: (Phi3Config, Phi3ForCausalLM),
    GPTNeoXConfig.model_type: (GPTNeoXConfig, GPTNeoXForCausalLM),
}

# Kinds that are not among them: what their config.json has that no other has, and names.
OTHER_KINDS = {
    "a mixture of experts": (
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"),
        (
            "mixtral",
            "qwen2_moe",
            "qwen3_moe",
            "phimoe",
            "olmoe",
            "gpt_oss",
            "deepseek_v2",
            "deepseek_v3",
            "llama4_text",
        ),
    ),
    "a model of images or sound beside text": (
        ("vision_config", "audio_config", "img_processor", "embd_layer", "mm_vision_tower"),
        (
            *("gemma3", "gemma3n", "gemma4", "llama4", "llava", "llava_next", "mistral3", "mllama", "paligemma"),
            *("phi3_v", "phi4_multimodal", "phi4mm", "pixtral", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm"),
        ),
    ),
}


def classes_of(fields: Mapping[str, Any]) -> tuple[type[ModelConfig], type[CausalLM]]:
    """The classes of configuration and model that the fields of a config.json ask for.

    ValueError if there are none, with the reason where it is known: experts, images.
    """
    kind = fields.get("model_type")
    if isinstance(kind, str) and kind in ARCHITECTURES:
        return ARCHITECTURES[kind]
    known = f"known are {', '.join(ARCHITECTURES)}"
    for what, (signs, names) in OTHER_KINDS.items():
        if kind in names or any(fields.get(name) for name in signs):
            raise ValueError(f"model_type {short(kind)} is {what}, which is not supported; {known}")
    raise ValueError(f"model_type {short(kind)} is not known; {known}")
