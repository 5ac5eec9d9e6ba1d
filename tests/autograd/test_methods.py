"""What a Tensor is asked as torch's users ask it: attributes, in-place operators, and that nothing is half there."""

import numpy as np
import pytest
from helpers import assert_close

from lora_np import SGD, no_grad
from lora_np.autograd import Tensor, methods


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True)


def test_how_large_it_is():
    x = Tensor(np.zeros((2, 3), np.float32))
    assert (x.numel(), x.nelement()) == (6, 6)
    assert (x.dim(), x.ndim, x.ndimension(), len(x), x.element_size(), x.nbytes) == (2, 2, 2, 2, 4, 24)
    assert (x.is_cuda, x.is_floating_point(), Tensor([1]).is_floating_point()) == (False, True, False)


def test_leaves():
    x = leaf(1.0)
    assert x.is_leaf
    assert not (x * 2).is_leaf
    assert (x * 2).detach().is_leaf
    assert x.requires_grad_(False) is x
    assert (x * 2).is_leaf
    with pytest.raises(RuntimeError, match="requires_grad is set on leaves"):
        (leaf(1.0) * 2).requires_grad_(False)
    with pytest.raises(TypeError, match="only floating-point"):
        Tensor([1]).requires_grad_()


class TestInPlace:
    @pytest.mark.parametrize("change", ["p -= 0.1 * p.grad", "p += -0.1 * p.grad", "p -= Tensor(0.1 * p.grad)"])
    def test_a_step_by_hand_changes_the_weight(self, change):
        p = leaf(1.0, 2.0)
        array, given = p.data, {"p": p, "Tensor": Tensor}
        (p**2).sum().backward()
        with no_grad():
            exec(change, given)
        assert given["p"] is p
        assert p.data is array
        assert_close(p, np.array([0.8, 1.6]))
        assert p.requires_grad

    def test_so_do_other_operators_and_assignment(self):
        p = leaf(1.0, 2.0)
        with no_grad():
            p *= 3
            p /= 2
            p[0] = 7
            p[Tensor([False, True])] = 8
        assert_close(p, np.array([7.0, 8.0]))

    def test_outside_of_no_grad_a_leaf_is_refused(self):
        p = leaf(1.0)
        with pytest.raises(RuntimeError, match="would change a tensor that requires a gradient"):
            p -= 1
        with pytest.raises(RuntimeError, match="would change a tensor that requires a gradient"):
            p[0] = 1
        assert p.tolist() == [1.0]

    def test_a_sum_that_is_added_up_has_its_gradient(self):
        x, total = leaf(1.0, 2.0), Tensor(0.0)
        for i in range(3):
            total += (x * i).sum()
        total.backward()
        assert_close(x.grad, np.array([3.0, 3.0]))

    def test_graphs_from_before_are_refused(self):
        x, w = leaf(1.0), leaf(2.0)
        loss = (x * w).sum()
        with no_grad():
            w -= 1
        with pytest.raises(RuntimeError, match="used weights that have changed"):
            loss.backward()

    def test_labels_are_masked(self):
        ids = Tensor([[5, 6, 0, 0]])
        labels = ids.clone()
        labels[labels == 0] = -100
        labels[:, 0] = -100
        assert (labels.tolist(), ids.tolist()) == ([[-100, 6, -100, -100]], [[5, 6, 0, 0]])

    def test_a_gradient_cannot_go_through_an_assignment(self):
        y = leaf(1.0, 2.0) * 2
        with pytest.raises(RuntimeError, match="cannot pass a gradient on"):
            y[0] = 1
        with pytest.raises(RuntimeError, match="cannot pass a gradient on"):
            Tensor([0.0])[0] = leaf(1.0)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda x: x.add_(2), [3.0, 4.0]),
            (lambda x: x.sub_(Tensor(np.array([1.0, 0.0]))), [0.0, 2.0]),
            (lambda x: x.mul_(3), [3.0, 6.0]),
            (lambda x: x.div_(2), [0.5, 1.0]),
            (lambda x: x.clamp_(max=1.5), [1.0, 1.5]),
            (lambda x: x.masked_fill_(x > 1, -7.0), [1.0, -7.0]),
            (lambda x: x.copy_(Tensor([5, 6])), [5.0, 6.0]),
            (lambda x: x.copy_(Tensor(8.0)), [8.0, 8.0]),
            (lambda x: x.fill_(4), [4.0, 4.0]),
            (lambda x: x.zero_(), [0.0, 0.0]),
        ],
    )
    def test_methods_that_end_in_a_bar_write(self, change, expected):
        x, p = Tensor(np.array([1.0, 2.0])), leaf(1.0, 2.0)
        array = x.data
        assert change(x) is x
        assert x.data is array
        assert x.tolist() == expected
        with pytest.raises(RuntimeError, match="methods that end in _ write into a tensor, and pass no gradient on"):
            change(p)
        with no_grad():
            assert change(p).tolist() == expected

    def test_what_does_not_fit_is_not_written(self):
        x, ids = Tensor([1.0, 2.0]), Tensor([1, 2])
        with pytest.raises(ValueError, match=r"values of shape \(3, 2\) cannot be written into .* shape \(2,\)"):
            x += Tensor(np.ones((3, 2), np.float32))
        with pytest.raises(TypeError, match=r"float32 numbers cannot be written into a tensor of int64: use"):
            ids /= 2
        assert (x.tolist(), ids.tolist()) == ([1, 2], [1, 2])

    def test_another_name_of_the_tensor_sees_the_change(self):
        x = y = Tensor([1.0])
        x += 1
        assert y.tolist() == [2.0]

    def test_as_sgd_does(self):
        p, q = leaf(1.0, -2.0), leaf(1.0, -2.0)
        optimizer = SGD([q], lr=0.1)
        for _ in range(3):
            for x in (p, q):
                x.grad = None
                (x**2).sum().backward()
            optimizer.step()
            with no_grad():
                p -= 0.1 * p.grad
        assert_close(p, q.data)


@pytest.mark.parity
def test_every_method_has_its_name_in_torch():
    import torch

    ours = {"astype", "element_size", "contains"}
    for table in (methods.OPERATORS, methods.AS_PYTHON, methods.MATHEMATICS, methods.SHAPES, methods.KINDS):
        for names, meaning in table.items():
            for name in names.split():
                assert hasattr(torch.Tensor, name) or name in ours, name
                assert isinstance(meaning, property) or callable(meaning)


@pytest.mark.parity
def test_a_reduction_like_torch(rng):
    import torch

    a = rng.standard_normal((2, 3, 4))
    for ask in (
        lambda x: x.sum(1),
        lambda x: x.sum(dim=(0, 2), keepdim=True),
        lambda x: x.mean(-1, True),
        lambda x: x.mean([0, 1]),
        lambda x: x.amax(dim=0),
    ):
        assert_close(ask(Tensor(a)), ask(torch.tensor(a)).numpy())
