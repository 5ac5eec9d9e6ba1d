"""Held-out loss: the mean over every target, with nothing recorded."""

import numpy as np
import pytest
from training_helpers import full, partly_labelled, text_data, tiny

import lora_np
from lora_np import (
    evaluate,
    nn,
)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 32])
def test_evaluate_is_the_mean_over_all_tokens_without_dropout(training, batch_size):
    model, windows = full().train(training), text_data().windows()[:7]
    mean = evaluate(model, windows, batch_size)
    assert all(module.training == training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    logits = model.eval()(input_ids=windows).logits.data[:, :-1].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, columns = np.indices(windows[:, 1:].shape)
    assert mean == pytest.approx(-logs[rows, columns, windows[:, 1:]].mean(), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_evaluate_weighs_each_target_the_same(batch_size):
    """Rows with few targets and with many, one with none, one whose only label is the first, which does not count."""
    model, ids = tiny(), text_data().windows()[:7]
    labels = partly_labelled(ids)
    labels[:3] = -100
    labels[1, 0], labels[2, 5] = ids[1, 0], ids[2, 5]
    logits = model.eval()(input_ids=ids).logits.data[:, :-1].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, columns = np.nonzero(labels[:, 1:] != -100)
    assert len(set(np.bincount(rows))) > 3
    expected = -logs[rows, columns, labels[rows, columns + 1]].mean()
    assert evaluate(model, (ids, labels), batch_size) == pytest.approx(expected, rel=1e-6)


def test_evaluate_records_nothing():
    class Watched(nn.Module):
        def __init__(self):
            self.model, self.recorded = tiny(), []

        def forward(self, **inputs):
            out = self.model(**inputs)
            self.recorded.append(out.loss.requires_grad)
            return out

    model = Watched()
    evaluate(model, text_data().windows()[:7], 3)
    assert model.recorded == [False] * 3
    assert lora_np.autograd.is_grad_enabled()


def test_evaluate_leaves_the_mode_after_an_error_too():
    model = tiny().train()
    with pytest.raises(IndexError, match="300"):
        evaluate(model, np.full((2, 8), 300))
    assert all(module.training for module in model.modules())


def test_evaluate_on_nothing_is_an_error():
    with pytest.raises(ValueError, match="no window"):
        evaluate(tiny(), np.zeros((0, 16), np.int64))
    with pytest.raises(ValueError, match="no label in it that counts"):
        evaluate(tiny(), (np.zeros((2, 16), np.int64), np.full((2, 16), -100)))
