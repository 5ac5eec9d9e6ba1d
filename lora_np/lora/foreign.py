"""Folders that hold an adapter in another program's format: what they are, and how it becomes one that is read."""

from pathlib import Path

PICKLE = (
    "a pickle, which can run any code and is not read here. Convert it where PyTorch is, once: "
    "`safetensors.torch.save_file(torch.load('{file}', weights_only=True), 'adapter_model.safetensors')`"
)
FORMATS = {  # {file: what it is and what to do}, each looked for where there is no adapter_model.safetensors
    "adapter_model.bin": f"PEFT's older format, {PICKLE}",
    "adapter_model.pt": PICKLE,
    "adapters.safetensors": (
        "an adapter of mlx-lm. Fuse it there, with `mlx_lm.fuse`, and load the whole model; or convert it: lora_a and "
        "lora_b, transposed, are lora_A.weight and lora_B.weight under 'base_model.model.' and the layer's name in "
        "'adapter_model.safetensors'; r is its rank and lora_alpha its scale * rank in 'adapter_config.json'"
    ),
    "adapters.npz": "an older adapter of mlx-lm. Fuse it there, with `mlx_lm.fuse`, and load the whole model",
    "pytorch_adapter.bin": f"of the library Adapters (adapter-transformers), and {PICKLE}, and its names are others",
    "pytorch_lora_weights.safetensors": "an adapter of Diffusers, for a model that makes pictures",
    "lit_model.pth.lora": f"an adapter of LitGPT, {PICKLE}; its names are others: merge it there",
    "adapter_0.pt": f"an adapter of torchtune, {PICKLE}; torchtune also writes PEFT's format",
    "model.safetensors": "a whole model: load it with AutoModelForCausalLM.from_pretrained",
    "model.safetensors.index.json": "a whole model: load it with AutoModelForCausalLM.from_pretrained",
    "pytorch_model.bin": "a whole model, and a pickle: it is not read here",
}


def refuse_foreign(directory: Path, expected: str) -> None:
    """FileNotFoundError that says what the folder holds, if `expected` is not in it and another known file is."""
    if (directory / expected).exists():
        return
    for file, what in FORMATS.items():
        if (directory / file).exists():
            raise FileNotFoundError(f"{directory} has no {expected}. Its {file} is {what.format(file=file)}")
    found = sorted(path.name for path in directory.glob("*.gguf"))
    if found:
        raise FileNotFoundError(
            f"{directory} has no {expected}. Its {found[0]} is for llama.cpp: look for the adapter it was made from"
        )
    inside = sorted(path.parent.name for path in directory.glob(f"*/{expected}"))
    if inside:
        raise FileNotFoundError(f"{directory} has no {expected}, but folders in it have: {', '.join(inside[:5])}")
