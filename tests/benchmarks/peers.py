"""Full training of GPT-2 in other automatic differentiation libraries for NumPy: mygrad and autograd.

One transformer serves both, since their arrays take NumPy's names. It is written as a user who cares for speed would
write it: linear layers on (B·T, C) rows, each library's own fused functions where it has them, and float32 throughout.
The last takes care: mygrad makes float64 of float32 and a Python number, and the gradients of autograd's mean and max
are float64.
"""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from training import FULL_RATE, batch_of

f32 = np.float32


def mygrad_step(workload, folder):
    """A function that runs one step in mygrad and returns the loss."""
    import mygrad
    from mygrad.nnet import softmax, softmax_crossentropy

    mygrad.turn_memory_guarding_off()  # it stops users from writing into a graph's arrays, and costs time

    def split(x):
        C = x.shape[1] // 3
        return x[:, :C], x[:, C : 2 * C], x[:, 2 * C :]

    lib = SimpleNamespace(tanh=mygrad.tanh, sqrt=mygrad.sqrt, split=split)
    lib.softmax, lib.cross_entropy = softmax, softmax_crossentropy
    params = {name: mygrad.tensor(value) for name, value in weights_in(folder).items()}
    ids = batch_of(workload)

    def step():
        loss = gpt_loss(lib, params, ids, workload)
        loss.backward()
        for p in params.values():
            p.data -= FULL_RATE * p.grad
            p.null_grad()
        return loss.item()

    return step


def autograd_step(workload, folder):
    """The same in autograd."""
    import autograd.numpy as anp
    from autograd import value_and_grad
    from autograd.scipy.special import logsumexp
    from autograd.tracer import getval

    def softmax(x):
        e = anp.exp(x - getval(x).max(axis=-1, keepdims=True))
        return e / anp.sum(e, axis=-1, keepdims=True)

    def cross_entropy(logits, targets):
        at_target = logits[np.arange(len(targets)), targets]
        return anp.sum(logsumexp(logits, axis=1) - at_target) / len(targets)

    def split(x):  # the gradient of a slice would be much slower
        return anp.split(x, 3, axis=1)

    lib = SimpleNamespace(tanh=anp.tanh, sqrt=anp.sqrt, split=split, softmax=softmax, cross_entropy=cross_entropy)
    params, ids = weights_in(folder), batch_of(workload)
    loss_and_gradients = value_and_grad(lambda params: gpt_loss(lib, params, ids, workload))

    def step():
        loss, gradients = loss_and_gradients(params)
        for name, p in params.items():
            p -= FULL_RATE * gradients[name]
        return float(loss)

    return step


def keeping_memory(make_step):
    """The same system, with freed memory kept for reuse, as lora_np asks for itself: a setting, not a merit."""

    def make(workload, folder):
        from lora_np.autograd.allocator import keep_freed_memory

        keep_freed_memory()
        return make_step(workload, folder)

    return make


def weights_in(folder):
    """{name: float32 array} of the model in the folder; the head's weight is the embedding's."""
    from safetensors.numpy import load_file

    weights = load_file(Path(folder) / "model.safetensors")
    weights.pop("lm_head.weight", None)
    return {name.removeprefix("transformer."): value for name, value in weights.items()}


def gpt_loss(lib, params, ids, workload):
    """GPT-2's loss on the batch: each token is predicted from those before it."""
    x, targets = ids[:, :-1], ids[:, 1:].ravel()
    (B, T), C = x.shape, workload.width
    hidden = np.triu(np.full((T, T), -1e9, f32), k=1)
    x = (params["wte.weight"][x] + params["wpe.weight"][:T]).reshape(B * T, C)
    for i in range(workload.layers):
        p = {name.removeprefix(f"h.{i}."): value for name, value in params.items() if name.startswith(f"h.{i}.")}
        y = attention(lib, p, layer_norm(lib, p, "ln_1", x), (B, T, workload.heads), hidden)
        x = x + linear(p, "attn.c_proj", y)
        y = gelu(lib, linear(p, "mlp.c_fc", layer_norm(lib, p, "ln_2", x)))
        x = x + linear(p, "mlp.c_proj", y)
    return lib.cross_entropy(layer_norm(lib, params, "ln_f", x) @ params["wte.weight"].T, targets)


def attention(lib, p, x, shape, hidden):
    """x (B·T, C) -> (B·T, C), before the output projection."""
    (B, T, H), C = shape, x.shape[-1]
    q, k, v = (part.reshape(B, T, H, C // H).swapaxes(1, 2) for part in lib.split(linear(p, "attn.c_attn", x)))
    weights = lib.softmax(q * f32((H / C) ** 0.5) @ k.swapaxes(2, 3) + hidden)
    return (weights @ v).swapaxes(1, 2).reshape(B * T, C)


def linear(p, name, x):
    """x W + b on rows."""
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def layer_norm(lib, p, name, x):
    """Rows with mean 0 and variance 1, scaled and shifted."""
    share = f32(1 / x.shape[-1])
    x = x - x.sum(axis=-1, keepdims=True) * share
    variance = (x * x).sum(axis=-1, keepdims=True) * share
    return x / lib.sqrt(variance + f32(1e-5)) * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(lib, x):
    """GPT-2's GELU, by tanh."""
    inner = f32(math.sqrt(2 / math.pi)) * (x + f32(0.044715) * (x * x * x))
    return f32(0.5) * x * (f32(1) + lib.tanh(inner))
