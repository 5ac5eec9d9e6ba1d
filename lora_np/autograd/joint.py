"""Several linear layers that read one input, on a GPU: `linears`, on Tensors."""

from functools import partial

from .tensor import data, needs_grad, record


def linears(x, parts):
    """[x Wᵢᵀ + bᵢ + sᵢ x Aᵢᵀ Bᵢᵀ] for each (W, b, A, B, s) of `parts`; see `cuda/joint.py`.

    W and b are frozen; b, and A with B, may be None. The engine's operations have one result each. So each y is one of
    its own, which returns dB; what they have in common is one before them, whose gradient, g, they gather.
    """
    from .cuda.joint import Part, Run

    run = Run(data(x), [Part(*map(data, part)) for part in parts], needs_grad(x)[0])
    ys = run.forward()
    A = [part[2] for part in parts if part[2] is not None]
    needs_A = needs_grad(*A)
    before = record(run.rows.reshape(run.shape), (x, *A), lambda _: run.finish(needs_A))
    return [record(y, (before, part[3]), partial(_back, run, i, part[3])) for i, (y, part) in _numbered(ys, parts)]


def _numbered(ys, parts):
    return enumerate(zip(ys, parts, strict=True))


def _back(run, i, lora_B, dy):
    """(g, or None if another has returned it, dB)."""
    first = not run.done
    dB = run.backward_of(i, dy, needs_grad(lora_B)[0])
    return run.g if first else None, dB
