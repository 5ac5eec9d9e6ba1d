"""The output of a language model: labels shifted, logits made when asked for."""

from contextlib import nullcontext

import numpy as np
import pytest
from lora_helpers import some_ids, tiny_model

from lora_np import SGD, Tensor, nn, no_grad
from lora_np.models.output import CausalLMOutput, shift_labels


def hidden_and_head(rng, bias):
    head = nn.Linear(4, 6, bias=bias).to(dtype=np.float64)
    return Tensor(rng.standard_normal((2, 3, 4)), requires_grad=True), head


def test_each_position_is_judged_by_the_next_label():
    labels = [[5, 6, 7, 8], [1, -100, 2, -100]]
    np.testing.assert_array_equal(shift_labels(labels, (2, 4)), [[6, 7, 8, -100], [-100, 2, -100, -100]])
    assert shift_labels(np.array(labels, np.int8), (2, 4)).dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "shape", "message"),
    [
        ([[1, 2]], (2, 1), r"labels of shape \(1, 2\) do not fit input_ids of shape \(2, 1\)"),
        ([1, 2], (1, 2), r"labels of shape \(2,\)"),
        ([[1], [2]], (2, 1), "at least two tokens"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, shape, message):
    with pytest.raises(ValueError, match=message):
        shift_labels(labels, shape)


@pytest.mark.parametrize("kind", [float, bool, np.float16, object, str])
def test_labels_are_integers(kind):
    """Others would be rounded in silence; torch refuses them as well."""
    with pytest.raises(TypeError, match="labels are token ids, integers, not"):
        shift_labels(np.ones((1, 3)).astype(kind), (1, 3))


@pytest.mark.parametrize("bias", [False, True], ids=["loss without logits", "loss from logits"])
def test_loss_and_gradients_by_formula(rng, bias):
    hidden, head = hidden_and_head(rng, bias)
    targets = np.array([[1, 5, -100], [0, -100, 2]])
    CausalLMOutput(hidden, head, targets).loss.backward()
    counted = targets != -100
    z = hidden.data @ head.weight.data.T + (head.bias.data if bias else 0)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    dz = (p - np.eye(6)[np.where(counted, targets, 0)]) * counted[..., None] / counted.sum()
    expected = -np.log(np.take_along_axis(p, np.where(counted, targets, 0)[..., None], -1))[counted].mean()
    assert abs(CausalLMOutput(hidden, head, targets).loss.item() - expected) < 1e-12
    np.testing.assert_allclose(hidden.grad, dz @ head.weight.data, atol=1e-13)
    np.testing.assert_allclose(head.weight.grad, np.einsum("btv,btc->vc", dz, hidden.data), atol=1e-13)
    if bias:
        np.testing.assert_allclose(head.bias.grad, dz.sum((0, 1)), atol=1e-13)


def test_logits_are_made_once_and_carry_gradients(rng):
    hidden, head = hidden_and_head(rng, bias=False)
    out = CausalLMOutput(hidden, head)
    assert out.loss is None
    np.testing.assert_allclose(out.logits.data, hidden.data @ head.weight.data.T)
    assert out.logits is out.logits
    out.logits.sum().backward()
    assert hidden.grad is not None
    assert head.weight.grad is not None


@pytest.mark.parametrize("targets", [None, [[1, 2, 3], [4, 5, 0]]], ids=["without labels", "with labels"])
def test_logits_of_a_model_called_without_gradients_need_none(rng, targets):
    hidden, head = hidden_and_head(rng, bias=False)
    with no_grad():
        out = CausalLMOutput(hidden, head, targets)
    assert not out.logits.requires_grad  # also when they are made only now, outside the block


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("change", ["step", "replaced", "another's step"])
def test_logits_asked_for_once_the_head_has_changed_are_refused(change, recorded):
    model = tiny_model()
    ids = some_ids(model.config)
    model(input_ids=ids, labels=ids).loss.backward()
    with nullcontext() if recorded else no_grad():
        out, asked = (model(input_ids=ids, labels=ids) for _ in range(2))
    expected = asked.logits.data
    head = model.lm_head.weight
    if change == "replaced":
        head.data = head.data * 2
    else:
        SGD([head] if change == "step" else [model.transformer.ln_f.weight], lr=0.1).step()
    assert asked.logits.data is expected
    if change == "another's step":
        np.testing.assert_array_equal(out.logits.data, expected)
    else:
        with pytest.raises(RuntimeError, match=r"head's weights have changed .* ask for .logits before"):
            out.logits  # noqa: B018


@pytest.mark.parametrize("checkpointing", [False, True])
def test_ids_and_positions_that_are_written_over_later_change_no_gradient(checkpointing):
    """A buffer that the next batch is read into."""
    model = tiny_model()
    model.gradient_checkpointing = checkpointing
    ids, positions = some_ids(model.config), np.arange(9)[None].repeat(2, axis=0)
    found = []
    for overwrite in (False, True):
        given = [ids.copy(), ids.copy(), np.ones_like(ids), positions.copy()]
        model.zero_grad()
        loss = model(*given).loss
        for array in given if overwrite else ():
            array[...] = 0
        loss.backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
