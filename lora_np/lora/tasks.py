"""PeftModels by what the model is for, under PEFT's names: `get_peft_model` and `from_pretrained` choose among them."""

from .peft_config import TaskType
from .peft_model import PeftModel


class PeftModelForCausalLM(PeftModel):
    """A language model with adapters. What it does is a PeftModel's."""

    task_type = TaskType.CAUSAL_LM


class PeftModelForSequenceClassification(PeftModel):
    """A classifier with adapters, each of which trains the head, `score` or `classifier`, whole: `targets.HEADS`."""

    task_type = TaskType.SEQ_CLS
