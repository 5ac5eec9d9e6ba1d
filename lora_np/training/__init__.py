"""Training: data, optimizers, the loop.

Read in this order: loop.py (a step, and what repeats it), optim/adamw.py, data.py, examples.py and labelled.py (what a
batch is made of), evaluation.py; then parallel/, for what is beyond one process or one plain step.
"""

from ..aliases import moved_names
from .arguments import TrainingArguments
from .checkpoint import CheckpointError
from .data import TextData, load_text, prose_documents, python_documents
from .docstrings import docstring_examples
from .evaluation import evaluate
from .examples import ExampleData, load_examples, split_examples, tokenize_example, write_jsonl
from .labelled import Labelled, LabelledData, accuracy, load_labelled, split_labelled
from .loop import train
from .optim import SGD, AdamW, clip_grad_norm_, parameter_groups, warmup_cosine
from .parallel import RecordedStep

__getattr__ = moved_names(__name__)

__all__ = [
    "SGD",
    "AdamW",
    "CheckpointError",
    "ExampleData",
    "Labelled",
    "LabelledData",
    "RecordedStep",
    "TextData",
    "TrainingArguments",
    "accuracy",
    "clip_grad_norm_",
    "docstring_examples",
    "evaluate",
    "load_examples",
    "load_labelled",
    "load_text",
    "parameter_groups",
    "prose_documents",
    "python_documents",
    "split_examples",
    "split_labelled",
    "tokenize_example",
    "train",
    "warmup_cosine",
    "write_jsonl",
]
