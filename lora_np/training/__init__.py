"""Training: data, optimizers, the loop.

Read in this order: loop.py (a step, and what repeats it), optim/adamw.py, data.py and examples.py (what a batch is
made of), evaluation.py; then parallel/, for what is beyond one process or one plain step.
"""

from ..aliases import moved_names
from .arguments import TrainingArguments
from .checkpoint import CheckpointError
from .data import TextData, load_text, prose_documents, python_documents
from .docstrings import docstring_examples
from .evaluation import evaluate
from .examples import ExampleData, load_examples, split_examples, tokenize_example, write_jsonl
from .loop import train
from .optim import (
    SGD,
    Adam,
    AdamW,
    LambdaLR,
    clip_grad_norm_,
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    parameter_groups,
    warmup_cosine,
)
from .parallel import RecordedStep

__getattr__ = moved_names(__name__)

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CheckpointError",
    "ExampleData",
    "LambdaLR",
    "RecordedStep",
    "TextData",
    "TrainingArguments",
    "clip_grad_norm_",
    "docstring_examples",
    "evaluate",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_linear_schedule_with_warmup",
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
