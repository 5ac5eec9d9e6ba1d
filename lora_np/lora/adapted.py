"""What every adapted layer has in common: named adapters, which of them are active, and merging."""

import numpy as np

from .. import nn
from ..autograd import backend, kernels, layout
from .init import changes_base, init_lora


class Matrix(nn.Module):
    """One of an adapter's matrices, a module of its own so that its name ends in `.weight`, as in PEFT's files."""

    def __init__(self, array):
        self.weight = nn.Parameter(array)


class AdaptedLayer(nn.Module):
    """A layer with adapters beside it. Abstract: `layer.py` and `embedding.py` say what an adapter adds.

    base_layer        the layer as it was, frozen
    r, lora_alpha, scaling   {adapter: number}
    active_adapters   those that take part, in order
    merged_adapters   those that are in the weight now ([] if none is)
    variants          {adapter: Variant} for adapters that are more than s·B A; see `variants.py`
    row_adapters      an adapter's name for each row of the batch, while such a call runs; see PeftModel.forward
    """

    def __init__(self, base_layer):
        self.base_layer = base_layer
        self.r, self.lora_alpha, self.scaling = {}, {}, {}
        self.variants, self.initial = {}, {}
        self.active_adapters, self.merged_adapters = [], []
        self.adapters_disabled, self.row_adapters = False, None
        self._original = self._unmerged = None

    def _set_matrices(self, name, A, B, dropout):
        raise NotImplementedError

    def matrices(self, name):
        """(lora_A, lora_B): the two Parameters of an adapter."""
        raise NotImplementedError

    def forward_with(self, names, x):
        """The layer's result with these adapters."""
        raise NotImplementedError

    def delta_weight(self, name):
        """ΔW = s·B A, (out, in), in float32 or better."""
        A, B = self.matrices(name)
        return kernels.matmul(B.data, A.data) * self.scaling[name]

    def get_delta_weight(self, name):
        """ΔW in the base weight's own orientation, (in, out) for a Conv1D or an Embedding."""
        return self.oriented(self.delta_weight(name))

    def forward(self, x):
        """The layer's result with the active adapters, or row by row with those of `row_adapters`."""
        if self.row_adapters is not None and not self.adapters_disabled:
            return self._forward_rows(x)
        return self.forward_with([] if self.adapters_disabled or self.merged_adapters else self.active_adapters, x)

    def _forward_rows(self, x):
        """Each row of the batch with the adapter that is named for it: one pass per adapter over its rows."""
        rows = {}
        for i, name in enumerate(self.row_adapters):
            rows.setdefault(name, []).append(i)
        parts = [self.forward_with([n] if n in self.r else [], layout.getitem(x, (i,))) for n, i in rows.items()]
        order = np.argsort([i for group in rows.values() for i in group])
        return layout.concatenate(parts)[order]

    @property
    def base_layer_parts(self):
        """The names of the parts of a joint projection, () for any other layer."""
        return getattr(self.base_layer, "parts", ())

    def has(self, name):
        """Does this layer have an adapter of this name?"""
        return name in self.r

    def add_adapter(self, name, config, r=None, alpha=None):
        """Give the layer an adapter with `config`'s start; it is not active yet. r, alpha: instead of the config's."""
        r, alpha = config.r if r is None else r, config.lora_alpha if alpha is None else alpha
        s = config.scaling_of(r, alpha)
        if changes_base(config.init_lora_weights) and not isinstance(self.base_layer.weight, nn.Parameter):
            raise ValueError(f"init_lora_weights={config.init_lora_weights!r} would change a fixed weight")
        base = self.base_layer.weight
        A, B = self.initial_matrices(config.init_lora_weights, self.oriented(base.data), r, s)
        dtype = np.float64 if base.dtype == np.float64 else np.float32
        A, B = (backend.to_device(array.astype(dtype), base.device) for array in (A, B))
        self._set_matrices(name, A, B, config.lora_dropout)
        self.r[name], self.lora_alpha[name], self.scaling[name] = r, alpha, s
        if changes_base(config.init_lora_weights):
            self.initial[name] = (A.copy(), B.copy(), s)
            self._original = base.data if self._original is None else self._original
            self._take_out_of_base()
        self.train(self.training)

    def initial_matrices(self, kind, weight, r, s):
        """A (r, in) and B (out, r) at the start; weight (out, in)."""
        return init_lora(kind, weight, r, s)

    def oriented(self, weight):
        """The weight as (out, in), or back again: the same array if it is stored that way, else its transpose."""
        return weight.T if self.base_layer.fan_in_fan_out else weight

    def parameters_of(self, name):
        """{name in a file: Parameter}: everything that is trained for one adapter here."""
        extra = self.variants[name].parameters_of(self, name) if name in self.variants else {}
        A, B = self.matrices(name)
        return {f"{self.prefix}A{self.suffix}": A, f"{self.prefix}B{self.suffix}": B, **extra}

    def saved_arrays(self, name):
        """{name in a file: array} of one adapter."""
        arrays = {key: p.data for key, p in self.parameters_of(name).items()}
        return self.variants[name].saved_arrays(self, name, arrays) if name in self.variants else arrays

    def delete_adapter(self, name):
        """Forget an adapter. If its start had changed the base weight, that is undone."""
        for table in self._tables(name):
            del table[name]
        if self._original is not None:
            self._take_out_of_base()
        self.active_adapters = [other for other in self.active_adapters if other != name]

    def rename_adapter(self, old, new):
        """Give an adapter another name."""
        for table in self._tables(old):
            table[new] = table[old]
            del table[old]
        self.active_adapters = [new if name == old else name for name in self.active_adapters]

    def _tables(self, name):
        """Every table of this layer that has an entry for the adapter."""
        kinds = (dict, nn.ModuleDict, nn.ParameterDict)
        return [table for table in vars(self).values() if isinstance(table, kinds) and name in table]

    def _take_out_of_base(self):
        """The base weight: the original, less what the starts of the adapters still here have taken out of it."""
        weight = self._original
        for A, B, s in self.initial.values():
            weight = weight - self.oriented(B @ A) * s
        base = self.base_layer.weight  # it may have another dtype by now
        base.data = weight.astype(base.dtype, copy=False)
        self._original = self._original if self.initial else None

    def merged_parameters(self):
        """(weight, bias) with the active adapters in them: W + Σ ΔW, summed in float32 or better and rounded once."""
        base, bias = self.base_layer.weight.data, getattr(self.base_layer, "bias", None)
        weight = self.oriented(base).astype(np.result_type(base.dtype, np.float32))
        bias = None if bias is None else bias.data
        for name in self.active_adapters:
            if name in self.variants:
                weight, bias = self.variants[name].merged(self, name, weight, bias)
            else:
                weight = weight + self.delta_weight(name)
        xp = backend.array_module(base)
        return xp.ascontiguousarray(self.oriented(weight), dtype=base.dtype), bias

    def merge(self, weight, bias):
        """Put merged parameters in the place of the base layer's: it then costs what it did without LoRA.

        The old arrays are kept, so that `unmerge` gives them back bit for bit.
        """
        self._unmerged = self._base_arrays()
        self._set_base_arrays((weight, bias))
        self.merged_adapters = list(self.active_adapters)

    def unmerge(self):
        """Put back the arrays from before `merge`, the very same ones."""
        if self.merged_adapters:
            self._set_base_arrays(self._unmerged)
            self._unmerged, self.merged_adapters = None, []

    def without_adapters(self):
        """Make the layer compute what it did before any adapter; returns a function that undoes this."""
        before, disabled = None, self.adapters_disabled
        if self.merged_adapters or self._original is not None:
            before = self._base_arrays()
            weight, bias = self._unmerged or before
            self._set_base_arrays((weight if self._original is None else self._original, bias))
        self.adapters_disabled = True

        def undo():
            if before is not None:
                self._set_base_arrays(before)
            self.adapters_disabled = disabled

        return undo

    def _base_arrays(self):
        bias = getattr(self.base_layer, "bias", None)
        return self.base_layer.weight.data, None if bias is None else bias.data

    def _set_base_arrays(self, arrays):
        """Put arrays into the base layer's parameters, on the device and in the dtype that these now have."""
        for name, array in zip(("weight", "bias"), arrays, strict=True):
            if array is not None:
                p = getattr(self.base_layer, name)
                p.data = backend.to_device(array, p.device).astype(p.dtype, copy=False)
