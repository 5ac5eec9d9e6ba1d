import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises import layer_norm as topic
from lora_course.exercises.checking import finite_differences
from lora_course.exercises.layer_norm import check


def normed(x, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def no_eps(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * weight + bias


def eps_outside(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + eps) * weight + bias


def own_eps(x, weight, bias, eps):
    return normed(x, 1e-5) * weight + bias


def sample_variance(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True, ddof=1) + eps) * weight + bias


def first_axis(x, weight, bias, eps):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + eps) * weight + bias


def everything(x, weight, bias, eps):
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


def no_root(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / (x.var(-1, keepdims=True) + eps) * weight + bias


def not_centred(x, weight, bias, eps):
    return x / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def only_centred(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) * weight + bias


def plain(x, weight, bias, eps):
    return normed(x, eps)


def no_weight(x, weight, bias, eps):
    return normed(x, eps) + bias


def no_bias(x, weight, bias, eps):
    return normed(x, eps) * weight


def bias_first(x, weight, bias, eps):
    return (normed(x, eps) + bias) * weight


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (no_eps, "eps is missing"),
        (eps_outside, "belongs under it"),
        (own_eps, "use the argument eps"),
        (sample_variance, "ddof=1"),
        (first_axis, "down the first axis"),
        (everything, "whole array"),
        (no_root, "root is missing"),
        (not_centred, "mean is not subtracted"),
        (only_centred, "not yet divided"),
        (plain, "weight and bias are missing"),
        (no_weight, "the weight is missing"),
        (no_bias, "the bias is missing"),
        (bias_first, "added after the weight"),
    ],
)
def test_usual_mistakes_in_the_forward_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "layer_norm", capsys)


def backward(dx=None, dweight=None, dbias=None):
    """A backward with one result made by a student's wrong formula."""

    def wrong(dy, x, weight, eps):
        n, sigma, C = normed(x, eps), np.sqrt(x.var(-1, keepdims=True) + eps), x.shape[-1]
        g = dy * weight
        results = [
            (g - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True)) / sigma,
            (dy * n).reshape(-1, C).sum(0),
            dy.reshape(-1, C).sum(0),
        ]
        for i, make in enumerate((dx, dweight, dbias)):
            if make:
                results[i] = make(dy, x, weight, n, sigma, g)
        return tuple(results)

    return wrong


@pytest.mark.parametrize(
    ("dx", "hint"),
    [
        (lambda dy, x, w, n, s, g: g / s, "takes μ and σ for constants"),
        (
            lambda dy, x, w, n, s, g: (g - g.mean() - n * (g * n).mean(-1, keepdims=True)) / s,
            r"mean\(g\) is taken over",
        ),
        (lambda dy, x, w, n, s, g: (g - g.mean(-1, keepdims=True) - n * (g * n).mean()) / s, "x̂\\) is taken over all"),
        (
            lambda dy, x, w, n, s, g: g / s - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True),
            "only the first term is divided",
        ),
        (lambda dy, x, w, n, s, g: (g - n * (g * n).mean(-1, keepdims=True)) / s, r"mean\(g\) is missing"),
        (lambda dy, x, w, n, s, g: (g - g.mean(-1, keepdims=True)) / s, "term with x̂ is missing"),
        (
            lambda dy, x, w, n, s, g: (dy - dy.mean(-1, keepdims=True) - n * (dy * n).mean(-1, keepdims=True)) / s,
            "the weight is missing",
        ),
        (
            lambda dy, x, w, n, s, g: g - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True),
            "division by σ is missing",
        ),
        (
            lambda dy, x, w, n, s, g: (g - g.sum(-1, keepdims=True) - n * (g * n).sum(-1, keepdims=True)) / s,
            "sums stand where means should",
        ),
        (lambda dy, x, w, n, s, g: (g - g.mean() - n * (g * n).mean()) / s, "over all rows"),
        (
            lambda dy, x, w, n, s, g: (g - g.mean(-1, keepdims=True) - (g * n).mean(-1, keepdims=True)) / s,
            "multiplied by x̂",
        ),
    ],
)
def test_usual_mistakes_in_dx_are_named(dx, hint, capsys):
    assert_told(check, backward(dx=dx), hint, "layer_norm_backward", capsys)


@pytest.mark.parametrize(
    ("dweight", "hint"),
    [
        (lambda dy, x, w, n, s, g: (dy * x).reshape(-1, len(w)).sum(0), "it should be x̂"),
        (lambda dy, x, w, n, s, g: (dy * n).sum(0), "weight serves all rows"),
        (lambda dy, x, w, n, s, g: (dy * n).reshape(-1, len(w)).mean(0), "dweight is a mean"),
        (lambda dy, x, w, n, s, g: (g * n).reshape(-1, len(w)).sum(0), "dweight has the weight in it"),
    ],
)
def test_usual_mistakes_in_dweight_are_named(dweight, hint, capsys):
    assert_told(check, backward(dweight=dweight), hint, "layer_norm_backward", capsys)


@pytest.mark.parametrize(
    ("dbias", "hint"),
    [
        (lambda dy, x, w, n, s, g: dy.sum(0), "dbias is summed over all leading axes"),
        (lambda dy, x, w, n, s, g: dy.reshape(-1, len(w)).mean(0), "dbias is a mean"),
        (lambda dy, x, w, n, s, g: g.reshape(-1, len(w)).sum(0), "dbias has the weight in it"),
    ],
)
def test_usual_mistakes_in_dbias_are_named(dbias, hint, capsys):
    assert_told(check, backward(dbias=dbias), hint, "layer_norm_backward", capsys)


def test_the_reference_s_gradient_of_the_bias():
    """The check differentiates by x and weight; a backward's arguments do not include the bias."""
    case, given = topic.cases()[0], topic.backward_cases()[0]
    expected = finite_differences(topic.layer_norm, case, "bias", given["dy"])
    np.testing.assert_allclose(topic.layer_norm_backward(*given.values())[2], expected, atol=1e-8)


def test_exchanged_results_are_named(capsys):
    def exchanged(dy, x, weight, eps):
        dx, dweight, dbias = topic.layer_norm_backward(dy, x, weight, eps)
        return dx, dbias, dweight

    assert_told(check, exchanged, "have changed places", "layer_norm_backward", capsys)
