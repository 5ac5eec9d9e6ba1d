"""NF4 against its definition and against brute force; the 4-bit layer against a plain one with the same weight."""

import dataclasses
import weakref

import numpy as np
import pytest
from helpers import assert_close, captured, examples, graph_nodes
from hypothesis import given
from hypothesis import strategies as st
from lora_helpers import snapshot, some_ids, tiny_model

from lora_np import Tensor, gradcheck, nn, no_grad
from lora_np.autograd.devices import to_device, to_numpy
from lora_np.nn import quantized as layers
from lora_np.nn.nf4 import NF4, dequantize_nf4, normal_float, quantize_nf4
from lora_np.storage import read_safetensors, write_safetensors

WIDEST_HALF_GAP = 0.1520  # of neighbours in NF4: -1 and -0.696


def codes_of(quantized):
    """One code a number, the padding included, (blocks, block_size)."""
    packed = to_numpy(quantized.codes)
    return np.stack([packed >> 4, packed & 15], axis=-1).reshape(len(packed), -1)


def absmax_of(weight, block_size):
    flat = np.asarray(weight, np.float32).reshape(-1)
    starts = range(0, flat.size, block_size)
    return np.array([np.abs(flat[i : i + block_size]).max() for i in starts], np.float32)


def arrays_of(quantized):
    return {name: value for name, value in vars(quantized).items() if name != "shape" and value is not None}


def round_trip(weight, **options):
    return to_numpy(dequantize_nf4(quantize_nf4(weight, **options)))


def rms(x):
    return float(np.sqrt(np.mean(np.asarray(x, np.float64) ** 2)))


def test_the_published_table_is_quantiles_of_the_normal_distribution():
    assert NF4.dtype == normal_float().dtype == np.float32
    assert NF4.shape == (16,)
    assert (np.diff(NF4) > 0).all()
    assert NF4[[0, 7, 15]].tolist() == [-1, 0, 1]
    np.testing.assert_allclose(normal_float(), NF4, rtol=0, atol=2**-23)
    np.testing.assert_allclose(np.diff(NF4).max() / 2, WIDEST_HALF_GAP, atol=1e-4)


def test_evaluated_in_float32_the_quantiles_give_all_but_one_value_to_the_last_bit():
    from scipy.special import ndtri

    def quantiles(count):
        return ndtri(np.linspace(0.9677083, 0.5, count + 1, dtype=np.float32)[:-1])

    table = np.sort(np.concatenate([quantiles(8), np.zeros(1, np.float32), -quantiles(7)]))
    table /= table.max()
    assert (table == NF4).sum() >= 15  # one depends on the last bits of ndtri
    np.testing.assert_allclose(table, NF4, rtol=4e-7)


@pytest.mark.parametrize("block_size", [2, 16, 64, 100])
def test_values_on_the_grid_come_back_bit_for_bit(xp, rng, block_size):
    codes = rng.integers(0, 16, (7, block_size))
    codes[:, 0] = rng.choice([0, 15], 7)  # each block holds its absmax
    absmax = rng.uniform(1e-6, 1e6, (7, 1)).astype(np.float32)
    weight = NF4[codes] * absmax
    quantized = quantize_nf4(xp.asarray(weight), block_size, double_quant=False)
    np.testing.assert_array_equal(codes_of(quantized), codes)
    np.testing.assert_array_equal(to_numpy(dequantize_nf4(quantized)), weight)


def test_the_first_of_two_codes_is_in_the_high_bits():
    quantized = quantize_nf4(np.array([1, -1, 0, 1], np.float32), block_size=4)
    assert quantized.codes.tolist() == [[0xF0, 0x7F]]


shapes = st.one_of(st.just(()), st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple))


@examples
@given(shapes, st.integers(1, 40).map(lambda half: 2 * half), st.booleans(), st.integers(0, 99))
def test_every_code_is_the_nearest_one(xp, shape, block_size, double_quant, seed):
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 6)).astype(np.float32)
    quantized = quantize_nf4(xp.asarray(weight), block_size, double_quant)
    scaled = weight.reshape(-1) / np.repeat(absmax_of(weight, block_size), block_size)[: weight.size]
    distances = np.abs(scaled[:, None].astype(np.float64) - NF4.astype(np.float64))
    codes = codes_of(quantized).reshape(-1)
    chosen = distances[np.arange(weight.size), codes[: weight.size]]
    assert (chosen <= distances.min(axis=1) + 1e-7).all()
    assert (codes[weight.size :] == 7).all()  # the padding is zeros
    found = to_numpy(dequantize_nf4(quantized))
    assert found.shape == weight.shape
    assert found.dtype == np.float32
    if not double_quant:
        error = np.abs(found - weight).reshape(-1)
        assert (
            error <= 1.0001 * WIDEST_HALF_GAP * np.repeat(absmax_of(weight, block_size), block_size)[: error.size]
        ).all()


@examples
@given(st.integers(1, 1500), st.integers(0, 99))
def test_double_quantisation_moves_an_absmax_by_at_most_half_a_step(xp, blocks, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((blocks, 4)).astype(np.float32) * rng.lognormal(0, 1, (blocks, 1)).astype(np.float32)
    single, double = (quantize_nf4(xp.asarray(weight), 4, double_quant) for double_quant in (False, True))
    np.testing.assert_array_equal(codes_of(single), codes_of(double))
    absmax = absmax_of(weight, 4)
    scale = to_numpy(double.absmax_scale)
    assert scale.shape == (-(-blocks // 256),)
    assert double.absmax.shape == (blocks,)
    np.testing.assert_allclose(to_numpy(double.absmax_mean), [absmax.mean()], rtol=1e-5)
    half_step = np.repeat(scale, 256)[:blocks, None] / 254
    rounding = 1e-5 * absmax.max()
    error = np.abs(to_numpy(dequantize_nf4(double)) - to_numpy(dequantize_nf4(single)))
    assert (error <= half_step + rounding).all()


def plain_int4(weight, block_size=64):
    """15 even steps from -absmax to absmax."""
    blocks = weight.reshape(-1, block_size)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    return (np.rint(blocks / absmax * 7) / 7 * absmax).reshape(weight.shape)


@pytest.fixture
def normal_weight(rng):
    return (0.02 * rng.standard_normal((512, 512))).astype(np.float32)


def test_the_error_on_normal_weights_is_what_nf4_is_known_for(normal_weight):
    error = round_trip(normal_weight, double_quant=False) - normal_weight
    assert abs(np.abs(error).mean() / 0.02 - 0.0728) < 5e-4  # standard deviations; bitsandbytes' tests ask for < 0.1
    assert abs(rms(error) / rms(normal_weight) - 0.0920) < 1e-3


def test_on_normal_weights_nf4_beats_even_steps(normal_weight):
    nf4 = rms(round_trip(normal_weight) - normal_weight)
    int4 = rms(plain_int4(normal_weight) - normal_weight)
    assert 0.83 < nf4 / int4 < 0.88


def test_double_quantisation_adds_little(normal_weight):
    single, double = (round_trip(normal_weight, double_quant=double_quant) for double_quant in (False, True))
    assert 0 < rms(double - single) / rms(normal_weight) < 0.002
    assert rms(double - normal_weight) < 1.001 * rms(single - normal_weight)


def test_smaller_blocks_lose_less(normal_weight):
    errors = [rms(round_trip(normal_weight, block_size=size) - normal_weight) for size in (16, 64, 256, 1024)]
    assert errors == sorted(errors)


def test_bytes_and_bits_per_weight(xp):
    weight = xp.ones((256, 256), np.float32)  # 1024 blocks, 4 groups of 256
    double, single = quantize_nf4(weight), quantize_nf4(weight, double_quant=False)
    assert double.nbytes == 256 * 256 // 2 + 1024 + 4 * 4 + 4
    assert single.nbytes == 256 * 256 // 2 + 1024 * 4
    assert single.bits_per_weight == 4.5
    assert 0 <= double.bits_per_weight - (4 + 8 / 64 + 32 / (64 * 256)) <= 32 / 256**2  # the mean, once
    assert sum(array.nbytes for array in arrays_of(double).values()) == double.nbytes
    for array in arrays_of(double).values():  # no view keeps more than it shows
        assert array.base is None or array.base.nbytes == array.nbytes


@pytest.mark.parametrize("double_quant", [True, False])
def test_blocks_of_zeros_stay_zero(xp, double_quant):
    weight = np.zeros((4, 64), np.float32)
    np.testing.assert_array_equal(round_trip(xp.asarray(weight), double_quant=double_quant), weight)
    weight[1] = np.linspace(-3, 3, 64)
    found = round_trip(xp.asarray(weight), double_quant=double_quant)
    np.testing.assert_array_equal(found[[0, 2, 3]], 0)
    assert found[1].any()


def test_a_small_block_beside_large_ones_never_turns_its_signs(xp):
    weight = np.repeat(np.array([[1e-6], [1e-6], [1], [4]], np.float32), 64, axis=1)
    quantized = quantize_nf4(xp.asarray(weight))
    codes, scale, mean = map(to_numpy, (quantized.absmax, quantized.absmax_scale, quantized.absmax_mean))
    assert (codes * scale / 127 + mean)[0] < 0  # 57.7 steps below the mean become 58
    found = to_numpy(dequantize_nf4(quantized))
    np.testing.assert_array_equal(found[:2], 0)
    assert (found[2:] > 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_read_as_float32(xp, rng, dtype):
    weight = rng.standard_normal((5, 30)).astype(dtype)
    expected = round_trip(weight.astype(np.float32))
    found = dequantize_nf4(quantize_nf4(xp.asarray(weight)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(to_numpy(found), expected)


def test_numbers_near_the_ends_of_float32_survive():
    for size in (1e-44, 1e-38, 3e38):
        weight = np.full((4, 64), size, np.float32)
        np.testing.assert_allclose(round_trip(weight), weight, rtol=1e-6)


def test_a_transposed_weight_is_read_row_by_row(rng):
    weight = rng.standard_normal((9, 14)).astype(np.float32)
    np.testing.assert_array_equal(round_trip(weight.T), round_trip(weight.T.copy()))


def test_what_is_quantised_is_not_written_to(rng):
    weight = rng.standard_normal((4, 64)).astype(np.float32)
    weight.flags.writeable = False
    quantized = quantize_nf4(weight)
    for array in arrays_of(quantized).values():
        array.flags.writeable = False
    np.testing.assert_array_equal(dequantize_nf4(quantized), dequantize_nf4(quantized))
    with pytest.raises(dataclasses.FrozenInstanceError):
        quantized.shape = (1,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_a_weight_that_is_not_finite_is_refused(xp, bad):
    weight = xp.ones((3, 50))
    weight[1, 7] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize_nf4(weight)


@pytest.mark.parametrize(
    ("weight", "block_size", "error", "message"),
    [
        (np.ones(4, np.int32), 64, TypeError, "takes floats, not int32"),
        ([1.0], 64, TypeError, "takes floats, not list"),
        (np.ones((0, 3)), 64, ValueError, r"shape \(0, 3\) holds nothing"),
        (np.ones(4), 3, ValueError, "positive even number.*got 3"),
        (np.ones(4), 0, ValueError, "positive even number.*got 0"),
        (np.ones(4), -2, ValueError, "positive even number.*got -2"),
        (np.ones(4), 64.0, ValueError, "positive even number.*got 64.0"),
    ],
)
def test_what_can_not_be_quantised_is_named(weight, block_size, error, message):
    with pytest.raises(error, match=message):
        quantize_nf4(weight, block_size)


KINDS = [lambda: nn.Linear(10, 6), lambda: nn.Linear(10, 6, bias=False), lambda: nn.Conv1D(6, 10)]
kinds = pytest.mark.parametrize("make", KINDS, ids=["Linear", "Linear without bias", "Conv1D"])


def make_layer(make, xp=np, **options):
    """A 4-bit layer, and the plain one whose weight is what the 4-bit one stands for."""
    plain = make()
    if plain.bias is not None:
        plain.bias.data = np.arange(6, dtype=np.float32)
    layer = nn.Linear4bit.from_linear(plain, **options)
    plain.weight.data = layer.weight.data
    return tuple(module if xp is np else module.to("cuda") for module in (layer, plain))


@kinds
@pytest.mark.parametrize("shape", [(10,), (3, 10), (2, 3, 10)])
@pytest.mark.parametrize("double_quant", [True, False])
def test_the_layer_is_the_plain_one_with_a_rounded_weight(xp, rng, make, shape, double_quant):
    layer, plain = make_layer(make, xp, block_size=16, double_quant=double_quant)
    x, other = (Tensor(xp.asarray(rng.standard_normal(shape), np.float32), requires_grad=True) for _ in range(2))
    other.data = x.data
    y, expected = layer(x), plain(other)
    np.testing.assert_array_equal(y.numpy(), expected.numpy())
    dy = xp.asarray(rng.standard_normal(y.shape), np.float32)
    y.backward(dy)
    expected.backward(dy)
    np.testing.assert_array_equal(to_numpy(x.grad), to_numpy(other.grad))
    assert all(p.grad is None for p in layer.parameters())


@kinds
def test_the_layer_looks_like_the_one_it_is_made_from(make):
    plain = make().eval()
    before = snapshot(plain)
    layer = nn.Linear4bit.from_linear(plain)
    assert snapshot(plain) == before
    assert not layer.training
    for name in ("in_features", "out_features", "fan_in_fan_out"):
        assert getattr(layer, name) == getattr(plain, name)
    assert layer.weight.shape == plain.weight.shape
    assert layer.weight is not layer.weight
    assert not layer.weight.requires_grad
    assert (layer.bias is None) == (plain.bias is None)
    assert layer.bias is None or not layer.bias.requires_grad
    assert plain.bias is None or plain.bias.requires_grad


@kinds
def test_dx_is_that_of_finite_differences(xp, rng, make):
    layer, _ = make_layer(make, xp)
    x = Tensor(xp.asarray(rng.standard_normal((2, 3, 10))), requires_grad=True)
    assert layer(x).dtype == np.float64
    gradcheck(layer, [x])


def test_a_bias_that_is_set_free_is_trained(rng):
    layer, plain = make_layer(KINDS[0])
    layer.bias.requires_grad = True
    x, dy = rng.standard_normal((4, 10)).astype(np.float32), rng.standard_normal((4, 6)).astype(np.float32)
    layer(x).backward(dy)
    plain(x).backward(dy)
    assert_close(layer.bias.grad, plain.bias.grad)


@kinds
def test_the_graph_holds_no_weight_and_no_input(monkeypatch, rng, make):
    made, dequantize = [], layers.dequantize_nf4

    def watched(quantized):
        w = dequantize(quantized)
        made.extend([weakref.ref(w), weakref.ref(w if w.base is None else w.base)])
        return w

    monkeypatch.setattr(layers, "dequantize_nf4", watched)
    layer = nn.Linear4bit.from_linear(make())
    x = Tensor(rng.standard_normal((2, 10)).astype(np.float32), requires_grad=True)
    y = layer(x)
    assert len(made) == 2
    assert all(ref() is None for ref in made)  # W is gone before the backward
    held = [thing for node in graph_nodes(y) if node.backward for thing in captured(node.backward)]
    assert not any(isinstance(thing, (Tensor, np.ndarray)) for thing in held)
    (quantized,) = (thing for thing in held if isinstance(thing, nn.nf4.QuantizedWeight))
    own = [b.data for b in layer.buffers()]
    assert all(any(array is b for b in own) for array in arrays_of(quantized).values())
    y.backward(np.ones((2, 6), np.float32))
    assert len(made) == 4  # made once more for dx
    assert all(ref() is None for ref in made)


def test_nothing_is_recorded_or_made_again_without_need(monkeypatch, rng):
    layer = nn.Linear4bit.from_linear(nn.Linear(10, 6))
    x = rng.standard_normal((2, 10)).astype(np.float32)
    assert not layer(x).requires_grad
    with no_grad():
        assert not layer(Tensor(x, requires_grad=True)).requires_grad
    layer.bias.requires_grad = True
    y = layer(x)
    monkeypatch.setattr(layers, "dequantize_nf4", None)  # the bias's gradient needs no W
    y.backward(np.ones((2, 6), np.float32))
    assert layer.bias.grad.tolist() == [2] * 6


def test_a_wrong_width_is_refused():
    with pytest.raises(ValueError, match="last axis of length 10"):
        nn.Linear4bit.from_linear(nn.Linear(10, 6))(np.ones((2, 9), np.float32))


STATE = ["bias", "weight_codes", "weight_absmax", "weight_absmax_scale", "weight_absmax_mean"]


@pytest.mark.parametrize(("double_quant", "names"), [(True, STATE), (False, STATE[:3])])
def test_the_state_goes_through_a_file(tmp_path, rng, double_quant, names):
    source, target = (nn.Linear4bit.from_linear(nn.Linear(100, 30), double_quant=double_quant) for _ in range(2))
    assert list(source.state_dict()) == names
    assert [name for name, _ in source.named_parameters()] == ["bias"]
    write_safetensors(tmp_path / "layer.safetensors", source.state_dict())
    state, _ = read_safetensors(tmp_path / "layer.safetensors")
    assert target.load_state_dict(state) == ([], [])
    x = rng.standard_normal((3, 100)).astype(np.float32)
    np.testing.assert_array_equal(target(x).data, source(x).data)
    assert {name: array.dtype for name, array in target.state_dict().items()} == {k: v.dtype for k, v in state.items()}


def test_a_state_of_another_kind_is_refused():
    layer = nn.Linear4bit.from_linear(nn.Linear(100, 30))
    before = snapshot(layer)
    single = nn.Linear4bit.from_linear(nn.Linear(100, 30), double_quant=False).state_dict()
    for state, error, message in [
        (single, ValueError, "weight_absmax: float32 instead of int8"),
        (nn.Linear(100, 30).state_dict(), KeyError, "missing weight_codes.*unexpected weight"),
        (nn.Linear4bit.from_linear(nn.Linear(100, 30), 32).state_dict(), ValueError, "weight_codes: .* instead of"),
    ]:
        with pytest.raises(error, match=message):
            layer.load_state_dict(state)
    assert snapshot(layer) == before


def test_another_dtype_reaches_the_bias_only(rng):
    layer, plain = make_layer(KINDS[0])
    expected = {name: array.dtype for name, array in layer.state_dict().items()}
    assert layer.to(dtype=np.float64) is layer
    assert {n: a.dtype for n, a in layer.state_dict().items()} == {**expected, "bias": np.dtype(np.float64)}
    x = rng.standard_normal((3, 10))
    assert_close(layer(x), plain.to(dtype=np.float64)(x))


@pytest.mark.gpu
def test_the_layer_goes_to_the_gpu_and_back(rng):
    layer = nn.Linear4bit.from_linear(nn.Linear(100, 30, bias=False))
    x = rng.standard_normal((3, 100)).astype(np.float32)
    expected, before = layer(x).numpy(), {name: b.data for name, b in layer.named_buffers()}
    layer.to("cuda")
    assert layer.device == "cuda:0"
    assert {b.device for b in layer.buffers()} == {"cuda:0"}
    found = layer(to_device(x, "cuda"))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
    layer.to("cpu")
    for name, b in layer.named_buffers():
        np.testing.assert_array_equal(b.data, before[name])


def linear_names(model, kind):
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


PLAIN = (nn.Linear, nn.Conv1D)


def test_a_model_is_quantised_but_for_its_head():
    model = tiny_model().eval()
    before, ids = linear_names(model, PLAIN), some_ids(model.config)
    expected, size = model(ids).logits.data, nn.memory_footprint(model)
    assert nn.quantize_model(model) is model
    assert linear_names(model, PLAIN) == ["lm_head"]
    assert linear_names(model, nn.Linear4bit) == [name for name in before if name != "lm_head"]
    assert model.lm_head.weight is model.transformer.wte.weight
    assert not any(module.training for module in model.modules())
    assert nn.memory_footprint(model) < size
    found = model(ids).logits.data
    assert 0 < rms(found - expected) < 0.2 * rms(expected)
    assert nn.quantize_model(model) is model  # nothing left to do


def test_skip_takes_names_of_layers_and_of_what_holds_them():
    model = nn.quantize_model(tiny_model(), skip=("c_proj", "h.0.attn", "lm_head"))
    kept = linear_names(model, PLAIN)
    assert {name for name in kept if name != "lm_head"} == {
        name for name in linear_names(tiny_model(), PLAIN) if name.endswith("c_proj") or "h.0.attn" in name
    }
    assert "lm_head" not in linear_names(nn.quantize_model(tiny_model(), skip=()), PLAIN)


def test_options_reach_the_layers():
    model = nn.quantize_model(tiny_model(), block_size=32, double_quant=False)
    layer = model.get_submodule(linear_names(model, nn.Linear4bit)[0])
    assert layer.weight_codes.shape[1] == 16
    assert layer.weight_absmax_scale is None


def test_a_model_that_can_not_be_quantised_stays_as_it_is():
    model = tiny_model()
    last = linear_names(model, nn.Conv1D)[-1]
    model.get_submodule(last).weight.data[0, 0] = np.nan
    before = linear_names(model, PLAIN)
    with pytest.raises(ValueError, match=f"{last}: .*NaN"):
        nn.quantize_model(model)
    with pytest.raises(ValueError, match="'c_porj', but no part"):
        nn.quantize_model(model, skip=("c_porj",))
    with pytest.raises(ValueError, match="from_linear"):
        nn.quantize_model(nn.Linear(3, 4))
    assert linear_names(model, PLAIN) == before


def test_memory_footprint_counts_parameters_and_buffers_once():
    model = tiny_model()
    assert nn.memory_footprint(model) == 4 * model.num_parameters()
    layer = nn.Linear4bit.from_linear(nn.Linear(64, 8))
    assert nn.memory_footprint(layer) == layer.quantized.nbytes + 8 * 4


def test_a_part_of_a_model_may_be_called_base_layer():
    class Model(nn.Module):
        def __init__(self):
            self.base_layer, self.lora_A = nn.Linear(8, 8), nn.Linear(8, 8)

    model = nn.quantize_model(Model())
    assert isinstance(model.base_layer, nn.Linear4bit)
    assert isinstance(model.lora_A, nn.Linear4bit)
