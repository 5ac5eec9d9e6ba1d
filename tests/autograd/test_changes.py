"""What is kept until something changes: gone after every kind of change, and after nothing else."""

import gc
import weakref

import numpy as np
import pytest

from lora_np import SGD, Tensor, no_grad
from lora_np.autograd import changes
from lora_np.autograd.in_place import outdate
from lora_np.nn import Buffer, Linear, Module, Parameter
from lora_np.nn.all_or_nothing import all_or_nothing


class Counter(Module):
    def __init__(self):
        self.steps = Buffer(np.zeros(2, np.int64))
        self.linear = Linear(3, 2)


def replaced(module):
    module.linear.weight.data = module.linear.weight.data.copy()


def stepped(module):
    module.linear.weight.grad = np.ones((2, 3), np.float32)
    SGD([module.linear.weight], lr=0.1).step()


def multiplied(module):
    with no_grad():
        module.linear.weight *= 2


def set_at(module):
    with no_grad():
        module.linear.weight[0] = 1


def loaded(module):
    module.load_state_dict({name: array + 1 for name, array in module.state_dict().items()})


def moved(module):
    module.to(np.float64)


def counted(module):
    module.steps.data = module.steps.data + 1


def given(module):
    module.linear = Linear(3, 2)


def taken(module):
    del module.linear.weight


def switched(module):
    module.eval()


def put_back(module):
    """A change that fails, so that the module is as it was."""

    @all_or_nothing
    def change(module):
        vars(module)["linear"] = None
        raise KeyError

    with pytest.raises(KeyError):
        change(module)


CHANGES = [replaced, stepped, multiplied, set_at, loaded, moved, counted, given, taken, switched, put_back]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_empties_the_memo(change):
    module = Counter()
    unchanged, memo = changes.watch(), changes.memo()
    memo[module] = "kept"
    assert unchanged()
    assert changes.memo()[module] == "kept"
    change(module)
    assert not unchanged()
    assert module not in changes.memo()
    assert changes.watch()()


@pytest.mark.parametrize("change", [stepped, multiplied, set_at], ids=lambda change: change.__name__)
def test_what_is_made_while_weights_are_written_is_not_kept(monkeypatch, change):
    """By another thread, between the word that they are written and the last number."""
    module = Counter()

    def outdate_and_read(leaves):
        outdate(leaves)
        changes.memo()[module] = "made of weights that are half written"

    monkeypatch.setattr("lora_np.autograd.in_place.outdate", outdate_and_read)
    monkeypatch.setattr("lora_np.training.optim.optimizer.outdate", outdate_and_read)
    change(module)
    assert module not in changes.memo()


def test_computing_changes_nothing():
    module = Counter()
    unchanged = changes.watch()
    y = module.linear(Tensor(np.ones((1, 3), np.float32)))
    y.sum().backward()
    assert len(list(module.named_parameters())) == 2
    module.state_dict()
    module.zero_grad()
    assert unchanged()


def test_what_was_kept_is_freed_at_once():
    owner, memo = Counter(), changes.memo()
    array = np.zeros(3)
    memo[owner], gone = [array], weakref.ref(array)
    del memo, array
    gc.disable()
    try:
        assert gone() is not None
        Parameter(np.zeros(1))
        assert gone() is None
    finally:
        gc.enable()


def test_what_is_put_into_a_memo_from_before_a_change_is_not_found():
    owner, memo = Counter(), changes.memo()
    owner.note = "a change, in another thread"
    memo[owner] = "made from what was read before"
    assert owner not in changes.memo()


def test_with_the_owner_goes_what_was_kept():
    owner = Counter()
    memo = changes.memo()
    memo[owner] = "kept"
    del owner
    gc.collect()
    assert not list(memo)
