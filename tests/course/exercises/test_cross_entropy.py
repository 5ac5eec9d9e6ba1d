import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises.cross_entropy import check


def softmax(logits, axis=1):
    e = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def onehot(logits, targets):
    return (np.arange(logits.shape[1]) == targets[:, None]).astype(float)


def at(p, targets):
    return np.array([row[c] for row, c in zip(p, targets, strict=True)])


def right_gradient(logits, targets):
    return (softmax(logits) - onehot(logits, targets)) / len(targets)


def right_loss(logits, targets):
    return -np.log(at(softmax(logits), targets)).mean()


def summed(logits, targets):
    return -np.log(at(softmax(logits), targets)).sum(), softmax(logits) - onehot(logits, targets)


def down_the_columns(logits, targets):
    p = softmax(logits, axis=0)
    return -np.log(at(p, targets)).mean(), (p - onehot(logits, targets)) / len(targets)


def one_each(logits, targets):
    return -np.log(at(softmax(logits), targets)), right_gradient(logits, targets)


def positive_log(logits, targets):
    return np.log(at(softmax(logits), targets)).mean(), right_gradient(logits, targets)


def no_log(logits, targets):
    return -at(softmax(logits), targets).mean(), right_gradient(logits, targets)


def in_bits(logits, targets):
    return -np.log2(at(softmax(logits), targets)).mean(), right_gradient(logits, targets)


def mean_of_everything(logits, targets):
    return -(onehot(logits, targets) * np.log(softmax(logits))).mean(), right_gradient(logits, targets)


def logit_alone(logits, targets):
    return -at(logits, targets).mean(), right_gradient(logits, targets)


def logit_added(logits, targets):
    return (np.log(np.exp(logits).sum(axis=1)) + at(logits, targets)).mean(), right_gradient(logits, targets)


def gradient_of_the_sum(logits, targets):
    return right_loss(logits, targets), softmax(logits) - onehot(logits, targets)


def true_minus_predicted(logits, targets):
    return right_loss(logits, targets), -right_gradient(logits, targets)


def probabilities(logits, targets):
    return right_loss(logits, targets), softmax(logits) / len(targets)


def subtracted_late(logits, targets):
    return right_loss(logits, targets), softmax(logits) / len(targets) - onehot(logits, targets)


def divided_by_all(logits, targets):
    return right_loss(logits, targets), (softmax(logits) - onehot(logits, targets)) / logits.size


def overflowing(logits, targets):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(at(p, targets)).mean(), (p - onehot(logits, targets)) / len(targets)


def log_of_a_probability(logits, targets):
    return -np.log(at(softmax(logits), targets)).mean(), right_gradient(logits, targets)


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (summed, "sum over the rows"),
        (down_the_columns, "axis=1"),
        (one_each, "take their mean"),
        (positive_log, "minus the logarithm"),
        (no_log, "logarithm is missing"),
        (in_bits, "natural logarithm"),
        (mean_of_everything, "only the N rows"),
        (logit_alone, "is no probability"),
        (logit_added, "has to be subtracted"),
        (gradient_of_the_sum, "not divided by N"),
        (true_minus_predicted, "predicted minus true"),
        (probabilities, "still to be subtracted"),
        (subtracted_late, "subtract first"),
        (divided_by_all, "divided by N·V"),
        (overflowing, "e\\^1000 overflows"),
        (log_of_a_probability, "may round to 0"),
    ],
)
def test_usual_mistakes_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "cross_entropy", capsys)


def test_a_gradient_that_is_wrong_for_large_logits_only(capsys):
    def careless(logits, targets):
        z = logits - logits.max(axis=1, keepdims=True)
        loss = (np.log(np.exp(z).sum(axis=1)) - at(z, targets)).mean()
        return loss, right_gradient(np.clip(logits, -20, 20), targets)

    assert_told(check, careless, "gradient is not for large ones", "cross_entropy", capsys)


def one_term_shifted(logits, targets):
    z = logits - logits.max(axis=1, keepdims=True)
    return (np.log(np.exp(z).sum(axis=1)) - at(logits, targets)).mean(), right_gradient(logits, targets)


def other_term_shifted(logits, targets):
    z = logits - logits.max(axis=1, keepdims=True)
    return (np.log(np.exp(logits).sum(axis=1)) - at(z, targets)).mean(), right_gradient(logits, targets)


def columns_for_entries(logits, targets):
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[:, targets]), right_gradient(logits, targets)


def one_off_in_columns(logits, targets):
    dlogits = softmax(logits)
    dlogits[:, targets] -= 1
    return right_loss(logits, targets), dlogits / len(targets)


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (one_term_shifted, "and not from z\\[target\\]"),
        (other_term_shifted, "and not in ln Σ e\\^z"),
        (columns_for_entries, "takes whole columns"),
        (one_off_in_columns, "subtracted in whole columns"),
    ],
)
def test_a_wrong_shift_and_a_wrong_index_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "cross_entropy", capsys)
