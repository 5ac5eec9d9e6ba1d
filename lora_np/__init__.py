"""lora_np: LoRA from scratch in NumPy, with its own autograd, exact to PEFT's file format.

An afternoon's reading, in this order
   1. lora/layer.py                LoRA on one page
   2. autograd/tensor.py           the engine: Tensor, Node and the walk back
   3. autograd/ops.py              small operations, each with its gradient
   4. autograd/fused/reference.py  the mathematics of a transformer
   5. nn/layers.py                 layers
   6. models/gpt2.py               GPT-2, bottom up
   7. lora/lora_model.py           LoRA in a model: layers replaced, the rest frozen
   8. training/optim/adamw.py      AdamW
   9. training/loop.py             the training step, and the loop around it
  10. lora/files.py                PEFT's files
Each room's __init__ says what else is in it.
"""

import importlib
from typing import TYPE_CHECKING

from . import aliases
from .autograd import Tensor, gradcheck, manual_seed, no_grad, set_seed

if TYPE_CHECKING:  # for editors; Python reads the parts one by one, when a name is asked for that it has not found yet
    from .auto_peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
    from .lora import (
        AdaLoraConfig,
        AdapterCache,
        ArrowConfig,
        BdLoraConfig,
        CordaConfig,
        DeloraConfig,
        EvaConfig,
        FourierFTConfig,
        HiraConfig,
        HRAConfig,
        IA3Config,
        KasaConfig,
        LoftQConfig,
        LoHaConfig,
        LoKrConfig,
        LoraConfig,
        LoraGAConfig,
        LoraModel,
        LoraRuntimeConfig,
        MissConfig,
        MontecloraConfig,
        OFTConfig,
        PeftConfig,
        PeftMixedModel,
        PeftModel,
        PeftModelForCausalLM,
        PeftModelForSequenceClassification,
        PeftType,
        RandLoraConfig,
        ShiraConfig,
        TaskType,
        TinyLoraConfig,
        VBLoRAConfig,
        VeloraConfig,
        VeraConfig,
        cast_mixed_precision_params,
        check_if_peft_model,
        convert_to_lora,
        create_arrow_model,
        extract_lora,
        get_eva_state_dict,
        get_layer_status,
        get_model_status,
        get_peft_model,
        get_peft_model_state_dict,
        hotswap_adapter,
        initialize_lora_eva_weights,
        inject_adapter_in_model,
        load_peft_weights,
        prepare_model_for_kbit_training,
        preprocess_corda,
        preprocess_loraga,
        reduce_intruder_dimension,
        replace_lora_weights_loftq,
        rescale_adapter_scale,
        save_as_lora,
        set_peft_model_state_dict,
    )
    from .models import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        BaseStreamer,
        BitsAndBytesConfig,
        ByteTokenizer,
        EosTokenCriteria,
        Gemma2Config,
        Gemma2ForCausalLM,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GenerationConfig,
        GPT2Config,
        GPT2ForSequenceClassification,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        KVCache,
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        LogitsProcessor,
        LogitsProcessorList,
        MaxLengthCriteria,
        MaxTimeCriteria,
        MistralConfig,
        MistralForCausalLM,
        Olmo2Config,
        Olmo2ForCausalLM,
        Phi3Config,
        Phi3ForCausalLM,
        PretrainedTokenizer,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        SmolLM3Config,
        SmolLM3ForCausalLM,
        StoppingCriteria,
        StoppingCriteriaList,
        StopStringCriteria,
        TextIteratorStreamer,
        TextStreamer,
    )
    from .training import (
        SGD,
        Adam,
        AdamW,
        AdamW8bit,
        DataCollatorForLanguageModeling,
        DataCollatorForSeq2Seq,
        DataCollatorWithFlattening,
        DataCollatorWithPadding,
        EvalPrediction,
        ExampleData,
        GaLoreAdamW,
        LambdaLR,
        TextData,
        Trainer,
        TrainingArguments,
        clip_grad_norm_,
        create_lorafa_optimizer,
        create_loraplus_optimizer,
        create_riemannian_optimizer,
        default_data_collator,
        evaluate,
        get_constant_schedule,
        get_constant_schedule_with_warmup,
        get_cosine_schedule_with_warmup,
        get_linear_schedule_with_warmup,
        get_scheduler,
        train,
    )

__version__ = "0.2.0"

__all__ = [
    "SGD",
    "AdaLoraConfig",
    "Adam",
    "AdamW",
    "AdamW8bit",
    "AdapterCache",
    "ArrowConfig",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoPeftModelForCausalLM",
    "AutoPeftModelForSequenceClassification",
    "AutoTokenizer",
    "BaseStreamer",
    "BdLoraConfig",
    "BitsAndBytesConfig",
    "ByteTokenizer",
    "CordaConfig",
    "DataCollatorForLanguageModeling",
    "DataCollatorForSeq2Seq",
    "DataCollatorWithFlattening",
    "DataCollatorWithPadding",
    "DeloraConfig",
    "EosTokenCriteria",
    "EvaConfig",
    "EvalPrediction",
    "ExampleData",
    "FourierFTConfig",
    "GPT2Config",
    "GPT2ForSequenceClassification",
    "GPT2LMHeadModel",
    "GPTNeoXConfig",
    "GPTNeoXForCausalLM",
    "GaLoreAdamW",
    "Gemma2Config",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma3TextConfig",
    "GenerationConfig",
    "HRAConfig",
    "HiraConfig",
    "IA3Config",
    "KVCache",
    "KasaConfig",
    "LambdaLR",
    "LlamaConfig",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "LoHaConfig",
    "LoKrConfig",
    "LoftQConfig",
    "LogitsProcessor",
    "LogitsProcessorList",
    "LoraConfig",
    "LoraGAConfig",
    "LoraModel",
    "LoraRuntimeConfig",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "MissConfig",
    "MistralConfig",
    "MistralForCausalLM",
    "MontecloraConfig",
    "OFTConfig",
    "Olmo2Config",
    "Olmo2ForCausalLM",
    "PeftConfig",
    "PeftMixedModel",
    "PeftModel",
    "PeftModelForCausalLM",
    "PeftModelForSequenceClassification",
    "PeftType",
    "Phi3Config",
    "Phi3ForCausalLM",
    "PretrainedTokenizer",
    "Qwen2Config",
    "Qwen2ForCausalLM",
    "Qwen3Config",
    "Qwen3ForCausalLM",
    "RandLoraConfig",
    "ShiraConfig",
    "SmolLM3Config",
    "SmolLM3ForCausalLM",
    "StopStringCriteria",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TaskType",
    "Tensor",
    "TextData",
    "TextIteratorStreamer",
    "TextStreamer",
    "TinyLoraConfig",
    "Trainer",
    "TrainingArguments",
    "VBLoRAConfig",
    "VeloraConfig",
    "VeraConfig",
    "cast_mixed_precision_params",
    "check_if_peft_model",
    "clip_grad_norm_",
    "convert_to_lora",
    "create_arrow_model",
    "create_lorafa_optimizer",
    "create_loraplus_optimizer",
    "create_riemannian_optimizer",
    "default_data_collator",
    "evaluate",
    "extract_lora",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_eva_state_dict",
    "get_layer_status",
    "get_linear_schedule_with_warmup",
    "get_model_status",
    "get_peft_model",
    "get_peft_model_state_dict",
    "get_scheduler",
    "gradcheck",
    "hotswap_adapter",
    "initialize_lora_eva_weights",
    "inject_adapter_in_model",
    "load_peft_weights",
    "manual_seed",
    "no_grad",
    "prepare_model_for_kbit_training",
    "preprocess_corda",
    "preprocess_loraga",
    "reduce_intruder_dimension",
    "replace_lora_weights_loftq",
    "rescale_adapter_scale",
    "save_as_lora",
    "set_peft_model_state_dict",
    "set_seed",
    "train",
]

_PARTS = ("lora", "models", "auto_peft", "training", "costs", "nn", "storage", "optimizers")
_UNLISTED = (
    "models.generation",
    "models.tokenizers",
    "lora",
    "nn",
)  # and parts whose names are found too, though few ask for them
_moved = aliases.moved_names(__name__)


def __getattr__(name):
    """A name of `__all__`, or a part of the package, that was not needed so far. It is looked for here only once.

    With `import lora_np as torch`, also what torch has in its place: `torch_names.NAMES`, and `torch.optim`.
    """
    if name in _PARTS:
        return importlib.import_module(f".{name}", __name__)
    from .autograd import torch_names

    if name in torch_names.NAMES:
        return torch_names.NAMES[name]
    if name == "optim":
        return importlib.import_module(".training.optim", __name__)
    for part in _PARTS if name in __all__ else _UNLISTED if name[0].isupper() else ():
        found = getattr(importlib.import_module(f".{part}", __name__), name, None)
        if found is not None:
            globals()[name] = found
            return found
    return _moved(name)


def __dir__():
    from .autograd import torch_names

    return sorted({*globals(), *__all__, *_PARTS, *torch_names.NAMES, "optim"})
