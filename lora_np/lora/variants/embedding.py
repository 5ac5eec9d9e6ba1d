"""LoRA on an embedding: a look-up is a product with a one-hot row, so W + s·B A works there too."""

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.dispatch import matmul
from ...autograd.shape_ops import embedding, transpose
from ..adapter import Adapter, Target
from ..layer import AdaptedLayer
from ..types import Array, Config, Layer


class EmbeddingAdapter(Adapter):
    """What is added to the look-up: s·A[:, ids]ᵀ Bᵀ, with A (r, vocabulary) and B (dim, r).

    Here A is initialised with zeros, and B is normal, whatever way of `init_lora_weights` the linear layers are
    initialised in, as in PEFT; only with False both are normal. There is no dropout: ids cannot be dropped. A's column
    of the embedding's padding_idx gets no gradient, as its row in W.
    """

    idle_if_zero = "lora_embedding_B"

    def __init__(self, config: Config, target: Target) -> None:
        self.config, self.r, self.lora_alpha = config, target.r, target.lora_alpha
        self.scaling = config.scaling_of(target.r, target.lora_alpha)
        layer, self.padding_idx = target.layer, target.layer.padding_idx
        A, B = (target.r, layer.in_features), (layer.out_features, target.r)
        self.lora_embedding_A = nn.Parameter(nn.zeros(A) if config.init_lora_weights else nn.normal(A, 1.0))
        self.lora_embedding_B = nn.Parameter(nn.normal(B, 1.0))

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return isinstance(target.layer, nn.Embedding)

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        if config.lora_bias:
            raise ValueError("lora_bias is for linear layers, not for an Embedding")

    def matrices(self) -> tuple[nn.Parameter, nn.Parameter]:
        """(A (r, vocabulary), B (dim, r)), two Parameters."""
        return self.lora_embedding_A, self.lora_embedding_B

    def update(self, layer: Layer, ids: Array, base: Tensor) -> Tensor:
        return self.branch(ids)

    def branch(self, ids: Array) -> Tensor:
        """s·A[:, ids]ᵀ Bᵀ (..., dim)."""
        A, B = self.matrices()
        return F.linear(embedding(transpose(A), ids, self.padding_idx), B) * self.scaling

    def delta_weight(self) -> Array:
        A, B = self.matrices()
        return matmul(B.data, A.data) * self.scaling

    def rescale(self, factor: float) -> None:
        self.scaling = factor * self.config.scaling_of(self.r, self.lora_alpha)


class LoraEmbedding(AdaptedLayer):
    """An Embedding with adapters beside it: y = W[ids] + Σ s·A[:, ids]ᵀ Bᵀ. ids (...) -> y (..., dim)."""
