"""Short names for the annotations of this room.

`autograd` and `nn` have no annotations: a type checker knows their classes, but not what is in them.
"""

from os import PathLike
from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray  # NumPy's; CuPy's have the same methods and go wherever these go
Layer: TypeAlias = Any  # a module with weight, in_features, out_features, fan_in_fan_out: nn.Linear, nn.Embedding, ...
Config: TypeAlias = Any  # the PeftConfig that the kind of adapter is registered with: a LoraConfig, a VeraConfig, ...
Input: TypeAlias = Any  # what a layer is called with: a Tensor, or the ids that an embedding looks up
StrPath: TypeAlias = str | PathLike[str]

ABSENT: Any = None  # a field that only some configurations have
