"""Loading a model from a directory with config.json and model.safetensors, as Transformers writes them."""

from pathlib import Path

from ..storage import read_json, read_safetensors
from .gpt2 import GPT2Config, GPT2LMHeadModel

ARCHITECTURES = {"gpt2": (GPT2Config, GPT2LMHeadModel)}


def load_pretrained(directory):
    """The model in a directory written by a model's `save_pretrained` or by Transformers, in evaluation mode.

    FileNotFoundError if a file is missing; ValueError, with the file's name, if it is damaged, of an unknown
    architecture, or does not hold exactly the weights that the configuration asks for.
    """
    directory = Path(directory)
    fields = read_json(directory / "config.json")
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{directory / 'config.json'}: model_type {kind!r} is not known ({known})")
    config_class, model_class = ARCHITECTURES[kind]
    state, _ = read_safetensors(directory / "model.safetensors")
    try:
        model = model_class(config_class.from_dict(fields))
        model.load_state_dict(state)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{directory}: {error.args[0]}") from None
    model.config.name_or_path = str(directory)
    return model.eval()
