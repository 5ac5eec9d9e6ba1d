"""A module as text, as torch shows it: a tree with a line for each part, equal blocks in a row shown once."""

import functools
import itertools

from .activations import GELU, Softmax
from .layers import Conv1D, Dropout, Embedding, LayerNorm, Linear, RMSNorm
from .module import Module, ModuleList
from .parameter import STATE
from .quantized import FourBitLayer


def tree(module):
    """`Name(facts)`, and below it its parts; the text of `repr(module)`."""
    facts = module.extra_repr()
    parts = [f"({name}): {_indented(text)}" for name, text in _parts(module)]
    lines = [*([facts] if facts else []), *parts]
    if not parts:
        return f"{type(module).__name__}({facts})"
    return f"{type(module).__name__}(\n" + "".join(f"  {line}\n" for line in lines) + ")"


def _parts(module):
    """(name, text) of each part. Equal ones in a row of a list: ("0-11", "12 x ...")."""
    parts = [(name, tree(child)) for name, child in module.named_children()]
    if not isinstance(module, ModuleList):
        return parts
    runs = [[name for name, _ in run] for _, run in itertools.groupby(parts, key=lambda part: part[1])]
    texts = dict(parts)
    return [
        (f"{run[0]}-{run[-1]}", f"{len(run)} x {texts[run[0]]}") if len(run) > 1 else (run[0], texts[run[0]])
        for run in runs
    ]


def _indented(text):
    return text.replace("\n", "\n  ")


@functools.singledispatch
def facts(module):
    """What the tree says of a module beside its parts: the shapes of tensors that it holds itself.

    Classes of your own say it in a method `extra_repr()`.
    """
    return ", ".join(f"{name}={value.shape}" for name, value in module.held().items() if isinstance(value, STATE))


@facts.register(Linear)
@facts.register(FourBitLayer)
def _(layer):
    return f"in_features={layer.in_features}, out_features={layer.out_features}, bias={layer.bias is not None}"


@facts.register
def _(layer: Conv1D):
    return f"nf={layer.out_features}, nx={layer.in_features}"


@facts.register
def _(layer: Embedding):
    padding = "" if layer.padding_idx is None else f", padding_idx={layer.padding_idx}"
    return f"{layer.num_embeddings}, {layer.embedding_dim}{padding}"


@facts.register
def _(norm: LayerNorm):
    return f"{norm.weight.shape}, eps={norm.eps}, elementwise_affine=True, bias=True"


@facts.register
def _(norm: RMSNorm):
    return f"{norm.weight.shape}, eps={norm.eps}"


@facts.register
def _(dropout: Dropout):
    return f"p={dropout.p}"


@facts.register
def _(layer: Softmax):
    return f"dim={layer.dim}"


@facts.register
def _(layer: GELU):
    return f"approximate={layer.approximate!r}"


Module.__repr__, Module.extra_repr = tree, facts
