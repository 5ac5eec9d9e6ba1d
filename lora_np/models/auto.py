"""`from_pretrained` by name or directory, as in Transformers."""

from importlib import resources
from pathlib import Path

from .checkpoints import load_pretrained
from .tokenizers import load_tokenizer

TINY_PYTHON = "tiny-python"  # the shipped base: a byte-level GPT pretrained on the standard library's source


def resolve(name_or_path):
    """The directory of a model: a shipped model's name, or a path that exists."""
    shipped = resources.files(__package__) / "pretrained" / str(name_or_path)
    if str(name_or_path) == TINY_PYTHON and shipped.is_dir():
        return Path(str(shipped))
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    raise FileNotFoundError(
        f"{str(name_or_path)!r} is neither a directory nor the name of a shipped model ({TINY_PYTHON!r})"
    )


class AutoModelForCausalLM:
    """Loads whichever language model a directory holds."""

    @staticmethod
    def from_pretrained(name_or_path, device="cpu"):
        """The model `name_or_path` on `device`, in evaluation mode. Errors: see `checkpoints.load_pretrained`."""
        model = load_pretrained(resolve(name_or_path))
        model.config.name_or_path = str(name_or_path)
        return model.to(device)


class AutoTokenizer:
    """Loads whichever tokenizer a directory holds."""

    @staticmethod
    def from_pretrained(name_or_path):
        """The tokenizer of the model `name_or_path`."""
        return load_tokenizer(resolve(name_or_path))
