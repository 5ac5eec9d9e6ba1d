"""The memory calculator: `lora_np.costs.memory.memory` as coefficients that a script can add up."""

from lora_np.costs.memory import activations, memory
from lora_np.costs.parameters import adapter_sizes, dimensions, linear_layers, model_size

from .widget import Widget, table

LLAMA = {"model_type": "llama", "tie_word_embeddings": False}
GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024}


def _gpt2(width, blocks, heads):
    return {**GPT2, "n_embd": width, "n_layer": blocks, "n_head": heads}


def _llama(width, blocks, heads, kv, inner, vocabulary, **more):
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    sizes = dict(zip(names, (width, blocks, heads, kv, inner), strict=True))
    return {**LLAMA, **sizes, "vocab_size": vocabulary, **more}


TIED = {"tie_word_embeddings": True}
MODELS = {  # the fields of each config.json that matter here
    "SmolLM2-135M": _llama(576, 30, 9, 3, 1536, 49152, **TIED),
    "SmolLM2-1.7B": _llama(2048, 24, 32, 32, 8192, 49152, **TIED),
    "GPT-2 (124M)": _gpt2(768, 12, 12),
    "GPT-2 XL (1.6B)": _gpt2(1600, 48, 25),
    "Llama-3.2-1B": _llama(2048, 16, 32, 8, 8192, 128256, **TIED),
    "Llama-2-7B": _llama(4096, 32, 32, 32, 11008, 32000),
    "Llama-3-8B": _llama(4096, 32, 32, 8, 14336, 128256),
    "Llama-3-70B": _llama(8192, 80, 64, 8, 28672, 128256),
    "Mistral-7B": _llama(4096, 32, 32, 8, 14336, 32000),
    "Qwen2.5-0.5B": _llama(896, 24, 14, 2, 4864, 151936, **TIED, model_type="qwen2"),
    "Qwen2.5-7B": _llama(3584, 28, 28, 4, 18944, 152064, model_type="qwen2"),
}
TARGETS = {  # name: (in a GPT-2, in the others)
    "all linear": ("all-linear", "all-linear"),
    "q and v": (["c_attn.q", "c_attn.v"], ["q_proj", "v_proj"]),
    "attention": (["c_attn", "attn.c_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"]),
    "MLP": (["c_fc", "mlp.c_proj"], ["gate_proj", "up_proj", "down_proj"]),
}
BITS = {32: {"weight_bytes": 4, "activation_bytes": 4}, 16: {}, 8: {"weight_bytes": 1}, 4: {"method": "qlora"}}
START = {"model": "Llama-3-8B", "targets": "all linear", "rank": 16, "tokens": 2048, "bits": 16, "checkpointing": False}
PARTS = ("weights", "adapters", "gradients", "optimizer", "activations")


def targets_of(config, name):
    """The target_modules that a set of TARGETS means in a model of this config."""
    return TARGETS[name][0 if config["model_type"] == "gpt2" else 1]


def forecast(model, targets, rank, tokens, bits, checkpointing):
    """(full, lora): what `memory` says for these settings, as dicts of bytes. Full training is in 16 or 32 bits."""
    config = MODELS[model]
    modules = targets_of(config, targets)
    options = {"length": tokens, "checkpointing": checkpointing}
    full = memory(config, method="full", **options, **(BITS[32] if bits == 32 else {}))
    return full, memory(config, rank, modules, **options, **BITS[bits])


def coefficients(config):
    """What memory is made of, measured by calling `lora_np.costs`, so that sums and products give it again.

    size, four_bit   parameters of the model, and the bytes of its weights in 4 bits
    sets             {target set: {trained: parameters for each rank, kept, checkpointed: numbers for each token}}
    head             bytes for each token above the blocks
    """
    sets, everything = {}, linear_layers(config)
    for name in TARGETS:
        sizes = adapter_sizes(config, 1, targets_of(config, name))
        sets[name] = {"trained": sum(sizes.values()), **_activations(config, sizes)}
    four = memory(config, 1, targets_of(config, "all linear"), length=1, method="qlora")["weights"]
    head = activations(config, everything, 1, 1) - 2 * _activations(config, everything)["kept"]
    whole = _activations(config, everything)
    return {"size": model_size(config), "four_bit": four, "head": head, "sets": sets, "full": whole}


def _activations(config, trained):
    """Numbers that each token keeps, without and with checkpointing: from two widths of a number."""
    blocks = dimensions(config)["blocks"]  # as many tokens, so that a block's share is a whole number

    def kept(checkpointing):
        four, two = (activations(config, trained, 1, blocks, width, checkpointing) for width in (4, 2))
        return (four - two) / 2 / blocks

    return {"kept": kept(False), "checkpointed": kept(True)}


def memory_calculator(models=None):
    """A calculator for one training step: model, rank, targets, tokens, bits of the base, checkpointing.

    models: {name: config}, MODELS if left out. Its numbers are those of `lora_np.costs.memory.memory`.
    """
    models = models or MODELS
    found = {name: coefficients(config) for name, config in models.items()}
    start = START if START["model"] in models else {**START, "model": next(iter(models))}
    title = "Memory of one training step"
    if models is MODELS:
        needs = forecast(**start)
        rows = [(part, *(f"{need[part] / 1e9:.2f}" for need in needs)) for part in (*PARTS, "total")]
        caption = f"{start['model']}, 16 bits, LoRA of rank 16 on all linear layers, 2,048 tokens, GB"
        static = table(caption, ("part", "full training", "LoRA"), rows)
    else:
        rows = [(name, f"{one['size']:,}") for name, one in found.items()]
        static = table("The models", ("model", "parameters"), rows)
    data = {"models": found, "targets": list(TARGETS), "bits": list(BITS), "start": start}
    return Widget("memory", data, title, static)
