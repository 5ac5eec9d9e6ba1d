"""LoRA on an embedding: a look-up is a product with a one-hot row, so W + s·B A works there too."""

import numpy as np

from .. import nn
from ..autograd import functional as F
from ..autograd import layout
from ..nn.layers import normal
from .adapted import AdaptedLayer


class LoraEmbedding(AdaptedLayer):
    """An Embedding with adapters beside it: y = W[ids] + s·A[:, ids]ᵀ Bᵀ, with A (r, vocabulary) and B (dim, r).

    Here A is the half that starts at zero and B is normal: each id then only pays for its own column of A.
    There is no dropout: ids can not be dropped.
    """

    prefix, suffix = "lora_embedding_", ""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.in_features, self.out_features = base_layer.num_embeddings, base_layer.embedding_dim
        self.lora_embedding_A, self.lora_embedding_B = nn.ParameterDict(), nn.ParameterDict()

    def _set_matrices(self, name, A, B, dropout):
        self.lora_embedding_A[name], self.lora_embedding_B[name] = nn.Parameter(A), nn.Parameter(B)

    def matrices(self, name):
        return self.lora_embedding_A[name], self.lora_embedding_B[name]

    def initial_matrices(self, kind, weight, r, s):
        """True: A zero, B normal. False: both normal. The other starts are for linear layers: ValueError."""
        if not isinstance(kind, bool):
            raise ValueError(f"init_lora_weights={kind!r} is for linear layers; an embedding takes True or False")
        A = np.zeros((r, self.in_features), np.float32) if kind else normal((r, self.in_features), 1.0)
        return A, normal((self.out_features, r), 1.0)

    def oriented(self, weight):
        """As a linear layer from one-hot rows, an embedding's weight (vocabulary, dim) is stored (in, out)."""
        return weight.T

    def _forward_rows(self, ids):
        if ids.ndim == 1:  # positions, which are the same for every row
            ids = np.broadcast_to(ids, (len(self.row_adapters), len(ids)))
        return super()._forward_rows(ids)

    def forward_with(self, names, ids):
        """y = W[ids] + Σ s·A[:, ids]ᵀ Bᵀ over these adapters. ids (...) -> (..., dim)."""
        y = self.base_layer(ids)
        for name in names:
            A, B = self.matrices(name)
            y = y + F.linear(layout.embedding(A.T, ids), B) * self.scaling[name]
        return y
