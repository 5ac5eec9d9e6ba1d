"""Training: optimizers, data, the loop."""

from .data import TextData, load_text, prose_documents, python_documents
from .groups import parameter_groups
from .loop import TrainingArguments, evaluate, train
from .optim import SGD, AdamW, clip_grad_norm_, warmup_cosine

__all__ = [
    "SGD",
    "AdamW",
    "TextData",
    "TrainingArguments",
    "clip_grad_norm_",
    "evaluate",
    "load_text",
    "parameter_groups",
    "prose_documents",
    "python_documents",
    "train",
    "warmup_cosine",
]
