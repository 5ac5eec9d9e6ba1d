"""Exercise 14: a LoRA layer, put into the GPT of notebook 03, trained there, and merged."""

import copy

import numpy as np

from ..engine import Array
from ..transformer import GPT, Linear
from .checking import Edit, Exercise, checker


class LoRALinear:
    """base(x) + (alpha / r) (x Aᵀ) Bᵀ, with base y = x W + b and W (in, out). A (r, in) uniform, B (out, r) zero."""

    def __init__(self, base, r, alpha, rng):
        fan_in, fan_out = base.weight.value.shape
        dtype = base.weight.value.dtype
        self.base, self.s = base, alpha / r
        A = rng.uniform(-1, 1, (r, fan_in)) / fan_in**0.5
        self.A = Array(A.astype(dtype), trained=True)
        self.B = Array(np.zeros((fan_out, r), dtype), trained=True)

    def __call__(self, x):
        return self.base(x) + x @ self.A.swapaxes(0, 1) @ self.B.swapaxes(0, 1) * self.s


def add_lora(gpt, ending, r, alpha, rng):
    """Put a LoRALinear around each of gpt.linear whose name has this ending; a list of all A and B, in order."""
    arrays = []
    for name, linear in gpt.linear.items():
        if name.endswith(ending):
            layer = gpt.linear[name] = LoRALinear(linear, r, alpha, rng)
            arrays += [layer.A, layer.B]
    return arrays


def merged(layer):
    """A `Linear` that computes what the LoRALinear does: W + s (B A)ᵀ and the same bias."""
    return Linear(
        Array(layer.base.weight.value + layer.s * (layer.B.value @ layer.A.value).T),
        layer.base.bias,
    )


def _linear(n_in, n_out, rng):
    return Linear(Array(rng.standard_normal((n_in, n_out))), Array(rng.standard_normal(n_out)))


def layer_cases():
    """A layer that widens, and a square one, where a transpose too many raises no error."""
    return [
        {
            "base": _linear(n_in, n_out, np.random.default_rng(14)),
            "r": r,
            "alpha": alpha,
            "rng": np.random.default_rng(1),
        }
        for n_in, n_out, r, alpha in [(7, 5, 3, 12.0), (6, 6, 2, 8.0)]
    ]


def use_layer(layer_class, base, r, alpha, rng):
    """Its output at the start; then, with numbers of the check's own in A and B, its output and three gradients."""
    n_in, n_out = base.weight.value.shape
    own = np.random.default_rng(2)
    x = Array(own.standard_normal((2, 4, n_in)), trained=True)
    layer = layer_class(base, r, alpha, rng)
    start = layer(x).value
    layer.A.value, layer.B.value = own.standard_normal((r, n_in)), own.standard_normal((n_out, r))
    y = layer(x)
    (y * own.standard_normal(y.value.shape)).sum().backward()
    return start, y.value, layer.A.grad, layer.B.grad, x.grad


class PlainLoRALinear:
    """`LoRALinear`, for the edits."""

    def __init__(self, base, r, alpha, rng):
        fan_in, fan_out = base.weight.value.shape
        self.base = base
        self.s = alpha / r
        bound = 1 / fan_in**0.5
        self.A = Array(rng.uniform(-bound, bound, (r, fan_in)), trained=True)
        self.B = Array(np.zeros((fan_out, r)), trained=True)

    def __call__(self, x):
        h = x @ self.A.swapaxes(0, 1)
        branch = h @ self.B.swapaxes(0, 1)
        return self.base(x) + branch * self.s


_LAST = "self.base(x) + branch * self.s"
LAYER_EDITS = (
    Edit(
        "the result is NumPy's, which remembers nothing, so there is no gradient. Compute with the Arrays.",
        {_LAST: "Array((self.base(x) + branch * self.s).value)"},
    ),
    Edit("the branch is missing: add it to what the base gives.", {_LAST: "self.base(x)"}),
    Edit("the base is missing: add what it gives.", {_LAST: "branch * self.s"}),
    Edit("alpha / r is missing: multiply the branch by self.s.", {_LAST: "self.base(x) + branch"}),
    Edit("alpha / r is there twice.", {"branch * self.s": "branch * self.s * self.s"}),
    Edit("alpha / r scales the base too: only the branch is scaled.", {_LAST: "(self.base(x) + branch) * self.s"}),
    Edit("the branch is subtracted; add it.", {"(x) + branch": "(x) - branch"}),
    Edit("s is alpha, and not divided by the rank r.", {"alpha / r": "alpha"}),
    Edit("s is r / alpha: turn it round.", {"alpha / r": "r / alpha"}),
    Edit("s is alpha · r; divide.", {"alpha / r": "alpha * r"}),
    Edit("s is alpha / √r; here it is alpha / r.", {"alpha / r": "alpha / r**0.5"}),
    Edit("s is divided by the number of inputs: it is alpha / r.", {"alpha / r": "alpha / fan_in"}),
    Edit("s is divided by the number of outputs: it is alpha / r.", {"alpha / r": "alpha / fan_out"}),
    Edit(
        "A has no gradient: it is an Array with trained=True, and the Array itself is used, not its .value.",
        {"(r, fan_in)), trained=True)": "(r, fan_in)))"},
    ),
    Edit(
        "B has no gradient: it is an Array with trained=True, and the Array itself is used, not its .value.",
        {"(fan_out, r)), trained=True)": "(fan_out, r)))"},
    ),
    Edit("B is not zero at the start.", {"np.zeros((fan_out, r))": "rng.uniform(-bound, bound, (fan_out, r))"}),
    Edit(
        "A has no gradient: it is an Array with trained=True, and the Array itself is used, not its .value.",
        {"x @ self.A.swapaxes(0, 1)": "x @ Array(self.A.value.T)"},
    ),
    Edit(
        "B has no gradient: it is an Array with trained=True, and the Array itself is used, not its .value.",
        {"h @ self.B.swapaxes(0, 1)": "h @ Array(self.B.value.T)"},
    ),
    Edit(
        "x is used as numbers, x.value: so no gradient goes down through the branch. Multiply the Arrays.",
        {"x @ self.A": "Array(x.value) @ self.A"},
    ),
    Edit(
        "in the base x is used as numbers, x.value: no gradient goes down through it. Give it the Array.",
        {"self.base(x)": "self.base(Array(x.value))"},
    ),
    Edit("the branch reads the base's result; both read x.", {"x @ self.A": "self.base(x) @ self.A"}),
    Edit("the branch goes into the base; both read x, and are added.", {_LAST: "self.base(x + branch * self.s)"}),
    Edit(
        "A (r, in) has to be transposed where x meets it: x (..., in) and Aᵀ (in, r).",
        {"self.A.swapaxes(0, 1)": "self.A"},
    ),
    Edit(
        "B (out, r) has to be transposed where x Aᵀ meets it: (..., r) and Bᵀ (r, out).",
        {"self.B.swapaxes(0, 1)": "self.B"},
    ),
    Edit("the weight is (in, out): its first axis is the inputs.", {"fan_in, fan_out =": "fan_out, fan_in ="}),
    Edit(
        "A (r, in) has to be transposed where x meets it: x (..., in) and Aᵀ (in, r).", {"(r, fan_in))": "(fan_in, r))"}
    ),
    Edit(
        "B (out, r) has to be transposed where x Aᵀ meets it: (..., r) and Bᵀ (r, out).",
        {"np.zeros((fan_out, r))": "np.zeros((r, fan_out))"},
    ),
    Edit(
        "Aᵀ is made once, in __init__; training gives A other numbers. Make it in __call__.",
        {
            "self.B = Array(": "self.T = self.A.swapaxes(0, 1)\n        self.B = Array(",
            "x @ self.A.swapaxes(0, 1)": "x @ self.T",
        },
    ),
)


def starts_as_lora(layer_class):
    """None, or a sentence if A or B do not start as they should, or are not Arrays that learn."""
    base, r = _linear(40, 30, np.random.default_rng(0)), 8
    layer = layer_class(base, r, 8.0, np.random.default_rng(0))
    A, B, bound = layer.A.value, layer.B.value, 40**-0.5
    shapes = {"A": (A.shape, (r, 40)), "B": (B.shape, (30, r))}
    for name, (found, expected) in shapes.items():
        if found != expected:
            return f"{name} has the shape {found} for 40 inputs, 30 outputs and r = 8; it should be {expected}."
    if not A.any():
        return "A is zero at the start, and so is B: then both gradients are zero, and nothing ever moves."
    if np.abs(A).max() > bound:
        return f"A has entries up to {np.abs(A).max():.3f} at the start; the bound 1/√in is {bound:.3f} for 40 inputs."
    if np.abs(A).max() < 0.9 * bound or A.min() > -0.5 * bound:
        return f"A is to be uniform from -1/√in to 1/√in; it goes from {A.min():.3f} to {A.max():.3f} for 40 inputs."
    other = layer_class(base, r, 8.0, np.random.default_rng(1)).A.value
    return "A is the same whatever `rng` is: take its numbers from `rng`." if np.array_equal(A, other) else None


def keeps_the_base(layer_class):
    """None, or a sentence if the base is a copy, or another weight afterwards, or learns."""
    base = _linear(5, 4, np.random.default_rng(0))
    before = base.weight.value.copy()
    layer = layer_class(base, 2, 8.0, np.random.default_rng(0))
    layer(Array(np.ones((3, 5)))).sum().backward()
    if layer.base is not base:
        return "keep the base layer itself: self.base = base."
    if not np.array_equal(base.weight.value, before):
        return "the base's weight has changed: it is frozen, and the update stays beside it."
    return "the base's weight learns; it is frozen." if base.weight.wanted else None


def _gpt():
    """A GPT of two blocks, 8 wide, with 11 tokens."""
    rng, C, arrays = np.random.default_rng(3), 8, {}
    shapes = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, 4 * C), "mlp.c_proj": (4 * C, C)}
    norms = ["ln_f"]
    for block in ("h.0", "h.1"):
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name, shape in shapes.items():
            arrays[f"{block}.{name}.weight"] = rng.standard_normal(shape) / C**0.5
            arrays[f"{block}.{name}.bias"] = np.zeros(shape[1])
    for name in norms:
        arrays |= {f"{name}.weight": np.ones(C), f"{name}.bias": np.zeros(C)}
    arrays |= {"wte.weight": rng.standard_normal((11, C)), "wpe.weight": rng.standard_normal((6, C))}
    return GPT(arrays, H=2)


def add_cases():
    """One kind of layer in two blocks, a name with a dot in it, and several at once."""
    return [
        {"gpt": _gpt(), "ending": ending, "r": 2, "alpha": 4.0, "rng": np.random.default_rng(5)}
        for ending in ("c_attn", "mlp.c_proj", ("c_attn", "c_proj", "c_fc"))
    ]


IDS = np.array([[1, 4, 2, 10, 0]])


def use_add(function, gpt, ending, r, alpha, rng):
    """Which layers are adapted, the shapes of what was returned, the logits at the start and after B has moved."""
    arrays = function(gpt, ending, r, alpha, rng)
    start, adapted = gpt(IDS).value, [name for name, layer in gpt.linear.items() if hasattr(layer, "A")]
    for number, name in enumerate(adapted):
        shape = gpt.linear[name].B.value.shape
        gpt.linear[name].B.value = np.random.default_rng(number).standard_normal(shape)
    shapes = [array.value.shape for array in arrays]
    return adapted, shapes, start


def plain_add(gpt, ending, r, alpha, rng):
    """`add_lora`, for the edits."""
    arrays = []
    for name, linear in gpt.linear.items():
        if name.endswith(ending):
            layer = LoRALinear(linear, r, alpha, rng)
            gpt.linear[name] = layer
            arrays += [layer.A, layer.B]
    return arrays


ADD_EDITS = (
    Edit(
        "the layers are made, and not put into the model: gpt.linear[name] = ...", {"gpt.linear[name] = layer": "pass"}
    ),
    Edit(
        "it returns after the first layer: the `return` belongs after the loop.",
        {"    return arrays": "            return arrays"},
    ),
    Edit("all layers are adapted, whatever `ending` is.", {"if name.endswith(ending):": "if True:"}),
    Edit(
        "the wrong layers: these are the ones whose names do not end so.", {"if name.endswith": "if not name.endswith"}
    ),
    Edit("B is missing from what it returns.", {"[layer.A, layer.B]": "[layer.A]"}),
    Edit("A is missing from what it returns.", {"[layer.A, layer.B]": "[layer.B]"}),
    Edit("of each layer A comes first, then B.", {"[layer.A, layer.B]": "[layer.B, layer.A]"}),
    Edit(
        "the list is begun anew for each layer: only the last one's A and B are left. Use +=.",
        {"arrays +=": "arrays ="},
    ),
    Edit(
        "the frozen weights are in the list; only A and B learn.",
        {"[layer.A, layer.B]": "[linear.weight, layer.A, layer.B]"},
    ),
    Edit(
        "r and alpha have changed places.",
        {"LoRALinear(linear, r, alpha, rng)": "LoRALinear(linear, int(alpha), r, rng)"},
    ),
    Edit("the list holds the layers; it should hold their A and B.", {"[layer.A, layer.B]": "[layer]"}),
    Edit(
        "it is a list of pairs; put A and B into one list: arrays += [A, B].",
        {"arrays += [layer.A, layer.B]": "arrays.append((layer.A, layer.B))"},
    ),
    Edit(
        "the name is compared as a whole; its end counts: name.endswith(ending).",
        {"name.endswith(ending)": "name == ending"},
    ),
)


def returns_what_learns(function):
    """None, or a sentence if what is returned are not the very arrays of the layers, or layers start alike."""
    gpt = _gpt()
    arrays = function(gpt, "c_attn", 2, 4.0, np.random.default_rng(0))
    layers = [layer for layer in gpt.linear.values() if hasattr(layer, "A")]
    own = [array for layer in layers for array in (layer.A, layer.B)]
    if any(a is not b for a, b in zip(arrays, own, strict=True)):
        return "the arrays are copies: an optimizer that steps them moves nothing. Return the layers' own A and B."
    if np.array_equal(layers[0].A.value, layers[1].A.value):
        return "all A are alike: hand `rng` on, and make no generator of your own."
    return None


def scales_as_asked(function):
    """None, or a sentence if the layers do not have alpha / r."""
    gpt = _gpt()
    function(gpt, "c_attn", 2, 5.0, np.random.default_rng(0))
    scales = {layer.s for layer in gpt.linear.values() if hasattr(layer, "A")}
    return None if scales == {2.5} else f"with r = 2 and alpha = 5, s is {scales}; hand r and alpha on."


def merged_cases():
    """A layer that widens and a square one, with a B that is not zero."""
    found = []
    for n_in, n_out, r, alpha in [(5, 7, 3, 12.0), (6, 6, 2, 8.0)]:
        rng = np.random.default_rng(8)
        layer = LoRALinear(_linear(n_in, n_out, rng), r, alpha, rng)
        layer.B.value = rng.standard_normal((n_out, r))
        found.append({"layer": layer})
    return found


def use_merged(function, layer):
    """The weight and the bias of the layer that it returns."""
    plain = function(layer)
    return plain.weight.value, plain.bias.value


def plain_merged(layer):
    """`merged`, for the edits."""
    delta = layer.B.value @ layer.A.value
    weight = layer.base.weight.value + layer.s * delta.T
    return Linear(Array(weight), layer.base.bias)


MERGED_EDITS = (
    Edit("the update is not transposed: the weight is (in, out), B A is (out, in).", {"delta.T": "delta"}),
    Edit("alpha / r is missing: layer.s.", {"layer.s * delta": "delta"}),
    Edit("alpha / r is there twice.", {"layer.s * delta": "layer.s**2 * delta"}),
    Edit("the update is divided by s; multiply.", {"layer.s * delta.T": "delta.T / layer.s"}),
    Edit("the update is subtracted; add it.", {"value + layer.s": "value - layer.s"}),
    Edit("the base's weight is missing.", {"layer.base.weight.value + layer.s": "layer.s"}),
    Edit("the update is missing.", {" + layer.s * delta.T": ""}),
    Edit(
        "A and B are multiplied as A B; the update is B A.",
        {"layer.B.value @ layer.A.value": "layer.A.value @ layer.B.value"},
    ),
    Edit("Linear takes an Array: Array(weight). NumPy's arrays do not remember anything.", {"Array(weight)": "weight"}),
    Edit(
        "Linear takes two: the weight and the bias.",
        {"Linear(Array(weight), layer.base.bias)": "Linear(Array(weight))"},
    ),
    Edit("the bias is lost: it is the base's.", {"layer.base.bias)": "Array(np.zeros_like(layer.base.bias.value)))"}),
    Edit(
        "it returns the weight; it should return a Linear.",
        {"return Linear(Array(weight), layer.base.bias)": "return weight"},
    ),
)


def leaves_the_layer(function):
    """None, or a sentence if merging changes the layer's base, or what is merged learns."""
    (case, _) = merged_cases()
    layer = case["layer"]
    before = copy.deepcopy(layer.base.weight.value)
    plain = function(layer)
    if not np.array_equal(layer.base.weight.value, before):
        return "the base's own weight has changed: make a new array, W + ..., not W += ..."
    return "a merged weight does not learn: no trained=True." if plain.weight.wanted else None


LAYER_HINTS = (
    "keep base and alpha / r in self. B starts at zero, so that the layer starts as the base. trained=True: it learns.",
    "base(x) + x @ A.swapaxes(0, 1) @ B.swapaxes(0, 1) * s, where the Arrays are self.A (r, in) and self.B (out, r).",
)
MERGED_HINTS = (
    "x W + s x Aᵀ Bᵀ = x (W + ?).",
    "the weight is W + s (B A)ᵀ, from the Arrays' .value; the bias stays. Put both into a Linear.",
)

check = checker(
    Exercise(
        LoRALinear,
        layer_cases,
        ("the output at the start", "the output when B is not zero", "dA", "dB", "dx"),
        rules=(keeps_the_base,),
        style=(starts_as_lora,),
        plain=PlainLoRALinear,
        edits=LAYER_EDITS,
        hints=LAYER_HINTS,
        methods=("__init__", "__call__"),
        call=use_layer,
    ),
    Exercise(
        add_lora,
        add_cases,
        ("the adapted layers", "the shapes of what it returns", "the logits at the start"),
        rules=(returns_what_learns, scales_as_asked),
        plain=plain_add,
        edits=ADD_EDITS,
        call=use_add,
    ),
    Exercise(
        merged,
        merged_cases,
        ("the weight", "the bias"),
        rules=(leaves_the_layer,),
        plain=plain_merged,
        edits=MERGED_EDITS,
        hints=MERGED_HINTS,
        call=use_merged,
    ),
)
