"""The initialisation of A and B: one function for each value of `init_lora_weights`.

Each takes the frozen weight W (out, in), the rank r and the scaling s, and returns A (r, in) and B (out, r). Most leave
s·B A = 0, so that training starts at the base model. PiSSA and OLoRA make A and B of W itself; s·B A is then taken out
of the base (`changes_base`), so that the sum is W again. MiCA reads W and leaves it. The others get any array of W's
shape. Those in `FROM_LAYERS` need more: they are in `starts/`, one file each.
"""

import importlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.devices import to_device, to_numpy
from ..nn import is_weightless, normal, uniform, zeros
from .adapter import Target, dtype_beside
from .base_layer import oriented
from .layer import default_initialisation
from .types import Array, Config


def kaiming(weight: Array, r: int, s: float) -> tuple[Array, Array]:
    """True: see `layer.default_initialisation`."""
    fan_out, fan_in = weight.shape
    return default_initialisation(fan_in, fan_out, r)


def gaussian(weight: Array, r: int, s: float) -> tuple[Array, Array]:
    """ "gaussian": A normal with standard deviation 1/r, B zero."""
    fan_out, fan_in = weight.shape
    return normal((r, fan_in), 1 / r), zeros((fan_out, r))


def both_random(weight: Array, r: int, s: float) -> tuple[Array, Array]:
    """False: A uniform in ±1/√in, B uniform in ±1/√r. For tests: it shows the mistakes that B = 0 hides."""
    fan_out, fan_in = weight.shape
    return uniform((r, fan_in), 1 / np.sqrt(fan_in)), uniform((fan_out, r), 1 / np.sqrt(r))


def orthogonal(weight: Array, r: int, s: float) -> tuple[Array, Array]:
    """ "orthogonal": neither is zero, yet B A = 0, because they use different rows of one orthogonal matrix.

    Q (r, r) is the orthogonal factor of a random matrix; A = Q_evenᵀ Z / 10 and B = Z' Q_odd / 10
    with normal Z (r/2, in) and Z' (out, r/2). Rows of Q are at right angles, so B A = Z' Q_odd Q_evenᵀ Z / 100 = 0.
    Needs an even r.
    """
    fan_out, fan_in = weight.shape
    Q, _ = np.linalg.qr(normal((r, r), 1.0))
    return Q[0::2].T @ normal((r // 2, fan_in), 0.1), normal((fan_out, r // 2), 0.1) @ Q[1::2]


def pissa(weight: Array, r: int, s: float) -> tuple[Array, Array]:
    """ "pissa": the r largest singular values of W = U S Vᵀ: A = √(S/s) Vᵀ, B = U √(S/s). (Meng et al., 2024.)"""
    U, S, Vt = np.linalg.svd(weight, full_matrices=False)
    return _principal(U, S, Vt, r, s)


def pissa_niter(weight: Array, r: int, s: float, iterations: int) -> tuple[Array, Array]:
    """ "pissa_niter_N": pissa by a randomised SVD with N power iterations, much faster. (Halko et al., 2011.)"""
    sketch = weight @ normal((weight.shape[1], min(2 * r, *weight.shape)), 1.0)
    Q, _ = np.linalg.qr(sketch)
    for _ in range(iterations):
        Q, _ = np.linalg.qr(weight @ np.linalg.qr(weight.T @ Q)[0])
    U, S, Vt = np.linalg.svd(Q.T @ weight, full_matrices=False)
    return _principal(Q @ U, S, Vt, r, s)


def olora(weight: Array, r: int, s: float) -> tuple[Array, Array]:
    """ "olora": the first r columns of Q and rows of R in W = Q R: B = Q[:, :r], A = R[:r]. (Büyükakyüz, 2024.)

    PEFT does not turn a Conv1D's weight to (out, in) first, so its OLoRA adapters on GPT-2's blocks cannot run.
    """
    Q, R = np.linalg.qr(weight)
    return R[:r], Q[:, :r]


def mica(weight: Array, r: int, s: float) -> tuple[Array, Array]:
    """ "mica": B = the last r left singular vectors of W, those that it uses least, and A zero; only A is trained.

    See `variants/mica.py`. (Rüdiger and Raschka, 2026.)
    """
    U, _, _ = np.linalg.svd(weight, full_matrices=False)
    return zeros((r, weight.shape[1])), U[:, U.shape[1] - r :]


def _principal(U, S, Vt, r, s):
    root = np.sqrt(S[:r] / s)
    return root[:, None] * Vt[:r], U[:, :r] * root


INITS: dict[bool | str, Callable[[Array, int, float], tuple[Array, Array]]] = {
    True: kaiming,
    False: both_random,
    "gaussian": gaussian,
    "orthogonal": orthogonal,
    "pissa": pissa,
    "olora": olora,
    "eva": kaiming,  # until `initialize_lora_eva_weights` has seen data
    "mica": mica,
}
FROM_LAYERS = ("corda", "lora_ga", "loftq")  # modules of `starts/`, which look at the layer and at what it was given
NITER = re.compile(r"pissa_niter_([0-9]+)")
MOST_ITERATIONS = 1000  # a hundred times as many as it takes


def is_known(kind: Any) -> bool:
    """Is `kind` a value of `init_lora_weights`?"""
    if not isinstance(kind, (bool, str)):
        return False
    iterations = NITER.fullmatch(str(kind))
    if iterations is not None:
        return len(iterations[1]) < 5 and int(iterations[1]) <= MOST_ITERATIONS
    return kind in INITS or kind in FROM_LAYERS


def changes_base(kind: bool | str) -> bool:
    """Does this initialisation take s·B A out of the base weight?"""
    return str(kind).startswith(("pissa", "olora")) or kind in FROM_LAYERS


def reads_weight(kind: bool | str) -> bool:
    """Are A and B made of W?"""
    return str(kind).startswith(("pissa", "olora", "mica")) or kind in FROM_LAYERS


def check_rank(kind: bool | str, shape: tuple[int, int], r: int) -> None:
    """ValueError if A and B are to be made of W (out, in), and r is more than the rank that W can have."""
    if reads_weight(kind) and r > min(shape):
        raise ValueError(f"init_lora_weights={kind!r} with r = {r}: a weight {shape} allows {min(shape)} at most")


def check_start(config: Config, target: Target) -> None:
    """ValueError if A and B are to be made of the target's weight, and it will not do, or has not been prepared."""
    kind, layer = config.init_lora_weights, target.layer
    check_rank(kind, (layer.out_features, layer.in_features), target.r)
    if kind in FROM_LAYERS and not is_weightless():
        _module_of(kind).check(config, target)


def _module_of(kind):
    return importlib.import_module(f".starts.{kind}", __package__)


def init_lora(kind: bool | str, weight: Array, r: int, s: float) -> tuple[Array, Array]:
    """(A (r, in), B (out, r)), float32 NumPy arrays, for one value of `init_lora_weights`. weight: (out, in).

    ValueError as in `check_rank`.
    """
    check_rank(kind, weight.shape, r)
    if is_weightless():  # shapes are all that is wanted
        return zeros((r, weight.shape[1])), zeros((len(weight), r))
    if reads_weight(kind):
        weight = to_numpy(weight)
        weight = weight.astype(np.result_type(weight.dtype, np.float32), copy=False)
    iterations = NITER.fullmatch(str(kind))
    if iterations:
        A, B = pissa_niter(weight, r, s, int(iterations[1]))
    else:
        A, B = INITS[kind](weight, r, s)
    return A.astype(np.float32, copy=False), B.astype(np.float32, copy=False)


def initial_matrices(config: Config, target: Target) -> list[Array]:
    """[A, B] of a `Target`, on its layer's device. A whole layer has A (r, in) and B (out, r).

    With a third one, Q (out, in), that takes the place of the layer's weight, where that is not W - s·B A (LoftQ).

    Of a joint projection n parts may be adapted, blocks of rows, each with an A and a B of its own. These stand one
    below the other: A (n·r, in), B (all their rows, r).
    """
    kind, s = config.init_lora_weights, config.scaling_of(target.r, target.lora_alpha)
    layer, shape = target.layer, (target.layer.out_features, target.layer.in_features)
    if kind in FROM_LAYERS and not is_weightless():
        check_start(config, target)
        matrices = _module_of(kind).matrices(config, target, s)
        return [to_device(matrix, layer.device).astype(dtype_beside(layer), copy=False) for matrix in matrices]
    weight = oriented(layer, layer.weight.data) if reads_weight(kind) else np.broadcast_to(np.float32(0), shape)
    blocks = [weight[: layer.parts[part]] for part in target.parts] or [weight]  # their shapes count: B starts at 0
    pairs = [init_lora(kind, block, target.r, s) for block in blocks]
    matrices = (found[0] if len(found) == 1 else np.concatenate(found) for found in zip(*pairs, strict=True))
    return [to_device(matrix, layer.device).astype(dtype_beside(layer), copy=False) for matrix in matrices]
