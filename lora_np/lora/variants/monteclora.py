r"""MonteCLoRA: LoRA whose A is drawn anew in each training step, about a mean that is learnt. (Sengupta et al., 2024,
"Robust and Efficient Fine-tuning of LLMs with Bayesian Reparameterization of Low-Rank Adaptation".)

    y = base(x) + s·B((A + E) dropout(x)),    E = c Σ_k w_k diag(√v) Z_k in training, 0 else,    ΔW = s·B A

Z_1 ... Z_n (r, in) are normal. The variances v (r,) are the diagonal of a Wishart draw, whose scale σ = exp(std_prior)
is learnt, and the weights w (n,) add up to 1: a softmax of normal numbers, which stands for a Dirichlet draw of
concentration α = exp(expert_weights_prior), learnt too (Srivastava & Sutton, 2017, eq. 2):

    v = max(σ² u, 0.001),  u_i ~ χ²(r);     w = softmax(m + √q z),  z ~ N(0, 1),
    m = ln α - mean(ln α),    q = (1 - 2/n) / α + Σ 1/α / n².

Trained are LoRA's r (in + out) numbers, r and n. The update has rank r and is merged without E. A term is added to the
loss, `regularization`, which holds the three near their priors: `peft_model._get_monteclora_loss()`, as in PEFT. The
paper's claim is that results hang less on the settings of the training.

The draws of the last training step are saved, as in PEFT's files; only the term for v and Σ w² depend on them.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module, to_device
from ...autograd.ops import exp, log, sqrt
from ...autograd.random import generator
from ...autograd.shape_ops import reshape, transpose
from ...autograd.softmax import softmax
from ...autograd.tensor import data, record
from ..adapter import Adapter, Target
from ..types import Array, Config, Layer
from .whole import OnWholeLayers

LEAST_VARIANCE, LEAST = 1e-3, 1e-6


class MonteCarlo(OnWholeLayers):
    """A, B, and the sampler of E."""

    setting, changes_base = "monteclora_config", True

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.lora_monteclora_sampler = Sampler(target.r, config.monteclora_config)

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        x, (A, B) = self.lora_dropout(x), self.matrices()
        if self.lora_dropout.training:  # the adapter's own mode is not switched
            A = A + self.lora_monteclora_sampler(A.shape[1])
        return F.linear(F.linear(x, A), B) * self.scaling


class Sampler(nn.Module):
    """The learnt distributions of v (r,) and of w (n,), and what was drawn from them last."""

    draws = True  # random numbers, other ones in each step
    std_prior: Any  # Parameters
    expert_weights_prior: Any

    def __init__(self, r: int, settings: Any) -> None:
        self.settings, n = settings, settings.num_samples
        self.std_prior, self.expert_weights_prior = (nn.Parameter(nn.uniform(size, 0.5) + 0.5) for size in (r, n))
        self.gaussian_var_prior = nn.Buffer(np.eye(r, dtype=np.float32))
        self.expert_weights = nn.Buffer(np.full(n, 1 / n, np.float32))
        self.drawn: Any = None  # (u, z) of the last step

    def forward(self, width: int) -> Tensor:
        """E (r, width)."""
        r, n = self.std_prior.size, self.settings.num_samples
        draw, like = generator(), self.std_prior
        u, z, Z = draw.chisquare(r, r), draw.standard_normal(n), draw.standard_normal((n, width * r), np.float32)
        self.drawn = tuple(to_device(np.asarray(one, like.dtype), like.device) for one in (u, z))
        v, w = self.variances(), self.weights()
        self.gaussian_var_prior.data = array_module(v.data).diag(v.data)
        self.expert_weights.data = w.data
        mixed = F.linear(reshape(w, (1, n)), to_device(Z.T.astype(like.dtype), like.device))  # Σ_k w_k Z_k
        return transpose(reshape(mixed, (width, r)) * sqrt(v)) * self.settings.sample_scaler

    def variances(self) -> Tensor:
        """v of the last step."""
        return at_least(exp(self.std_prior * 2.0) * self.drawn[0], LEAST_VARIANCE)

    def weights(self) -> Tensor:
        """w of the last step."""
        alpha: Any = at_least(exp(self.expert_weights_prior), LEAST)
        n = self.settings.num_samples
        spread = at_least((1 - 2 / n) / alpha + (1 / alpha).sum() / n**2, LEAST) + LEAST
        return softmax(log(alpha) - log(alpha).mean() + sqrt(spread) * self.drawn[1], -1)

    def term(self) -> Any:
        """κ (D_w + D_σ + D_v) + Σ w², the last with `use_entropy` only. κ is kl_loss_weight.

        D_σ = r/2 Σ (σ² - ln σ² - 1) and D_v = n/2 Σ (v - ln v - 1) are divergences from scale 1 and from variance 1.
        D_w = ln Γ(Σα) - n₀ + Σ (ln Γ(α) - ln Γ(a)) + Σ (α - a)(ψ(α) - ψ(Σα)), n₀ = ln Γ(n a), with a the
        dirichlet_prior, is PEFT's: the divergence of two Dirichlet distributions has the first sum of ln Γ negative.
        """
        settings, r = self.settings, self.std_prior.size
        n, a = settings.num_samples, settings.dirichlet_prior
        alpha: Any = exp(self.expert_weights_prior)
        variance: Any = exp(self.std_prior * 2.0)
        total = alpha.sum()
        divergence: Any = log_gamma(total) + log_gamma(alpha).sum() - math.lgamma(n * a) - n * math.lgamma(a)
        divergence = divergence + ((alpha - a) * (digamma(alpha) - digamma(total))).sum()
        divergence = divergence + (variance - log(variance) - 1.0).sum() * (0.5 * r)
        if self.drawn is not None:  # before that v = 1
            v: Any = self.variances()
            divergence = divergence + (v - log(v) - 1.0).sum() * (0.5 * n)
        found = divergence * settings.kl_loss_weight
        if settings.use_entropy:
            w: Any = self.weights() if self.drawn is not None else Tensor(self.expert_weights.data)
            found = found + (w * w).sum()
        return found


def regularization(adapters: Iterable[Adapter]) -> Any:
    """The mean of `Sampler.term` over those of these adapters that are MonteCLoRA's; 0.0 if none is in training."""
    found = [adapter for adapter in adapters if isinstance(adapter, MonteCarlo)]
    terms = [adapter.lora_monteclora_sampler.term() for adapter in found if adapter.lora_dropout.training]
    return sum(terms[1:], terms[0]) / len(found) if terms else 0.0


def at_least(x: Tensor, least: float) -> Any:
    """max(x, least), with a gradient where x is above."""
    xp, above = array_module(data(x)), data(x) > least
    return record(xp.maximum(data(x), least), (x,), lambda dy: (dy * above,))


STEPS = 10  # so much is added to an argument, where the series below has 12 digits
# ln Γ(b) = (b - 1/2) ln b - b + ln(2π)/2 + Σ c_k / b^(2k - 1), Stirling's series; the others are its derivatives.
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def log_gamma(x: Tensor) -> Any:
    """ln Γ(x) of positive x. Its derivative is ψ."""
    return record(_log_gamma(data(x)), (x,), lambda dy: (dy * _digamma(data(x)),))


def digamma(x: Tensor) -> Any:
    """ψ(x) = d ln Γ(x) / dx of positive x."""
    return record(_digamma(data(x)), (x,), lambda dy: (dy * _trigamma(data(x)),))


def _log_gamma(x):
    """Γ(x) = Γ(x + 1) / x, ten times, and the series."""
    xp, b = array_module(x), x + STEPS
    series = (b - 0.5) * xp.log(b) - b + 0.5 * math.log(2 * math.pi)
    series = series + sum(c / b ** (2 * k - 1) for k, c in enumerate(STIRLING, 1))
    return series - sum(xp.log(x + i) for i in range(STEPS))


def _digamma(x):
    xp, b = array_module(x), x + STEPS
    series = xp.log(b) - 0.5 / b - sum((2 * k - 1) * c / b ** (2 * k) for k, c in enumerate(STIRLING, 1))
    return series - sum(1 / (x + i) for i in range(STEPS))


def _trigamma(x: Array) -> Array:
    b = x + STEPS
    series = 1 / b + 0.5 / b**2 + sum((2 * k - 1) * 2 * k * c / b ** (2 * k + 1) for k, c in enumerate(STIRLING, 1))
    return series + sum(1 / (x + i) ** 2 for i in range(STEPS))
