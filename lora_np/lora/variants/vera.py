r"""VeRA: all layers share one pair of frozen random matrices; each trains two vectors. (Kopiczko et al., 2023, eq. 2.)

    y = base(x) + b ∘ B(d ∘ A(dropout(x)))          ΔW = diag(b) B diag(d) A

A (r, widest in) and B (widest out, r) are drawn once; a layer uses A's first columns and B's first rows. Trained are d
(r,), `vera_lambda_d`, and b (out,), `vera_lambda_b`: r + out numbers where LoRA has r (in + out). b starts at zero, so
training starts at the base model. ΔW has rank r at most and merges. The paper claims LoRA's results with a tenth of its
trained parameters.
"""

from dataclasses import dataclass

import numpy as np

from ... import nn
from ...autograd import functional as F
from ...autograd.backend import random_seed
from ..adapter import Adapter
from ..config import PeftConfig, check_dropout, check_ranks


@dataclass
class VeraConfig(PeftConfig):
    """The settings of a VeRA adapter; see `PeftConfig` for the others.

    r                    rank of the shared matrices; VeRA wants more than LoRA
    vera_dropout         dropout probability on the branch's input, in training only
    d_initial            what d begins as; with init_weights=False d is normal and b one
    projection_prng_key  the seed of A and B. Other libraries draw other numbers from it, so both stand in the file
    """

    r: int = 256
    projection_prng_key: int = 0
    save_projection: bool = True
    vera_dropout: float = 0.0
    d_initial: float = 0.1
    init_weights: bool = True
    peft_type = "VERA"

    def __post_init__(self):
        super().__post_init__()
        check_ranks(self.r)
        check_dropout("vera_dropout", self.vera_dropout)
        if not self.save_projection:
            raise ValueError("save_projection=False: A and B would be drawn anew, and not alike in every library")


class VeraAdapter(Adapter):
    """Two vectors beside one linear layer, and its part of the shared A and B."""

    def __init__(self, config, target):
        layer, self.r = target.layer, target.r
        d = np.full(self.r, config.d_initial, np.float32) if config.init_weights else nn.normal(self.r, 1.0)
        b = np.full(layer.out_features, 0.0 if config.init_weights else 1.0, np.float32)
        self.vera_lambda_d, self.vera_lambda_b = nn.Parameter(d), nn.Parameter(b)
        self.vera_dropout = nn.Dropout(config.vera_dropout)
        self.sizes, self.shared_matrices = (layer.in_features, layer.out_features), target.shared

    @classmethod
    def check(cls, config, target):
        if isinstance(target.layer, nn.Embedding):
            raise ValueError(f"VeRA adapts linear layers; {target.name} is an Embedding")

    @classmethod
    def shared(cls, config, targets):
        with random_seed(config.projection_prng_key):
            A = nn.uniform((config.r, max(t.layer.in_features for t in targets)), 1.0)
            B = nn.uniform((max(t.layer.out_features for t in targets), config.r), 1.0)
        return {"vera_A": nn.Buffer(A * (6 / A.shape[1]) ** 0.5), "vera_B": nn.Buffer(B * (6 / config.r) ** 0.5)}

    def matrices(self):
        """This layer's A (r, in) and B (out, r), two arrays."""
        A, B = (self.shared_matrices[name].data for name in ("vera_A", "vera_B"))
        return A[:, : self.sizes[0]], B[: self.sizes[1]]

    def update(self, layer, x, base):
        A, B = self.matrices()
        return F.linear(F.linear(self.vera_dropout(x), A) * self.vera_lambda_d, B) * self.vera_lambda_b

    def delta_weight(self):
        A, B = self.matrices()
        return (self.vera_lambda_b.data[:, None] * B) @ (self.vera_lambda_d.data[:, None] * A)
