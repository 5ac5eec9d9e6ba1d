"""Optimizers: from gradients to the next weights. And two helpers around them: clipping and the learning rate."""

import functools
import math

import numpy as np

from ..autograd import Tensor, backend


class Optimizer:
    """What SGD and AdamW share: parameter groups and state. Abstract: subclasses write `update`.

    params: Parameters, or dicts {"params": [...], "lr": ..., ...} whose settings override the defaults.
    Parameters without a gradient are passed over and have no state: under LoRA, that is the whole base model.
    """

    state_names = ()  # what `update` keeps for each parameter

    def __init__(self, params, **defaults):
        if isinstance(params, Tensor):
            raise TypeError("the optimizer takes a list of parameters (or another iterable), not a single one")
        groups = list(params)
        if not groups:
            raise ValueError("the optimizer was given no parameters: is everything frozen?")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        for group in self.param_groups:
            unknown = set(group) - set(defaults) - {"params"}
            if unknown:
                raise ValueError(f"unknown settings for {type(self).__name__}: {', '.join(sorted(unknown))}")
            if group["lr"] < 0:
                raise ValueError(f"the learning rate must not be negative, got {group['lr']}")
            if not all(0 <= beta < 1 for beta in group.get("betas", ())):
                raise ValueError(f"betas must be in [0, 1), got {group['betas']}")
        everything = [id(p) for p in self.parameters()]
        if len(set(everything)) != len(everything):
            raise ValueError("a parameter was given to the optimizer twice")
        self.state = {}

    def parameters(self):
        """Every parameter, in the order in which `state_dict` numbers them."""
        return [p for group in self.param_groups for p in group["params"]]

    def step(self):
        """Change every parameter that has a gradient, in place."""
        for group in self.param_groups:
            self.update_group([p for p in group["params"] if p.grad is not None], group)

    def update_group(self, params, group):
        """Change parameters that have gradients and one group's settings."""
        for p in params:
            self.update(p, p.grad, self.state.setdefault(id(p), {}), group)

    def update(self, p, grad, state, group):
        """Change one parameter. `state` is its own dict, empty at first."""
        raise NotImplementedError

    def zero_grad(self):
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    def state_dict(self):
        """{"number.name": array or int}: the state of each parameter, by its place in `parameters()`."""
        order = enumerate(self.parameters())
        return {f"{i}.{name}": value for i, p in order for name, value in self.state.get(id(p), {}).items()}

    def load_state_dict(self, state):
        """Take over a state written by `state_dict`. ValueError, and nothing changed, if it does not fit."""
        params, new = self.parameters(), {}
        for key, value in state.items():
            number, _, name = key.partition(".")
            if not number.isdigit() or int(number) >= len(params) or name not in self.state_names:
                kind = type(self).__name__
                raise ValueError(
                    f"optimizer state {key!r} belongs to none of the {len(params)} parameters of this {kind}"
                )
            p = params[int(number)]
            if name == "step":
                value = int(value)
            elif value.shape != p.shape:
                raise ValueError(f"optimizer state {key!r} has shape {value.shape}, its parameter {p.shape}")
            else:
                value = backend.to_device(value, p.device)
            new.setdefault(id(p), {})[name] = value
        for found in new.values():
            if set(found) != set(self.state_names):
                missing = ", ".join(sorted(set(self.state_names) - set(found)))
                raise ValueError(f"the optimizer state of a parameter is incomplete: {missing} is missing")
        self.state = new


class SGD(Optimizer):
    """v ← momentum·v + (g + weight_decay·p);  p ← p - lr·v. Stochastic gradient descent, as PyTorch has it."""

    state_names = ("velocity",)

    def __init__(self, params, lr=1e-3, momentum=0.0, weight_decay=0.0):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def update(self, p, grad, state, group):
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * p.data
        if group["momentum"]:
            velocity = state.get("velocity")
            grad = state["velocity"] = grad.copy() if velocity is None else group["momentum"] * velocity + grad
        p.data -= group["lr"] * grad


class AdamW(Optimizer):
    r"""Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2; defaults as in PyTorch).

    At step t, with gradient g:
        m ← β₁ m + (1 - β₁) g          the mean of the gradients, recent ones counting most
        v ← β₂ v + (1 - β₂) g²         the mean of their squares
        p ← p - lr·weight_decay·p - lr · m̂ / (√v̂ + eps),   m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)
    m and v start at zero; the hats undo the bias that this gives the first steps. State: two arrays as large as the
    parameter, which is what training a frozen weight would have cost beside its gradient.
    """

    state_names = ("step", "m", "v")

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update_group(self, params, group):
        """On a GPU all parameters of one age at once: there, starting many small operations takes the most time."""
        if not params or not _all_on_gpu(params):
            super().update_group(params, group)
            return
        ages = {}
        for p in params:
            state = self.state.setdefault(id(p), {})
            _begin(state, p)
            ages.setdefault(state["step"], []).append((p, state))
        from ..autograd.cuda.optim import adamw

        for found in ages.values():
            arrays = ((p.data, p.grad, state["m"], state["v"]) for p, state in found)
            adamw(*zip(*arrays, strict=True), functools.partial(_next_step, group, [state for _, state in found]))

    def update(self, p, grad, state, group):
        xp, (beta1, beta2) = backend.array_module(p.data), group["betas"]
        _begin(state, p)
        state["step"] += 1
        m, v, t = state["m"], state["v"], state["step"]
        work = xp.multiply(grad, 1 - beta1, out=xp.empty_like(p.data))
        m *= beta1
        m += work
        xp.multiply(grad, grad, out=work)
        work *= 1 - beta2
        v *= beta2
        v += work
        xp.sqrt(v, out=work)  # from here on, work is the denominator and then the step
        work *= 1 / math.sqrt(1 - beta2**t)
        work += group["eps"]
        xp.divide(m, work, out=work)
        work *= group["lr"] / (1 - beta1**t)
        if group["weight_decay"]:
            p.data *= 1 - group["lr"] * group["weight_decay"]
        p.data -= work


def clip_grad_norm_(parameters, max_norm):
    """Scale all gradients together so that their joint Euclidean norm is at most `max_norm`; returns the norm before.

    The direction of the step stays, only its length is bounded (Pascanu et al., 2013). On a GPU the norm is an array
    there, so that nobody waits for it.
    """
    parameters = [p for p in parameters if p.grad is not None]
    grads = [p.grad for p in parameters]
    if grads and _all_on_gpu(parameters):
        from ..autograd.cuda.optim import clip

        return clip(grads, max_norm)
    squares = [float((g * g).sum()) for g in grads]
    norm = math.sqrt(sum(squares))
    if norm > max_norm:
        for g in grads:
            g *= max_norm / (norm + 1e-6)
    return norm


def _begin(state, p):
    """Fill a parameter's empty state of AdamW: no step yet, m and v zero."""
    if not state:
        xp = backend.array_module(p.data)
        state.update(step=0, m=xp.zeros_like(p.data), v=xp.zeros_like(p.data))


def _next_step(group, states):
    """Count a step of AdamW in these states; the numbers that it needs."""
    for state in states:
        state["step"] += 1
    t, (beta1, beta2) = states[0]["step"], group["betas"]
    corrections = 1 / (1 - beta1**t), 1 / (1 - beta2**t)
    return [group["lr"], beta1, beta2, group["eps"], group["weight_decay"], *corrections]


def _all_on_gpu(params):
    """Are these float32 parameters and gradients, laid out in order, on a GPU?"""
    arrays = [array for p in params for array in (p.data, p.grad)]
    return all(backend.on_gpu(x) and x.dtype == np.float32 and x.flags.c_contiguous for x in arrays)


def warmup_cosine(step, total, warmup=0, floor=0.0):
    """The fraction of the learning rate at a step (from 0): a straight rise, then half a cosine down to `floor`.

    Step `warmup` has the fraction 1, and steps after `total` have `floor`.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
