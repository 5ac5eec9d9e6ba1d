"""Training: data, optimizers, the loop.

Read in this order: loop.py (a step, and what repeats it), optim/adamw.py, data.py, examples.py and labelled.py (what a
batch is made of), evaluation.py; then parallel/, for what is beyond one process or one plain step. names.py,
trainer.py, callbacks.py and callback_handler.py, collators.py and datasets.py are for who comes from Transformers:
they lead to the same loop.
"""

from ..aliases import moved_names
from .arguments import TrainingArguments
from .callbacks import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState
from .checkpoint import CheckpointError
from .collators import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    default_data_collator,
)
from .data import TextData, load_text, prose_documents, python_documents
from .docstrings import docstring_examples
from .evaluation import evaluate
from .examples import ExampleData, load_examples, split_examples, tokenize_example, write_jsonl
from .labelled import Labelled, LabelledData, accuracy, load_labelled, split_labelled
from .loop import train
from .optim import (
    SGD,
    Adam,
    AdamW,
    AdamW8bit,
    GaLoreAdamW,
    LambdaLR,
    clip_grad_norm_,
    create_lorafa_optimizer,
    create_loraplus_optimizer,
    create_riemannian_optimizer,
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_scheduler,
    parameter_groups,
    warmup_cosine,
)
from .parallel import RecordedStep
from .predictions import EvalPrediction
from .trainer import Trainer

__getattr__ = moved_names(__name__)

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AdamW8bit",
    "CheckpointError",
    "DataCollatorForLanguageModeling",
    "DataCollatorForSeq2Seq",
    "DataCollatorWithFlattening",
    "DataCollatorWithPadding",
    "EarlyStoppingCallback",
    "EvalPrediction",
    "ExampleData",
    "GaLoreAdamW",
    "Labelled",
    "LabelledData",
    "LambdaLR",
    "RecordedStep",
    "TextData",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "accuracy",
    "clip_grad_norm_",
    "create_lorafa_optimizer",
    "create_loraplus_optimizer",
    "create_riemannian_optimizer",
    "default_data_collator",
    "docstring_examples",
    "evaluate",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_linear_schedule_with_warmup",
    "get_scheduler",
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
