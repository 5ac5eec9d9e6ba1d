"""The drawings of the notebooks, one function each, as SVG text made here: no matplotlib, no JavaScript.

parts.py      boxes, arrows, labels, braces, matrices to scale; the Drawing, with its alternative text
layers.py     the LoRA layer to scale, its gradients, its rank, QLoRA
models.py     a transformer block, attention, who trains what, a map of the variants
training.py   the graph and its gradients, the loop, which tokens count, memory, a GPU's time
updates.py    merged, swapped, for each row; singular values cut off

`python -m lora_course.drawings` writes those that README pages show to notebooks/pictures.
"""

from .layers import lora, lora_gradients, qlora, rank
from .models import attention, block, variants, who_trains
from .parts import Drawing
from .training import gpu_time, graph, loop, prompt_and_completion, training_memory
from .updates import adapters, singular_values

ALL = (
    lora,
    graph,
    block,
    attention,
    lora_gradients,
    who_trains,
    loop,
    rank,
    training_memory,
    adapters,
    singular_values,
    prompt_and_completion,
    gpu_time,
    variants,
    qlora,
)

__all__ = ["ALL", "Drawing", *(function.__name__ for function in ALL)]
