"""Training: optimizers, data, the loop."""

from ..aliases import moved_names
from .data import TextData, load_text, prose_documents, python_documents
from .docstrings import docstring_examples
from .evaluation import evaluate
from .examples import ExampleData, load_examples, split_examples, tokenize_example, write_jsonl
from .groups import parameter_groups
from .loop import TrainingArguments, train
from .optim import SGD, AdamW, clip_grad_norm_, warmup_cosine
from .recorded import RecordedStep

__getattr__ = moved_names(__name__)

__all__ = [
    "SGD",
    "AdamW",
    "ExampleData",
    "RecordedStep",
    "TextData",
    "TrainingArguments",
    "clip_grad_norm_",
    "docstring_examples",
    "evaluate",
    "load_examples",
    "load_text",
    "parameter_groups",
    "prose_documents",
    "python_documents",
    "split_examples",
    "tokenize_example",
    "train",
    "warmup_cosine",
    "write_jsonl",
]
