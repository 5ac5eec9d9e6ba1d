"""A model that is nobody's: embeddings and linear layers in a tree of one's own, here and in PEFT, side by side."""

import numpy as np
import pytest

from lora_np import LoraConfig, PeftModel, Tensor, get_peft_model, nn
from lora_np.autograd import ops

V, C, H, OUT = 11, 6, 8, 5
SETTINGS = {
    "plain": {"target_modules": ["up", "down"]},
    "regex": {"target_modules": r"body\.(up|down)"},
    "rslora": {"target_modules": ["up"], "use_rslora": True},
    "dora": {"target_modules": ["up", "down"], "use_dora": True},
    "branch bias": {"target_modules": ["up", "down"], "lora_bias": True},
    "embedding": {"target_modules": ["embed", "down"]},
    "patterns": {"target_modules": ["up", "down"], "rank_pattern": {"up": 3}, "alpha_pattern": {"down": 1}},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["head"]},
    "biases": {"target_modules": ["up"], "bias": "all"},
    "saved module": {"target_modules": ["up"], "modules_to_save": ["head"]},
}


class Body(nn.Module):
    def __init__(self):
        self.up, self.down = nn.Linear(C, H), nn.Linear(H, C)

    def forward(self, x):
        return x + self.down(ops.tanh(self.up(x)))


class Tree(nn.Module):
    def __init__(self):
        self.embed, self.body, self.head = nn.Embedding(V, C), Body(), nn.Linear(C, OUT)

    def forward(self, ids):
        return self.head(self.body(self.embed(ids)))


def torch_tree():
    import torch

    class TorchBody(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = torch.nn.Linear(C, H), torch.nn.Linear(H, C)

        def forward(self, x):
            return x + self.down(torch.tanh(self.up(x)))

    class TorchTree(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body, self.head = torch.nn.Embedding(V, C), TorchBody(), torch.nn.Linear(C, OUT)

        def forward(self, ids):
            return self.head(self.body(self.embed(ids)))

    return TorchTree()


def fill(named, rng):
    """Random values for every parameter, drawn in the order of their names."""
    return {name: rng.standard_normal(shape) for name, shape in sorted(named.items())}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_results_and_gradients_are_those_of_peft(rng, settings, dtype, tolerance):
    import peft
    import torch

    settings = {"r": 2, "lora_alpha": 5, "init_lora_weights": False, **settings}
    ours = get_peft_model(Tree().to(dtype=np.dtype(dtype)), LoraConfig(**settings))
    theirs = peft.get_peft_model(torch_tree().to(getattr(torch, dtype)), peft.LoraConfig(**settings))
    own, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert set(own) == set(other)
    for name, values in fill({name: p.shape for name, p in own.items()}, rng).items():
        own[name].data = values.astype(dtype)
        other[name].data = torch.tensor(values.astype(dtype))
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    ids, dy = rng.integers(0, V, (3, 4)), rng.standard_normal((3, 4, OUT)).astype(dtype)
    y, expected = ours(ids), theirs(torch.tensor(ids))
    y.backward(dy)
    expected.backward(torch.tensor(dy))
    close = {"rtol": tolerance, "atol": tolerance * float(expected.detach().abs().max())}
    np.testing.assert_allclose(y.data, expected.detach().numpy(), **close)
    for name, p in own.items():
        assert (p.grad is None) == (other[name].grad is None), name
        if p.grad is not None:
            grad = other[name].grad.numpy()
            np.testing.assert_allclose(p.grad, grad, rtol=tolerance, atol=tolerance * np.abs(grad).max(), err_msg=name)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_merged_it_computes_the_same(rng, settings):
    model = get_peft_model(Tree().to(dtype=np.float64), LoraConfig(r=2, init_lora_weights=False, **settings))
    for p in model.parameters():
        p.data = rng.standard_normal(p.shape)
    ids = rng.integers(0, V, (3, 4))
    expected = model.eval()(ids).data
    merged = model.merge_and_unload()
    assert isinstance(merged, Tree)
    assert isinstance(merged(ids), Tensor)
    np.testing.assert_allclose(merged(ids).data, expected, rtol=1e-12, atol=1e-12)


class OddNames(nn.Module):
    """Its parts have the names that an adapted layer's parts have."""

    def __init__(self):
        self.lora_A, self.base_layer, self.original_module = nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, C)

    def forward(self, x):
        return self.original_module(self.base_layer(self.lora_A(x)))


@pytest.mark.parametrize("whole", ["base_layer", "original_module"])
def test_a_part_trained_whole_may_be_called_as_an_adapters_is(rng, tmp_path, whole):
    base, same = OddNames(), OddNames()
    same.load_state_dict(base.state_dict())
    config = LoraConfig(r=2, target_modules=["lora_A"], modules_to_save=[whole], init_lora_weights=False)
    model = get_peft_model(base, config)
    for p in model.parameters():
        p.data = p.data + 0.1 if p.requires_grad else p.data
    model.save_pretrained(tmp_path)
    x = rng.standard_normal((2, C)).astype(np.float32)
    np.testing.assert_array_equal(PeftModel.from_pretrained(same, tmp_path)(x).numpy(), model(x).numpy())
