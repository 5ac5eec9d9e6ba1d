"""Module: a part of a model that holds parameters and other parts. Names follow PyTorch's, dots included."""

import difflib
from collections.abc import Mapping
from typing import NamedTuple

from ..autograd import changes
from ..autograd.devices import array_module, to_device
from ..autograd.tensor import data
from ..expect import expect, wrong
from .all_or_nothing import all_or_nothing
from .mode import is_evaluating
from .parameter import STATE, Buffer, Parameter
from .placement import Placed


class LoadResult(NamedTuple):
    """What did not meet when a state was loaded: names that it lacked, and names that it alone had."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module(Placed):
    """A part of a model. Parameters, buffers and modules assigned as attributes are found by their names.

    Subclasses write `forward`; calling the module calls it. A parameter that two modules share (GPT-2's head and
    its token embedding) is one parameter: it is listed once, under the first name met.
    """

    packed = 0  # numbers that it holds in another form than as parameters
    _training = True

    @property
    def training(self):
        """Is dropout on? As `train` or `eval` has set it; inside `evaluating`, a call for evaluation, it is off."""
        return self._training and not is_evaluating()

    @training.setter
    def training(self, mode):
        self._training = mode

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        changes.note()  # what was made of the module as it was is not kept

    def __delattr__(self, name):
        super().__delattr__(name)
        changes.note()

    def forward(self, *args, **kwargs):
        raise NotImplementedError(f"{type(self).__name__} does not say how to compute its result: write forward()")

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def held(self):
        """{name: value}: its attributes, or what a subclass lists in their place."""
        return vars(self)

    def named_children(self):
        """(name, module) for each part held directly."""
        return [(name, value) for name, value in self.held().items() if isinstance(value, Module)]

    def children(self):
        """The modules held directly."""
        return (child for _, child in self.named_children())

    def named_modules(self, prefix=""):
        """(dotted name, module) for this module (its name is "") and everything below it, in order."""
        stack = [(prefix, self)]  # the next one is the last
        while stack:
            prefix, module = stack.pop()
            yield prefix, module
            for name, child in reversed(module.held().items()):
                if isinstance(child, Module):
                    stack.append((f"{prefix}.{name}" if prefix else name, child))

    def modules(self):
        """This module and everything below it."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, remove_duplicate=True):
        """(dotted name, Parameter) for every parameter below, shared ones once unless told otherwise."""
        return self._named(Parameter, remove_duplicate)

    def named_buffers(self, remove_duplicate=True):
        """(dotted name, Buffer) for every buffer below, shared ones once unless told otherwise."""
        return self._named(Buffer, remove_duplicate)

    def _named(self, kinds, remove_duplicate=True):
        """(dotted name, tensor) for every attribute below that is of these kinds."""
        seen = set()
        for prefix, module in self.named_modules():
            for name, value in module.held().items():
                if isinstance(value, kinds) and not (remove_duplicate and id(value) in seen):
                    seen.add(id(value))
                    yield (f"{prefix}.{name}" if prefix else name), value

    def parameters(self):
        """Every parameter below, shared ones once."""
        return (p for _, p in self.named_parameters())

    def buffers(self):
        """Every buffer below, shared ones once."""
        return (b for _, b in self.named_buffers())

    def num_parameters(self, only_trainable=False):
        """How many numbers the parameters hold, shared ones counted once; weights in 4 bits count as they were."""
        packed = 0 if only_trainable else sum(module.packed for module in self.modules())
        return packed + sum(p.size for p in self.parameters() if p.requires_grad or not only_trainable)

    def get_submodule(self, name):
        """The module at a dotted name such as "transformer.h.0.attn"."""
        if not isinstance(name, str):
            raise TypeError(wrong(name, "name", 'the dotted name of a module, such as "transformer.h.0.attn"'))
        module = self
        for i, part in enumerate(name.split(".") if name else []):
            children = dict(module.named_children())
            if part not in children:
                where = ".".join(name.split(".")[:i]) or type(self).__name__
                raise KeyError(f"no module {name!r}: {where} has no part {part!r}{_hint(part, children)}")
            module = children[part]
        return module

    def get_parameter(self, name):
        """The Parameter at a dotted name such as "transformer.wte.weight"."""
        module, _, last = str(name).rpartition(".")
        held = {n: value for n, value in self.get_submodule(module).held().items() if isinstance(value, Parameter)}
        if last not in held:
            where = module or type(self).__name__
            raise KeyError(f"no parameter {name!r}: {where} has no parameter {last!r}{_hint(last, held)}")
        return held[last]

    def add_module(self, name, module):
        """Hold a module under this name, as `self.name = module` does."""
        setattr(self, name, module)

    register_module = add_module

    def register_parameter(self, name, param):
        """Hold a Parameter, or None, under this name, as `self.name = param` does."""
        setattr(self, name, param)

    def register_buffer(self, name, tensor, persistent=True):
        """Hold an array under this name: it moves with the module, and is saved with it unless not `persistent`.

        NotImplementedError for what would move and not be saved: make that in `forward`, beside its input.
        """
        if not persistent:
            raise NotImplementedError(f"buffer {name!r}: every buffer is saved here; make it in forward() instead")
        setattr(self, name, None if tensor is None else Buffer(data(tensor)))

    def apply(self, function):
        """Call `function` on every module below and on this one, the lowest first; returns the module."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def set_submodule(self, name, new):
        """Put the module `new` in the place of the one at the dotted name."""
        self.get_submodule(name)
        parent, _, last = name.rpartition(".")
        setattr(self.get_submodule(parent), last, new)

    def train(self, mode=True):
        """Switch this module and all below to training (dropout on) or, with False, to evaluation."""
        for module in self.modules():
            module._training = mode
        return self

    def eval(self):
        """Switch to evaluation: dropout off. For a single call there is `evaluating`, which changes no module."""
        return self.train(False)

    def requires_grad_(self, requires_grad=True):
        """Train (or with False, freeze) every parameter below. Frozen ones also lose their gradient."""
        for p in self.parameters():
            p.requires_grad = requires_grad
            p.grad = p.grad if requires_grad else None
        return self

    def zero_grad(self, set_to_none=True):
        """Forget all gradients, or with False make them zero."""
        clear_gradients(self.parameters(), set_to_none)

    def state_dict(self):
        """{dotted name: array} of every parameter and buffer, shared ones once; the arrays themselves, not copies."""
        return {name: p.data for name, p in self._named(STATE)}

    @all_or_nothing
    def load_state_dict(self, state_dict, strict=True):
        """Copy arrays into the parameters and buffers of the same names. Returns a `LoadResult`.

        A shared parameter may come under any of its names. Everything is checked before anything is written:
        with `strict`, a missing or unexpected name is a KeyError; a wrong shape, or a buffer's wrong dtype, is always
        a ValueError.
        """
        found, missing, unexpected = self.match_state(state_dict, strict)
        for name, p in found.items():
            array = to_device(state_dict[name], p.device)
            p.data = array_module(array).array(array, dtype=p.dtype, copy=True)
        return LoadResult(missing, unexpected)

    def match_state(self, state, strict=True):
        """Where a state would go: ({name: Parameter or Buffer}, missing names, unexpected names). Nothing is written.

        state: {name: anything with a shape, and a dtype if it is for a buffer}. Errors as for `load_state_dict`.
        """
        expect(state, Mapping, "state_dict", "{dotted name: array}, such as state_dict() gives")
        names = dict(self._named(STATE, remove_duplicate=False))
        given = {id(names[name]) for name in state if name in names}
        missing = [name for name, p in self._named(STATE) if id(p) not in given]
        unexpected = [name for name in state if name not in names]
        found = {name: names[name] for name in state if name in names}
        for name in found:
            if not hasattr(state[name], "shape"):
                raise TypeError(wrong(state[name], f"state_dict[{name!r}]", "an array or a Tensor"))
        misfits = [f"{n}: {_misfit(p, state[n])}" for n, p in found.items() if _misfit(p, state[n])]
        if misfits:
            raise ValueError(f"wrong shapes or dtypes in the state: {_some(misfits)}")
        if strict and (missing or unexpected):
            parts = [("missing", missing), ("unexpected", unexpected)]
            raise KeyError("state does not fit: " + "; ".join(f"{what} {_some(n)}" for what, n in parts if n))
        return found, missing, unexpected

    places_of = match_state  # under its earlier name


class ModuleList(Module):
    """Modules numbered from 0: `blocks[3]` has the name "3"."""

    def __init__(self, modules=()):
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def append(self, module):
        """Hold one module more, behind the others; returns the list."""
        setattr(self, str(len(self)), module)
        return self

    def __len__(self):
        return len(self.named_children())

    def __iter__(self):
        return iter(child for _, child in self.named_children())

    def __getitem__(self, i):
        return [child for _, child in self.named_children()][i]


class Sequential(ModuleList):
    """Modules of which each reads what the one before it returned."""

    def __init__(self, *modules):
        super().__init__(modules)

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


class _Dict(Module):
    """Things of one kind by name, kept as attributes so that dotted names run through. Abstract: see `kind`."""

    kind = Module

    def __init__(self):
        pass

    def _items(self):
        return {name: value for name, value in vars(self).items() if isinstance(value, self.kind)}

    def __setitem__(self, name, value):
        if not isinstance(value, self.kind):
            kind = self.kind.__name__.lower()
            raise TypeError(f"a {type(self).__name__} holds {kind}s, not {type(value).__name__}")
        setattr(self, name, value)

    def __getitem__(self, name):
        value = vars(self)[name]
        if not isinstance(value, self.kind):
            raise KeyError(name)
        return value

    def __delitem__(self, name):
        self[name]
        delattr(self, name)

    def __contains__(self, name):
        return name in self._items()

    def __len__(self):
        return len(self._items())

    def __iter__(self):
        return iter(list(self._items()))


class ModuleDict(_Dict):
    """Modules by name: `adapters["default"]` has the name "default"."""


class ParameterDict(_Dict):
    """Parameters by name."""

    kind = Parameter


class BufferDict(_Dict):
    """Buffers by name."""

    kind = Buffer


def clear_gradients(parameters, set_to_none=True):
    """Forget these gradients, or with False write zeros into those there are."""
    for p in parameters:
        if set_to_none:
            p.grad = None
        elif p.grad is not None:
            p.grad[...] = 0


def _misfit(tensor, array):
    """In what an array differs from the one that it is to replace, in words; None if it fits."""
    if array.shape != tensor.shape:
        return f"{tuple(array.shape)} instead of {tensor.shape}"
    if isinstance(tensor, Buffer) and array.dtype != tensor.dtype:
        return f"{array.dtype} instead of {tensor.dtype}"
    return None


def _hint(name, names):
    """ " (did you mean ...?)" for a misspelt name, or the names there are."""
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; did you mean {', '.join(close)}?" if close else f"; it has {', '.join(names) or 'none'}"


def _some(items, most=5):
    """The first few items in words."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
