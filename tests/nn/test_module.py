"""Module: names and order as in PyTorch, states that load whole or not at all, modes, moves."""

from types import SimpleNamespace

import numpy as np
import pytest
from lora_helpers import snapshot, some_ids, tiny_model

from lora_np import nn
from lora_np.autograd.devices import device_of, load_cupy


class Branch(nn.Module):
    """A parameter of its own after its parts, as PyTorch users write it."""

    def __init__(self):
        self.layers = nn.ModuleList([nn.Linear(2, 3), nn.LayerNorm(3)])
        self.gain = nn.Parameter(np.ones(3, np.float32))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.gain


class Tree(nn.Module):
    """Parts within parts, a parameter at the top, and one weight that two parts share."""

    def __init__(self):
        self.embed = nn.Embedding(5, 2)
        self.branch = Branch()
        self.scale = nn.Parameter(np.full(1, 2, np.float32))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(2, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.branch(self.drop(self.embed(ids))) * self.scale


NAMES = [
    "scale",
    "embed.weight",
    "branch.gain",
    "branch.layers.0.weight",
    "branch.layers.0.bias",
    "branch.layers.1.weight",
    "branch.layers.1.bias",
]


def torch_tree():
    import torch
    from torch import nn as tnn

    branch = tnn.Module()
    branch.layers = tnn.ModuleList([tnn.Linear(2, 3), tnn.LayerNorm(3)])
    branch.gain = tnn.Parameter(torch.ones(3))
    tree = tnn.Module()
    tree.embed, tree.branch = tnn.Embedding(5, 2), branch
    tree.scale, tree.drop, tree.head = tnn.Parameter(torch.ones(1)), tnn.Dropout(0.5), tnn.Linear(2, 5, bias=False)
    tree.head.weight = tree.embed.weight
    return tree


def test_parameters_are_named_by_the_attributes_that_hold_them():
    assert [name for name, _ in Tree().named_parameters()] == NAMES


@pytest.mark.parity
def test_names_and_their_order_are_those_of_pytorch():
    ours, theirs = Tree(), torch_tree()
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    for ours_too, theirs_too in zip(ours.named_children(), theirs.named_children(), strict=True):
        assert ours_too[0] == theirs_too[0]
    everything = [n for n, _ in theirs.named_parameters(remove_duplicate=False)]
    assert [n for n, _ in ours.named_parameters(remove_duplicate=False)] == everything


def test_a_shared_parameter_is_listed_and_counted_once():
    tree = Tree()
    assert "head.weight" not in dict(tree.named_parameters())
    assert dict(tree.named_parameters(remove_duplicate=False))["head.weight"] is tree.embed.weight
    assert tree.num_parameters() == 1 + 10 + 3 + 6 + 3 + 3 + 3
    assert "head.weight" not in tree.state_dict()


def test_only_trainable_parameters_are_counted_when_asked_for():
    tree = Tree()
    tree.branch.requires_grad_(False)
    assert tree.num_parameters(only_trainable=True) == 11
    assert tree.num_parameters() == 29


def test_submodules_by_dotted_name():
    tree = Tree()
    assert tree.get_submodule("") is tree
    assert tree.get_submodule("branch.layers.1") is tree.branch.layers[1]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("branch.layer", ["'branch.layer'", "branch has no part 'layer'", "did you mean layers?"]),
        ("branch.layers.7", ["'branch.layers.7'", "branch.layers has no part '7'", "it has 0, 1"]),
        ("limb.layers.0", ["Tree has no part 'limb'", "embed, branch, drop, head"]),
        ("embed.weight", ["embed has no part 'weight'", "it has none"]),  # a parameter is not a module
    ],
)
@pytest.mark.parametrize("action", ["get", "set"])
def test_an_unknown_submodule_is_named_with_what_there_is(name, parts, action):
    tree = Tree()
    before = snapshot(tree)
    with pytest.raises(KeyError) as error:
        tree.get_submodule(name) if action == "get" else tree.set_submodule(name, nn.Dropout(0.1))
    for part in parts:
        assert part in error.value.args[0]
    assert snapshot(tree) == before


@pytest.mark.parametrize("name", [3, None, b"a", ["a"], object()])
def test_a_name_that_is_none_is_refused(name):
    module = nn.Sequential(nn.Linear(2, 2))
    for call in (module.get_submodule, lambda name: module.set_submodule(name, nn.Linear(2, 2))):
        with pytest.raises(TypeError, match="name should be the dotted name of a module"):
            call(name)


@pytest.mark.parametrize("state", [3, None, "x", ["a"], object()])
def test_a_state_that_is_none_is_refused(state):
    with pytest.raises(TypeError, match="state_dict should be "):
        nn.Linear(2, 2).load_state_dict(state)


def test_a_replaced_submodule_keeps_its_place_in_the_order():
    tree = Tree()
    tree.set_submodule("branch.layers.0", nn.Linear(2, 3, bias=False))
    tree.set_submodule("embed", nn.Embedding(5, 2))
    assert [n for n, _ in tree.named_parameters()] == [
        *(n for n in NAMES if n != "branch.layers.0.bias"),
        "head.weight",  # the head still holds the embedding that was taken out
    ]


def test_train_and_eval_reach_every_part():
    tree = Tree()
    assert all(module.training for module in tree.modules())
    assert tree.eval() is tree
    assert not any(module.training for module in tree.modules())
    tree.branch.train()
    assert [name for name, module in tree.named_modules() if module.training] == [
        "branch",
        "branch.layers",
        "branch.layers.0",
        "branch.layers.1",
    ]
    assert tree.train(False) is tree
    assert not tree.branch.layers[0].training


def test_requires_grad_and_zero_grad_reach_every_part():
    tree, ids = Tree(), np.array([[0, 1, 4]])
    tree(ids).sum().backward()
    assert all(p.grad is not None for p in tree.parameters())
    tree.branch.requires_grad_(False)
    assert [name for name, p in tree.named_parameters() if not p.requires_grad] == NAMES[2:]
    assert all(p.grad is None for p in tree.branch.parameters())
    assert tree.embed.weight.grad is not None
    tree.zero_grad()
    assert all(p.grad is None for p in tree.parameters())
    tree.requires_grad_()
    assert all(p.requires_grad for p in tree.parameters())


def test_a_state_goes_from_one_module_to_another():
    source, target = Tree(), Tree()
    state = source.state_dict()
    assert list(state) == NAMES
    assert target.load_state_dict(state) == ([], [])
    ids = np.array([[0, 1, 4]])
    assert (source.eval()(ids).data == target.eval()(ids).data).all()
    state["scale"][:] = 7  # the source's own array, of which the target has a copy
    assert source.scale.data == 7
    assert target.scale.data == 2
    assert target.head.weight is target.embed.weight


def test_a_shared_parameter_loads_under_either_name():
    source, target = Tree(), Tree()
    state = source.state_dict()
    state["head.weight"] = state.pop("embed.weight")
    assert target.load_state_dict(state) == ([], [])
    np.testing.assert_array_equal(target.embed.weight.data, source.embed.weight.data)


def changed_state(**changes):
    """A state of new values for Tree, with entries left out (None) or changed."""
    state = {name: array + 1 for name, array in Tree().state_dict().items()}
    state.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"branch__gain": None}, KeyError, "missing branch.gain"),
        ({"bough__gain": np.ones(3)}, KeyError, "unexpected bough.gain"),
        ({"branch__gain": None, "bough__gain": np.ones(3)}, KeyError, "missing branch.gain; unexpected bough.gain"),
        ({"branch__gain": np.ones(4)}, ValueError, r"branch.gain: \(4,\) instead of \(3,\)"),
        ({"branch__gain": np.ones((3, 1))}, ValueError, r"branch.gain: \(3, 1\) instead of \(3,\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_written(changes, error, message):
    tree = Tree()
    before = snapshot(tree)
    with pytest.raises(error, match=message):
        tree.load_state_dict(changed_state(**changes))
    assert snapshot(tree) == before


def shapes_of(state):
    """Things with a shape and nothing else: a state that is still in its file."""
    return {name: SimpleNamespace(shape=array.shape) for name, array in state.items()}


def test_where_a_state_would_go_is_told_by_shapes_alone():
    tree = Tree()
    before = snapshot(tree)
    places, missing, unexpected = tree.match_state(shapes_of(tree.state_dict()))
    assert list(places) == NAMES
    assert all(places[name] is p for name, p in tree.named_parameters())
    assert (missing, unexpected) == ([], [])
    assert snapshot(tree) == before


def test_both_names_of_a_shared_parameter_have_its_place():
    tree, state = Tree(), shapes_of(changed_state())
    state["head.weight"] = state["embed.weight"]
    places, missing, _ = tree.match_state(state)
    assert places["head.weight"] is places["embed.weight"] is tree.embed.weight
    del state["embed.weight"]
    assert tree.match_state(state)[1:] == ([], [])
    assert missing == []


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_without_a_place_is_refused(strict):
    tree = Tree()
    state = shapes_of(changed_state(branch__gain=None, bough=np.ones(2)))
    if strict:
        with pytest.raises(KeyError, match=r"missing branch\.gain; unexpected bough"):
            tree.match_state(state)
    else:
        places, missing, unexpected = tree.match_state(state, strict=False)
        assert sorted(places) == sorted(set(NAMES) - {"branch.gain"})
        assert (missing, unexpected) == (["branch.gain"], ["bough"])
    with pytest.raises(ValueError, match=r"scale: \(2,\) instead of \(1,\)"):
        tree.match_state({**state, "scale": np.ones(2)}, strict)


def test_many_misfits_are_summed_up():
    with pytest.raises(KeyError, match=r"missing scale, embed.weight, .* and 2 more"):
        Tree().load_state_dict({})


def test_without_strict_the_misfits_are_returned_and_the_rest_is_loaded():
    tree = Tree()
    state = changed_state(branch__gain=None, bough=np.ones(2))
    found = tree.load_state_dict(state_dict=state, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == found == (["branch.gain"], ["bough"])
    np.testing.assert_array_equal(tree.scale.data, state["scale"])
    np.testing.assert_array_equal(tree.branch.gain.data, 1)
    with pytest.raises(ValueError, match="wrong shapes"):  # a shape is never a matter of taste
        tree.load_state_dict({"scale": np.ones(2)}, strict=False)
    with pytest.raises(TypeError, match=r"state_dict\['scale'\] should be an array or a Tensor, got a list"):
        tree.load_state_dict({"scale": [1.0]}, strict=False)


def test_a_loaded_state_takes_the_dtype_of_the_module():
    tree = Tree()
    tree.load_state_dict({name: array.astype(np.float64) for name, array in tree.state_dict().items()})
    assert {p.dtype for p in tree.parameters()} == {np.dtype(np.float32)}


def test_to_another_dtype_takes_gradients_along():
    tree, ids = Tree().eval(), np.array([[0, 1, 4]])
    tree(ids).sum().backward()
    before = {name: p.grad.copy() for name, p in tree.named_parameters()}
    assert tree.to(dtype=np.float64) is tree
    assert tree.head.weight is tree.embed.weight
    for name, p in tree.named_parameters():
        assert p.dtype == p.grad.dtype == np.float64
        np.testing.assert_array_equal(p.grad, before[name])
    assert tree(ids).dtype == np.float64


def test_to_the_device_where_it_is_changes_nothing():
    tree = Tree()
    before = {name: p.data for name, p in tree.named_parameters()}
    tree.to("cpu")
    assert all(p.data is before[name] for name, p in tree.named_parameters())
    assert tree.device == "cpu"
    assert nn.ModuleList().device == "cpu"


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        Tree().to("tpu")


def test_a_gpu_without_cupy_is_refused_with_what_to_install():
    try:
        load_cupy()
    except RuntimeError:
        with pytest.raises(RuntimeError, match=r"(?s)CuPy.*use device='cpu'"):
            Tree().to("cuda")
    else:
        pytest.skip("this machine has a GPU")


@pytest.mark.gpu
def test_to_the_gpu_and_back():
    tree, ids = Tree().eval(), np.array([[0, 1, 4]])
    expected = tree(ids)
    expected.sum().backward()
    gradients = {name: p.grad for name, p in tree.named_parameters()}
    tree.to("cuda")
    assert {p.device for p in tree.parameters()} == {"cuda:0"}
    assert {device_of(p.grad) for p in tree.parameters()} == {"cuda:0"}
    assert tree.head.weight is tree.embed.weight
    np.testing.assert_allclose(tree(ids).numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    tree.to("cpu")
    for name, p in tree.named_parameters():
        np.testing.assert_array_equal(p.grad, gradients[name])


@pytest.mark.gpu
def test_a_state_from_the_cpu_loads_into_a_module_on_the_gpu():
    source, target = Tree(), Tree().to("cuda")
    target.load_state_dict(source.state_dict())
    assert {p.device for p in target.parameters()} == {"cuda:0"}
    np.testing.assert_array_equal(target.embed.weight.numpy(), source.embed.weight.data)


def test_module_list_is_a_numbered_sequence():
    parts = [nn.Linear(1, 1), nn.Dropout(0.1), nn.LayerNorm(2)]
    modules = nn.ModuleList(parts)
    assert len(modules) == 3
    assert list(modules) == parts
    assert modules[0] is parts[0]
    assert modules[-1] is parts[2]
    assert [name for name, _ in modules.named_children()] == ["0", "1", "2"]
    with pytest.raises(IndexError):
        modules[3]


def test_module_dict_is_a_dictionary_of_modules():
    modules, first, second = nn.ModuleDict(), nn.Linear(1, 1), nn.Dropout(0.1)
    modules["first"], modules["second"] = first, second
    assert modules["first"] is first
    assert "first" in modules
    assert "third" not in modules
    assert list(modules) == ["first", "second"]
    del modules["first"]
    assert list(modules) == ["second"]
    assert len(modules) == 1
    for action in (lambda: modules["first"], lambda: modules.__delitem__("first")):
        with pytest.raises(KeyError, match="first"):
            action()
    with pytest.raises(TypeError, match="holds modules, not int"):
        modules["third"] = 3


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="ModuleList does not say how"):
        nn.ModuleList()(1)


def test_a_whole_model_keeps_its_results_through_a_state():
    source, target = tiny_model(seed=1), tiny_model(seed=2)
    ids = some_ids(source.config)
    target.load_state_dict(source.state_dict())
    assert (source(ids).logits.data == target(ids).logits.data).all()


class Counter(nn.Module):
    """A parameter, a buffer, and a part that shares the buffer."""

    def __init__(self):
        self.counts = nn.Buffer(np.arange(3, dtype=np.int8))
        self.gain = nn.Parameter(np.ones(3, np.float32))
        self.part = nn.ModuleList()
        self.part.counts = self.counts


def test_a_buffer_is_state_but_no_parameter():
    module = Counter()
    assert [name for name, _ in module.named_parameters()] == ["gain"]
    assert [name for name, _ in module.named_buffers()] == ["counts"]
    assert [name for name, _ in module.named_buffers(remove_duplicate=False)] == ["counts", "part.counts"]
    assert list(module.buffers()) == [module.counts]
    assert list(module.state_dict()) == ["counts", "gain"]
    assert module.num_parameters() == 3
    assert not module.requires_grad_().counts.requires_grad


def test_a_buffer_keeps_its_dtype_and_takes_no_other():
    module = Counter().to(dtype=np.float64)
    assert (module.counts.dtype, module.gain.dtype) == (np.int8, np.float64)
    state = {"part.counts": np.full(3, 5, np.int8), "gain": np.ones(3)}
    assert module.load_state_dict(state) == ([], [])
    assert module.counts.data.tolist() == [5, 5, 5]
    with pytest.raises(ValueError, match="counts: float32 instead of int8"):
        module.load_state_dict({"counts": np.ones(3, np.float32)}, strict=False)
    with pytest.raises(KeyError, match="missing counts"):
        module.load_state_dict({"gain": np.ones(3)})
    assert module.counts.data.tolist() == [5, 5, 5]


def test_a_parameter_by_its_dotted_name():
    tree = Tree()
    assert tree.get_parameter("embed.weight") is tree.embed.weight
    with pytest.raises(KeyError, match=r"no parameter 'embed.wieght': embed has no parameter .*did you mean weight"):
        tree.get_parameter("embed.wieght")
    with pytest.raises(KeyError, match="no module 'body'"):
        tree.get_parameter("body.weight")


def test_parts_that_are_registered_by_name():
    made = nn.Module()
    made.register_parameter("scale", nn.Parameter(np.ones(2)))
    made.register_parameter("bias", None)
    made.register_buffer("codes", np.zeros(3, np.uint8))
    made.add_module("inner", nn.Linear(1, 1, bias=False))
    made.register_module("other", nn.Dropout(0.1))
    assert list(made.state_dict()) == ["scale", "codes", "inner.weight"]
    assert list(made.children()) == [made.inner, made.other]
    assert made.bias is None
    with pytest.raises(NotImplementedError, match="buffer 'mask': every buffer is saved here"):
        made.register_buffer("mask", np.zeros(3), persistent=False)


def test_a_function_is_applied_from_the_lowest_up():
    seen, tree = [], nn.ModuleList([nn.ModuleList([nn.Dropout(0.1)])])
    assert tree.apply(seen.append) is tree
    assert seen == [tree[0][0], tree[0], tree]


def test_gradients_can_be_made_zero():
    tree, ids = Tree().eval(), np.array([[0, 1, 4]])
    tree(ids).sum().backward()
    tree.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in tree.parameters() if p.grad is not None)
    assert tree.embed.weight.grad is not None
    tree.zero_grad()
    assert tree.embed.weight.grad is None
