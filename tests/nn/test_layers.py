"""The layers against plain NumPy, and against PyTorch, in both precisions."""

import threading

import numpy as np
import pytest
from scipy import stats

from lora_np import Tensor, gradcheck, manual_seed, nn

SHAPES = [(3,), (2, 3), (2, 4, 3)]


def double(layer):
    return layer.to(dtype=np.float64)


def as_tensor(xp, array):
    return Tensor(xp.asarray(array), requires_grad=True)


def on(xp, layer):
    return layer if xp is np else layer.to("cuda")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_x_times_w_transposed_plus_b(xp, rng, shape, bias):
    layer = double(nn.Linear(3, 5, bias=bias))
    x = rng.standard_normal(shape)
    expected = x @ layer.weight.data.T + (layer.bias.data if bias else 0)
    assert layer.weight.shape == (5, 3)
    np.testing.assert_allclose(on(xp, layer)(as_tensor(xp, x)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_conv1d_is_x_times_w_plus_b(xp, rng, shape):
    layer = double(nn.Conv1D(5, 3))
    layer.bias.data = rng.standard_normal(5)
    x = rng.standard_normal(shape)
    expected = x @ layer.weight.data + layer.bias.data
    assert layer.weight.shape == (3, 5)
    np.testing.assert_allclose(on(xp, layer)(as_tensor(xp, x)).numpy(), expected, rtol=1e-12)


def test_linear_and_conv1d_say_which_way_their_weight_lies():
    assert not nn.Linear(3, 5).fan_in_fan_out
    assert nn.Conv1D(5, 3).fan_in_fan_out
    assert (nn.Conv1D(5, 3).in_features, nn.Conv1D(5, 3).out_features) == (3, 5)


WIDTH_3 = [lambda: nn.Linear(3, 5), lambda: nn.Conv1D(5, 3), lambda: nn.LayerNorm(3), lambda: nn.RMSNorm(3)]


@pytest.mark.parametrize("make", WIDTH_3)
def test_a_wrong_width_is_refused(make):
    with pytest.raises(ValueError, match="last axis of length 3"):
        make()(np.ones((2, 4), np.float32))


def test_embedding_picks_rows(xp, rng):
    layer = double(nn.Embedding(7, 3))
    table, ids = layer.weight.data.copy(), np.array([[0, 6, 6], [2, 0, 6]])
    y = on(xp, layer)(ids)
    np.testing.assert_array_equal(y.numpy(), table[ids])
    y.backward(xp.ones((2, 3, 3)))
    counts = np.bincount(ids.reshape(-1), minlength=7)  # an id met twice gets both gradients
    np.testing.assert_array_equal(Tensor(layer.weight.grad).numpy(), np.repeat(counts[:, None], 3, axis=1))


@pytest.mark.parity
@pytest.mark.parametrize("padding_idx", [None, 0, 4, -1])
def test_the_row_of_padding_gets_no_gradient_as_in_torch(padding_idx):
    import torch

    ours, theirs = nn.Embedding(7, 3, padding_idx), torch.nn.Embedding(7, 3, padding_idx)
    assert ours.padding_idx == theirs.padding_idx
    np.testing.assert_array_equal((ours.weight.data == 0).all(axis=1), (theirs.weight == 0).all(dim=1))
    theirs.weight.data = torch.tensor(ours.weight.data)
    ids = np.array([[0, 4, 4], [2, 0, 6]])
    (ours(ids) ** 2).sum().backward()
    (theirs(torch.tensor(ids)) ** 2).sum().backward()
    np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad, atol=1e-6)
    y = nn.functional.embedding(ids, ours.weight, padding_idx)
    ours.weight.grad = None
    (y**2).sum().backward()
    np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad, atol=1e-6)


@pytest.mark.parametrize("bad", [7, -8])
def test_padding_is_a_row_of_the_embedding(bad):
    with pytest.raises(ValueError, match=f"padding_idx={bad} is no row of an embedding with 7"):
        nn.Embedding(7, 3, bad)


@pytest.mark.parametrize("bad", [[-1], [7], [[0, 1], [2, 70]]])
def test_embedding_refuses_ids_out_of_range(bad):
    with pytest.raises(IndexError, match="out of range: there are 7"):
        nn.Embedding(7, 3)(np.array(bad))


def test_embedding_refuses_ids_that_are_not_integers():
    with pytest.raises(TypeError, match="integers, not float64"):
        nn.Embedding(7, 3)(np.array([1.0]))


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_gives_mean_0_and_variance_1_then_scales(xp, rng, shape, eps):
    layer = double(nn.LayerNorm(3, eps))
    layer.weight.data, layer.bias.data = rng.standard_normal(3), rng.standard_normal(3)
    x = rng.standard_normal(shape) * 3 + 5
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    expected = normed * layer.weight.data + layer.bias.data
    np.testing.assert_allclose(on(xp, layer)(as_tensor(xp, x)).numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm_gives_mean_square_1_then_scales(xp, rng, shape, eps):
    layer = double(nn.RMSNorm(3, eps))
    layer.weight.data = rng.standard_normal(3)
    x = rng.standard_normal(shape) * 3 + 5
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * layer.weight.data
    np.testing.assert_allclose(on(xp, layer)(as_tensor(xp, x)).numpy(), expected, rtol=1e-10, atol=1e-12)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


@pytest.mark.parametrize("make", WIDTH_3)
def test_gradients_are_those_of_finite_differences(rng, make):
    layer = double(make())
    x = Tensor(rng.standard_normal((2, 2, 3)), requires_grad=True)
    gradcheck(lambda x, *parameters: layer(x), [x, *layer.parameters()])


def test_dropout_in_training_zeroes_some_and_scales_the_rest(xp):
    layer = nn.Dropout(0.3)
    x = as_tensor(xp, np.full((100, 100), 2, np.float32))
    y = layer(x)
    values, counts = np.unique(y.numpy(), return_counts=True)
    np.testing.assert_allclose(values, [0, 2 / 0.7], rtol=1e-6)
    assert stats.binomtest(int(counts[0]), 10_000, 0.3).pvalue > 1e-3
    y.backward(xp.ones((100, 100), np.float32))
    np.testing.assert_allclose(Tensor(x.grad).numpy(), y.numpy() / 2, rtol=1e-6)


def test_dropout_draws_anew_each_time_and_the_same_from_the_same_seed():
    layer, x = nn.Dropout(0.5), np.ones(64, np.float32)
    manual_seed(3)
    first, second = layer(x).numpy(), layer(x).numpy()
    manual_seed(3)
    assert (first != second).any()
    np.testing.assert_array_equal(layer(x).numpy(), first)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5).eval(), nn.Dropout(0.0)], ids=["evaluation", "p=0"])
def test_dropout_that_is_off_is_the_identity(rng, layer):
    x = rng.standard_normal((5, 4))
    np.testing.assert_array_equal(layer(Tensor(x)).numpy(), x)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1, 2, float("nan")])
def test_dropout_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got"):
        nn.Dropout(p)


def pvalue(array, distribution):
    return stats.kstest(np.asarray(array, np.float64).reshape(-1), distribution).pvalue


def test_layers_start_as_they_say():
    linear, conv, embedding = nn.Linear(64, 100), nn.Conv1D(100, 64), nn.Embedding(100, 64)
    uniform = stats.uniform(-1 / 8, 2 / 8)  # ±1/√64
    assert pvalue(linear.weight.data, uniform.cdf) > 1e-3
    assert pvalue(linear.bias.data, uniform.cdf) > 1e-3
    assert pvalue(conv.weight.data, stats.norm(0, 0.02).cdf) > 1e-3
    assert pvalue(embedding.weight.data, stats.norm(0, 1).cdf) > 1e-3
    assert not conv.bias.data.any()
    norm, rms_norm = nn.LayerNorm(4), nn.RMSNorm(4)
    assert (norm.weight.data == 1).all()
    assert (norm.bias.data == 0).all()
    assert (rms_norm.weight.data == 1).all()
    assert {p.dtype for layer in (linear, conv, embedding, norm, rms_norm) for p in layer.parameters()} == {
        np.dtype("f4")
    }


def test_the_seed_decides_how_layers_start():
    def weight(seed):
        manual_seed(seed)
        return nn.Linear(4, 4).weight.data

    np.testing.assert_array_equal(weight(5), weight(5))
    assert (weight(5) != weight(6)).any()


LAYERS = [lambda: nn.Linear(64, 64), lambda: nn.Conv1D(64, 64), lambda: nn.Embedding(64, 64)]


def draws_from_the_generator(make):
    """Whether making a layer moves the library's generator on."""
    manual_seed(5)
    make()
    found = nn.Linear(4, 4).weight.data
    manual_seed(5)
    return (found != nn.Linear(4, 4).weight.data).any()


@pytest.mark.parametrize("make", LAYERS)
def test_uninitialized_layers_draw_nothing_and_have_their_shapes(make):
    def uninitialized():
        with nn.uninitialized():
            return make()

    assert draws_from_the_generator(make)
    assert not draws_from_the_generator(uninitialized)
    shapes = [{name: (p.shape, p.dtype) for name, p in layer.named_parameters()} for layer in (make(), uninitialized())]
    assert shapes[0] == shapes[1]


def test_norms_start_as_ones_also_uninitialized():
    with nn.uninitialized():
        assert (nn.RMSNorm(4).weight.data == 1).all()
        assert not nn.Conv1D(3, 4).bias.data.any()


@pytest.mark.parametrize("make", LAYERS)
def test_weightless_layers_have_their_shapes_and_no_memory(make):
    def weightless():
        with nn.weightless():
            return make()

    assert not draws_from_the_generator(weightless)
    shapes = [{name: (p.shape, p.dtype) for name, p in layer.named_parameters()} for layer in (make(), weightless())]
    assert shapes[0] == shapes[1]
    for p in weightless().parameters():
        assert set(p.data.strides) == {0}
        with pytest.raises(ValueError, match="read-only"):
            p.data += 1
    with nn.weightless():
        assert (nn.RMSNorm(4).weight.data == 1).all()


def test_after_the_block_layers_are_drawn_again():
    with nn.uninitialized():
        with nn.uninitialized():
            pass
        assert not draws_from_the_generator(lambda: nn.normal((3,), 1.0))  # the inner block's end is not the outer's
    with pytest.raises(ZeroDivisionError), nn.uninitialized():
        1 / 0  # noqa: B018
    assert draws_from_the_generator(lambda: nn.normal((3,), 1.0))


def test_uninitialized_concerns_this_thread_only():
    found = []
    with nn.uninitialized():
        thread = threading.Thread(target=lambda: found.append(nn.normal((1000,), 1.0)))
        thread.start()
        thread.join()
    assert pvalue(found[0], stats.norm(0, 1).cdf) > 1e-3


def torch_layer(layer):
    """PyTorch's layer with the same parameters."""
    import torch
    from transformers.pytorch_utils import Conv1D

    match layer:
        case nn.Linear():
            twin = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        case nn.Conv1D():
            twin = Conv1D(layer.out_features, layer.in_features)
        case nn.Embedding():
            twin = torch.nn.Embedding(layer.num_embeddings, layer.embedding_dim)
        case nn.LayerNorm():
            twin = torch.nn.LayerNorm(layer.weight.shape[0], eps=layer.eps)
        case nn.RMSNorm():
            twin = torch.nn.RMSNorm(layer.weight.shape[0], eps=layer.eps)
    first = next(layer.parameters())
    twin.to(torch.float64 if first.dtype == np.float64 else torch.float32)
    twin.load_state_dict({name: torch.tensor(array) for name, array in layer.state_dict().items()})
    return twin


@pytest.mark.parity
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(16, 24),
        lambda: nn.Linear(16, 24, bias=False),
        lambda: nn.Conv1D(24, 16),
        lambda: nn.LayerNorm(16, eps=1e-3),
        lambda: nn.RMSNorm(16, eps=1e-3),
        lambda: nn.Embedding(16, 24),
    ],
    ids=["Linear", "Linear without bias", "Conv1D", "LayerNorm", "RMSNorm", "Embedding"],
)
def test_results_and_gradients_are_pytorchs(rng, make, dtype, rtol):
    import torch

    layer = make().to(dtype=dtype)
    for p in layer.parameters():
        p.data = rng.standard_normal(p.shape).astype(dtype)
    twin = torch_layer(layer)
    if isinstance(layer, nn.Embedding):
        x = rng.integers(0, 16, (4, 9))
        ours, theirs = x, torch.tensor(x)
    else:
        x = rng.standard_normal((4, 9, 16)).astype(dtype)
        ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, expected = layer(ours), twin(theirs)
    dy = rng.standard_normal(y.shape).astype(dtype)
    y.backward(dy)
    expected.backward(torch.tensor(dy))

    def close(found, wanted):
        assert np.linalg.norm(found - wanted) <= 10 * rtol * np.linalg.norm(wanted)

    close(y.data, expected.detach().numpy())
    for name, p in twin.named_parameters():
        close(dict(layer.named_parameters())[name].grad, p.grad.numpy())
    if not isinstance(layer, nn.Embedding):
        close(ours.grad, theirs.grad.numpy())
