"""Four bits in groups with a zero point each."""

import numpy as np
import pytest

from lora_np import Tensor, gradcheck, nn
from lora_np.nn.grouped import GroupedLinear4bit, quantize_groups
from lora_np.storage import read_safetensors, write_safetensors


@pytest.fixture
def weight():
    return np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)


def layer_of(weight, group_size=4, kind=nn.Linear):
    plain = kind(16, 6) if kind is nn.Linear else kind(6, 16)
    plain.weight.data = weight if kind is nn.Linear else weight.T.copy()
    return GroupedLinear4bit.from_linear(plain, group_size), plain


@pytest.mark.parametrize("group_size", [2, 4, 16])
def test_a_weight_is_off_by_half_a_step_at_most(weight, group_size):
    layer, _ = layer_of(weight, group_size)
    error = np.abs(layer.weight.data - weight).reshape(6, -1, group_size)
    assert (error <= 0.501 * layer.weight_scale.data[..., None]).all()
    ends = weight.reshape(6, -1, group_size)
    for end in (ends.min(axis=-1), ends.max(axis=-1)):  # both are on the grid
        assert np.abs(layer.weight.data.reshape(ends.shape) - end[..., None]).min(axis=-1).max() < 1e-5


def test_a_grid_and_a_constant_come_back():
    grid = np.tile(np.arange(16, dtype=np.float32) * 0.25 - 1, (6, 1))
    grid[3] = 0.7
    grid[4] = 0
    np.testing.assert_allclose(layer_of(grid, 16)[0].weight.data, grid, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1D])
def test_the_layer_is_the_plain_one_with_a_rounded_weight(weight, kind):
    layer, plain = layer_of(weight, kind=kind)
    plain.bias.data = layer.bias.data = np.arange(6, dtype=np.float32)
    plain.weight.data = layer.weight.data
    x = Tensor(np.random.default_rng(1).standard_normal((3, 2, 16)).astype(np.float32))
    np.testing.assert_allclose(layer(x).data, plain(x).data, rtol=1e-6)
    assert repr(layer).endswith("(in_features=16, out_features=6, bias=True)")


def test_dx_is_that_of_finite_differences(weight):
    layer, _ = layer_of(weight)
    layer.to(dtype=np.float64)
    gradcheck(layer, [Tensor(np.random.default_rng(1).standard_normal((3, 16)), requires_grad=True)])


def test_the_state_goes_through_a_file(weight, tmp_path):
    layer, _ = layer_of(weight)
    write_safetensors(tmp_path / "a.safetensors", layer.state_dict())
    other, _ = layer_of(weight * 2 + 1)
    other.load_state_dict(read_safetensors(tmp_path / "a.safetensors")[0])
    np.testing.assert_array_equal(other.weight.data, layer.weight.data)


def test_bytes():
    model = nn.quantize_model(nn.Sequential(nn.Linear(64, 8, bias=False)), group_size=32)
    assert nn.memory_footprint(model) == 8 * 32 + 2 * 4 * 8 * 2


@pytest.mark.parametrize("group_size", [0, 3, 5, 32, 4.0])
def test_groups_that_do_not_fit(weight, group_size):
    with pytest.raises(ValueError, match="group_size must be even and divide the layer's 16 inputs"):
        quantize_groups(weight, group_size)


def test_what_is_not_finite(weight):
    weight[2, 3] = np.nan
    plain = nn.Linear(16, 6)
    plain.weight.data = weight
    with pytest.raises(ValueError, match="0: quantize_groups: the weight holds NaN"):
        nn.quantize_model(nn.Sequential(plain), group_size=4)
