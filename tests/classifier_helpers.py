"""Tiny classifiers, rows with padding on either side, and their twins in Transformers."""

import numpy as np
from lora_helpers import randomize, tiny_config, tiny_llama_config

from lora_np import AutoModelForSequenceClassification
from lora_np.models.architectures import ARCHITECTURES

PAD = 3
IDS = np.array([[5, 9, 11, 3, 3, 3], [3, 3, 7, 8, 9, 4], [3, 3, 3, 3, 3, 3], [1, 2, 3, 4, 5, 6], [3, 5, 3, 6, 3, 3]])
LAST = [2, 5, 0, 5, 3]
MASK = (IDS != PAD).astype(int)
MASK[2, 0] = 1  # a row of padding alone attends to something


def config_of(kind, **fields):
    """A tiny config of an architecture."""
    small = tiny_config().to_dict() if kind == "gpt2" else tiny_llama_config().to_dict()
    known = {
        name: value for name, value in small.items() if name not in ("model_type", "architectures", "pad_token_id")
    }
    return ARCHITECTURES[kind][0].from_dict({**known, "pad_token_id": PAD, **fields})


def tiny_classifier(kind="gpt2", **fields):
    """A tiny classifier with random weights, in evaluation mode."""
    return randomize(AutoModelForSequenceClassification.from_config(config_of(kind, **fields))).eval()


def twin_of(model):
    """Transformers' model with the same configuration and weights."""
    import torch
    import transformers

    fields = {k: v for k, v in model.config_fields().items() if k != "architectures"}
    twin = transformers.AutoModelForSequenceClassification.from_config(transformers.AutoConfig.for_model(**fields))
    twin.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    return twin.eval()
