"""LoraLinear, one layer: the formula, its gradients, dropout, merging."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, relative

from lora_np import LoraConfig, Tensor, gradcheck, manual_seed, nn
from lora_np.lora import LoraLinear

IN, OUT = 6, 5


def base_layer(kind, dtype=np.float64):
    rng = np.random.default_rng(0)
    layer = {"Linear": nn.Linear, "Conv1D": lambda i, o: nn.Conv1D(o, i)}[kind.split()[0]](IN, OUT)
    layer.weight.data = rng.standard_normal(layer.weight.shape).astype(dtype)
    layer.bias.data = rng.standard_normal(OUT).astype(dtype)
    if "without bias" in kind:
        layer.bias = None
    return layer.requires_grad_(False)


def lora_layer(kind="Linear", adapters=(("default", 3, 12),), dtype=np.float64, **options):
    """A LoraLinear with adapters (name, r, alpha), all of them active."""
    layer = LoraLinear(base_layer(kind, dtype)).eval()
    for name, r, alpha in adapters:
        layer.add_adapter(name, LoraConfig(r=r, lora_alpha=alpha, init_lora_weights=False, **options))
    layer.active_adapters = [name for name, _, _ in adapters]
    return layer


def formula(layer, x, names):
    """y = x Wᵀ + b + Σ s·(x Aᵀ) Bᵀ in plain NumPy."""
    W = layer.base_layer.weight.data
    y = x @ (W if isinstance(layer.base_layer, nn.Conv1D) else W.T)
    y = y if layer.base_layer.bias is None else y + layer.base_layer.bias.data
    for name in names:
        A, B = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
        y = y + layer.lora_alpha[name] / layer.r[name] * ((x @ A.T) @ B.T)
    return y


kinds = pytest.mark.parametrize("kind", ["Linear", "Conv1D", "Linear without bias"])
ONE, TWO = (("default", 3, 12),), (("default", 3, 12), ("second", 1, 0.5))


@kinds
@pytest.mark.parametrize("adapters", [(), ONE, TWO], ids=["none", "one", "two"])
@pytest.mark.parametrize("shape", [(IN,), (4, IN), (2, 3, IN)])
def test_the_formula(rng, kind, adapters, shape):
    layer, x = lora_layer(kind, adapters), rng.standard_normal(shape)
    expected = formula(layer, x, [name for name, _, _ in adapters])
    np.testing.assert_allclose(layer(Tensor(x)).data, expected, rtol=1e-12, atol=1e-12)


@kinds
def test_two_adapters_add_up_what_each_adds_alone(rng, kind):
    layer, x = lora_layer(kind, TWO), Tensor(rng.standard_normal((4, IN)))
    both, added = layer(x).data, 0
    base = layer.base_layer(x).data
    for name in ("default", "second"):
        layer.active_adapters = [name]  # one alone goes through the fused operation, two do not
        added = added + (layer(x).data - base)
    np.testing.assert_allclose(both - base, added, rtol=1e-12, atol=1e-12)


@kinds
@pytest.mark.parametrize("adapters", [ONE, TWO], ids=["one", "two"])
def test_gradients_are_those_of_finite_differences(rng, kind, adapters):
    layer = lora_layer(kind, adapters)
    parameters = list(layer.parameters())
    layer.requires_grad_(True)  # the base layer's too: nothing may depend on its being frozen
    x = Tensor(rng.standard_normal((2, 2, IN)), requires_grad=True)
    gradcheck(lambda x, *parameters: layer(x), [x, *parameters])


@kinds
def test_fused_and_composed_gradients_are_the_same(rng, kind):
    """The same adapter as one primitive, and beside a second one whose B is zero."""
    x, dy = rng.standard_normal((4, IN)), rng.standard_normal((4, OUT))
    layer, gradients = lora_layer(kind, TWO), []
    layer.lora_B["second"].weight.data[:] = 0
    for active in (["default"], ["default", "second"]):
        layer.active_adapters = active
        layer.zero_grad()
        inputs = Tensor(x, requires_grad=True)
        layer(inputs).backward(dy)
        gradients.append([inputs.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad])
    for fused, composed in zip(*gradients, strict=True):
        np.testing.assert_allclose(fused, composed, rtol=1e-12, atol=1e-13)


def test_a_frozen_base_gets_no_gradient(rng):
    layer = lora_layer()
    layer(Tensor(rng.standard_normal((4, IN)), requires_grad=True)).backward(np.ones((4, OUT)))
    assert [name for name, p in layer.named_parameters() if p.grad is not None] == [
        "lora_A.default.weight",
        "lora_B.default.weight",
    ]


def identity_branch(adapters, **options):
    """A layer of width IN whose adapters' branches are x itself: what dropout does shows in the result."""
    layer = LoraLinear(nn.Linear(IN, IN).to(dtype=np.float64).requires_grad_(False))
    for name in adapters:
        layer.add_adapter(name, LoraConfig(r=IN, lora_alpha=IN, **options))
        layer.lora_A[name].weight.data = np.eye(IN)
        layer.lora_B[name].weight.data = np.eye(IN)
    layer.active_adapters = list(adapters)
    return layer


@pytest.mark.parametrize("adapters", [["one"], ["one", "two"]], ids=["fused", "composed"])
def test_dropout_is_on_the_branch_alone_and_in_training_alone(rng, adapters):
    layer = identity_branch(adapters, lora_dropout=0.4)
    x = rng.uniform(1, 2, (500, IN))
    base = layer.base_layer(x).data
    inputs = Tensor(x, requires_grad=True)
    y = layer.train()(inputs)
    ratio = (y.data - base) / x  # per adapter, 0 or 1/(1 - p)
    counts = np.rint(ratio * 0.6)
    np.testing.assert_allclose(ratio, counts / 0.6, atol=1e-12)
    n = len(adapters)
    assert set(counts.reshape(-1)) == set(range(n + 1))  # with two, each draws a mask of its own
    assert abs(counts.mean() - 0.6 * n) < 0.05
    y.backward(np.ones_like(x))
    np.testing.assert_allclose(inputs.grad, layer.base_layer.weight.data.sum(0) + ratio, atol=1e-12)
    np.testing.assert_allclose(layer.eval()(x).data, base + n * x, atol=1e-12)


@pytest.mark.parametrize("adapters", [["one"], ["one", "two"]], ids=["fused", "composed"])
def test_gradients_under_dropout(rng, adapters):
    layer = identity_branch(adapters, lora_dropout=0.4)
    for p in layer.parameters():
        p.data = rng.standard_normal(p.shape)

    def with_the_same_mask(x, *parameters):
        manual_seed(5)
        return layer(x)

    x = Tensor(rng.standard_normal((3, IN)), requires_grad=True)
    gradcheck(with_the_same_mask, [x, *(p for p in layer.parameters() if p.requires_grad)])


@pytest.mark.parametrize("training", [True, False])
def test_a_new_adapter_takes_the_mode_of_its_layer(training):
    layer = LoraLinear(base_layer("Linear")).train(training)
    layer.add_adapter("default", LoraConfig(lora_dropout=0.5))
    assert layer.lora_dropout["default"].training is training


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_an_adapter_is_float32_or_as_fine_as_its_layer(dtype, expected):
    layer = lora_layer(dtype=dtype)
    assert layer.lora_A["default"].weight.dtype == layer.lora_B["default"].weight.dtype == expected


def test_the_base_layer_is_held_not_copied():
    base = base_layer("Conv1D")
    layer = LoraLinear(base)
    assert layer.base_layer is base
    assert (layer.in_features, layer.out_features) == (IN, OUT)


def test_a_deleted_adapter_leaves_nothing_behind():
    layer = lora_layer(adapters=TWO)
    layer.delete_adapter("default")
    assert layer.active_adapters == ["second"]
    for parts in (layer.lora_A, layer.lora_B, layer.lora_dropout, layer.r, layer.lora_alpha, layer.scaling):
        assert list(parts) == ["second"]


@kinds
def test_the_delta_weight_has_the_base_weights_orientation(kind):
    layer = lora_layer(kind)
    delta = 4 * layer.lora_B["default"].weight.data @ layer.lora_A["default"].weight.data
    expected = delta.T if kind == "Conv1D" else delta
    assert expected.shape == layer.base_layer.weight.shape
    np.testing.assert_allclose(layer.get_delta_weight("default"), expected, rtol=1e-14)


@kinds
@pytest.mark.parametrize("adapters", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_merged_gives_the_same_results(rng, kind, adapters, dtype, tolerance):
    layer, x = lora_layer(kind, adapters, dtype), rng.standard_normal((7, IN)).astype(dtype)
    expected = layer(x).data
    layer.merge(*layer.merged_parameters())
    assert layer.merged_adapters == [name for name, _, _ in adapters]
    assert relative(layer(x).data, expected) < tolerance
    assert relative(layer.base_layer(x).data, expected) < tolerance


def test_a_half_precision_weight_is_rounded_once():
    layer = lora_layer(adapters=TWO, dtype=np.float16)
    exact = layer.base_layer.weight.data.astype(np.float64)
    for name in ("default", "second"):
        exact = exact + layer.get_delta_weight(name).astype(np.float64)
    merged = layer.merged_parameters()[0]
    assert merged.dtype == np.float16
    np.testing.assert_array_equal(merged, exact.astype(np.float32).astype(np.float16))


@settings(fuzz, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    cycles=st.integers(1, 20),
    size=st.floats(-20, 4),
    alpha=st.floats(-1000, 1000),
    kind=st.sampled_from(["Linear", "Conv1D"]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_unmerge_is_exact_to_the_bit_after_any_number_of_cycles(seed, cycles, size, alpha, kind, dtype):
    rng = np.random.default_rng(seed)
    layer = lora_layer(kind, (("a", 2, alpha), ("b", 1, 3.0)), dtype)
    weight = layer.base_layer.weight
    weight.data = (10.0**size * rng.standard_normal(weight.shape)).astype(dtype)
    before = weight.data.tobytes()
    for _ in range(cycles):
        layer.active_adapters = [["a"], ["b"], ["a", "b"]][rng.integers(3)]
        layer.merge(*layer.merged_parameters())
        layer.unmerge()
        layer.unmerge()  # a second one does nothing
    assert weight.data.tobytes() == before
    assert weight.dtype == dtype
    assert layer.merged_adapters == []


@pytest.mark.parametrize("active", [["default"], ["default", "second"]], ids=["fused", "composed"])
def test_on_both_libraries(xp, rng, active):
    layer = lora_layer("Conv1D", TWO, np.float32)
    layer.active_adapters = active
    x, dy = rng.standard_normal((4, IN)).astype(np.float32), rng.standard_normal((4, OUT)).astype(np.float32)
    expected, names = formula(layer, x.astype(np.float64), active), dict(layer.named_parameters())
    expected_dx = dy @ layer.base_layer.weight.data.T
    for name in active:
        expected_dx = expected_dx + dy @ layer.get_delta_weight(name).T
    if xp is not np:
        layer.to("cuda")
    inputs = Tensor(xp.asarray(x), requires_grad=True)
    y = layer(inputs)
    y.backward(xp.asarray(dy))
    assert relative(y.numpy(), expected) < 1e-5
    assert relative(Tensor(inputs.grad).numpy(), expected_dx) < 1e-5
    for name in active:
        assert type(names[f"lora_A.{name}.weight"].grad) is xp.ndarray
    layer.merge(*layer.merged_parameters())
    assert relative(layer(xp.asarray(x)).numpy(), expected) < 1e-5
    layer.unmerge()
    assert relative(layer(xp.asarray(x)).numpy(), expected) < 1e-5
