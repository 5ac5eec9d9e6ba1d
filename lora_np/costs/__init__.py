"""What a model and its adapters cost, before anything is downloaded: from the fields of a config.json.

    parameters.py    how many there are, in which layers
    operations.py    floating-point operations of a step
    memory.py        bytes of a step in mixed precision, by the usual arithmetic
    step_memory.py   bytes of a step of this library, by running it for its shapes

None of them describes a model. They make the real one without memory (weightless.py), watch it run (places.py), and run
it on arrays without numbers (shapes.py, shape_rules.py).
"""

from .memory import memory
from .operations import flops
from .parameters import adapter_sizes, count, linear_layers, model_size, weight_shapes
from .step_memory import estimate_step_memory

__all__ = [
    "adapter_sizes",
    "count",
    "estimate_step_memory",
    "flops",
    "linear_layers",
    "memory",
    "model_size",
    "weight_shapes",
]
