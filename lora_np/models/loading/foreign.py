"""Folders that hold a model in another form than the one that is read: what is there, and what to do with it."""

from pathlib import Path

PICKLE = (
    "a pickle, which can run any code and is not read here. Where PyTorch is, Transformers writes it anew, once: "
    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
)
READ = ("model.safetensors", "model.safetensors.index.json")
OTHERS = {  # patterns of names, in this order: what such a file is
    "*.gguf": "a whole model in one file: give gguf_file={file!r}",
    "model*-of-*.safetensors": "a part of a model, without model.safetensors.index.json, which lists the parts",
    "model.*.safetensors": "a variant: rename it to model.safetensors to have it read",
    "consolidated*.safetensors": "in the form of Mistral or Meta: look for the folder in Transformers' form",
    "consolidated*.pth": "in the form of Meta: look for the folder in Transformers' form",
    "*.bin": PICKLE,
    "*.pt": PICKLE,
    "*.pth": PICKLE,
    "*.h5": "for TensorFlow",
    "*.msgpack": "for Flax",
    "*.onnx": "for ONNX",
    "*.safetensors": "not read by that name",
}


def refuse_foreign(directory: Path, expected: str) -> None:
    """FileNotFoundError that says what the folder holds, if there is another known form of a model than `expected`."""
    if any((directory / name).exists() for name in READ):
        return
    for pattern, what in OTHERS.items():
        if found := sorted(path.name for path in directory.glob(pattern) if path.name != "training_args.bin"):
            raise FileNotFoundError(f"{directory} has no {expected}. Its {found[0]} is {what.format(file=found[0])}")
