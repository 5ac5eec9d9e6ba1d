"""LoRA. Read `layer.py` first: it is the idea. Then config, init, targets, tuner, model, files."""

from .config import LoraConfig, TaskType
from .layer import LoraLinear
from .model import PeftModel, get_peft_model
from .tuner import LoraModel

__all__ = ["LoraConfig", "LoraLinear", "LoraModel", "PeftModel", "TaskType", "get_peft_model"]
