"""LoRA. Read `layer.py` first: it is the idea. Then, for plain LoRA on a whole model:

    adapted.py       what every adapted layer has in common: named adapters, merging
    config.py, init.py, targets.py     what an adapter is, how A and B start, which layers get one
    tuner.py, model.py, files.py       adapters on a model, switched and merged; PEFT's names and files

What goes beyond it, each in a room of its own:

    variants.py      the seam; dora.py and projection.py (q, k, v apart) use it
    embedding.py, saved_modules.py     adapted embeddings, modules trained whole
    combine.py, weighted.py            several adapters made into one
    status.py, analysis.py, sizes.py, memory.py, step_memory.py     what is there, what it costs, what was learned
"""

from ..aliases import moved_names
from .config import LoraConfig, TaskType
from .embedding import LoraEmbedding
from .layer import LoraLinear
from .model import PeftModel, get_peft_model
from .tuner import LoraModel

__getattr__ = moved_names(__name__)

__all__ = ["LoraConfig", "LoraEmbedding", "LoraLinear", "LoraModel", "PeftModel", "TaskType", "get_peft_model"]
