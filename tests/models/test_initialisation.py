"""How weights are drawn: by the kind of their layer, shared ones once."""

import numpy as np

from lora_np import manual_seed, nn
from lora_np.models.initialisation import init_weights


class Tree(nn.Module):
    """Every kind of layer, under names that say nothing."""

    def __init__(self):
        self.first = nn.Embedding(40, 30)
        self.second = nn.Linear(30, 50)
        self.third = nn.Conv1D(50, 30)
        self.fourth = nn.LayerNorm(30)
        self.fifth = nn.RMSNorm(30)
        self.last = nn.Linear(30, 40, bias=False)
        self.last.weight = self.first.weight


def test_linear_layers_and_embeddings_are_drawn_and_norms_stay():
    tree = Tree()
    init_weights(tree, 0.1, {tree.third: 0.01})
    stds = [tree.first.weight.data.std(), tree.second.weight.data.std(), tree.third.weight.data.std()]
    np.testing.assert_allclose(stds, [0.1, 0.1, 0.01], rtol=0.1)
    assert not tree.second.bias.data.any()
    assert not tree.third.bias.data.any()
    assert (tree.fourth.weight.data == 1).all()
    assert (tree.fifth.weight.data == 1).all()


def test_a_shared_weight_is_drawn_once():
    tree = Tree()
    manual_seed(1)
    init_weights(tree, 0.1)
    manual_seed(1)
    expected = [nn.normal(layer.weight.shape, 0.1) for layer in (tree.first, tree.second, tree.third)]
    for layer, weight in zip((tree.first, tree.second, tree.third), expected, strict=True):
        np.testing.assert_array_equal(layer.weight.data, weight)
    assert tree.last.weight is tree.first.weight
