"""A module as it was at one moment: the same numbers, its own settings."""

import numpy as np
from helpers import assert_close
from lora_helpers import peft_model, some_ids, tiny_llama

from lora_np import nn, no_grad
from lora_np.autograd import Tensor
from lora_np.nn.stand_in import stand_in


class Everything(nn.Module):
    """A module that holds others in each way."""

    def __init__(self):
        self.layer = nn.Linear(3, 3)
        self.tied = self.layer
        self.listed, self.named, self.pair = [nn.Linear(3, 3)], {"a": nn.Linear(3, 3)}, (nn.Linear(3, 3), 2.0)
        self.scale, self.used, self.parent = nn.Parameter(np.ones(3, np.float32)), ["a"], self

    def forward(self, x):
        for layer in (self.layer, self.tied, *self.listed, self.pair[0], *(self.named[name] for name in self.used)):
            x = layer(x) * self.scale * self.pair[1]
        return x


def test_it_computes_the_same_with_the_same_memory():
    model = tiny_llama()
    other, leaves = stand_in(model)
    ids = some_ids(model.config)
    np.testing.assert_array_equal(other(ids).logits.data, model(ids).logits.data)
    assert [own.data is leaf.data for leaf, own in leaves.values()] == [True] * len(list(model.parameters()))
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert not {id(module) for module in other.modules()} & {id(module) for module in model.modules()}


def test_modules_are_its_own_wherever_they_are_held(rng):
    module, x = Everything(), Tensor(rng.standard_normal((2, 3)).astype(np.float32))
    expected = module(x).data
    other, _ = stand_in(module)
    assert other.tied is other.layer
    assert other.parent is other
    module.used.append("a")
    module.listed.append(nn.Linear(3, 3))
    module.pair[0].weight = nn.Parameter(np.zeros((3, 3)))
    module.named["a"].bias.data = module.named["a"].bias.data + 1
    module.layer.weight.data = module.layer.weight.data * 2
    assert (module(x).data != expected).any()
    np.testing.assert_array_equal(other(x).data, expected)


def test_leaves_are_paired_and_trained_alike():
    model = peft_model()
    other, leaves = stand_in(model)
    theirs = dict(other.named_parameters())
    for name, p in model.named_parameters():
        assert leaves[id(p)][0] is p
        assert leaves[id(p)][1] is theirs[name]
        assert p.requires_grad == theirs[name].requires_grad
    model.requires_grad_(False)
    assert any(p.requires_grad for p in theirs.values())


def test_a_result_that_a_module_keeps_stays_in_its_graph():
    module, w = nn.Module(), Tensor(np.ones(3), requires_grad=True)
    module.kept = w * 2.0
    other, leaves = stand_in(module)
    assert other.kept is module.kept
    assert not leaves
    with no_grad():
        module.kept = w * 2.0
    assert len(stand_in(module)[1]) == 1
    assert_close(stand_in(module)[0].kept, module.kept.data)
