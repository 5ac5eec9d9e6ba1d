"""Language models, their files, their tokenizers, and generating text.

Reading order: gpt2.py, llama.py (mistral.py, qwen2.py, olmo2.py, ... say what differs from it), gpt_neox.py, base.py
and pretrained_model.py (what all models do), context.py and kv_cache.py; then generation/, loading/ and tokenizers/. A
new architecture has its line in architectures.py, and so a classifier (classification.py).
"""

from ..aliases import moved_names
from .classification import GPT2ForSequenceClassification, LlamaForSequenceClassification
from .gemma2 import Gemma2Config, Gemma2ForCausalLM
from .gemma3 import Gemma3ForCausalLM, Gemma3TextConfig
from .generation import (
    BaseStreamer,
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TextIteratorStreamer,
    TextStreamer,
)
from .gpt2 import GPT2Config, GPT2LMHeadModel
from .gpt_neox import GPTNeoXConfig, GPTNeoXForCausalLM
from .kv_cache import KVCache
from .llama import LlamaConfig, LlamaForCausalLM
from .loading import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from .mistral import MistralConfig, MistralForCausalLM
from .olmo2 import Olmo2Config, Olmo2ForCausalLM
from .phi3 import Phi3Config, Phi3ForCausalLM
from .qwen2 import Qwen2Config, Qwen2ForCausalLM
from .qwen3 import Qwen3Config, Qwen3ForCausalLM
from .smollm3 import SmolLM3Config, SmolLM3ForCausalLM
from .tokenizers import ByteTokenizer, PretrainedTokenizer

__getattr__ = moved_names(__name__)

__all__ = [
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoTokenizer",
    "BaseStreamer",
    "BitsAndBytesConfig",
    "ByteTokenizer",
    "EosTokenCriteria",
    "GPT2Config",
    "GPT2ForSequenceClassification",
    "GPT2LMHeadModel",
    "GPTNeoXConfig",
    "GPTNeoXForCausalLM",
    "Gemma2Config",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma3TextConfig",
    "GenerationConfig",
    "KVCache",
    "LlamaConfig",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "MistralConfig",
    "MistralForCausalLM",
    "Olmo2Config",
    "Olmo2ForCausalLM",
    "Phi3Config",
    "Phi3ForCausalLM",
    "PretrainedTokenizer",
    "Qwen2Config",
    "Qwen2ForCausalLM",
    "Qwen3Config",
    "Qwen3ForCausalLM",
    "SmolLM3Config",
    "SmolLM3ForCausalLM",
    "StopStringCriteria",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TextIteratorStreamer",
    "TextStreamer",
]
