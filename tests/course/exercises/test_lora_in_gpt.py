import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course import lora_linear
from lora_course.engine import Array
from lora_course.exercises import lora_in_gpt as exercise
from lora_course.exercises.lora_in_gpt import LoRALinear, check
from lora_course.transformer import Linear
from lora_np.autograd.fused import lora_linear_backward, lora_linear_forward


@pytest.mark.parametrize("case", exercise.layer_cases(), ids=lambda case: str(case["base"].weight.value.shape))
def test_the_reference_computes_what_the_library_does(case):
    """Output and gradients are those of the library's fused operation, for which they were derived by hand."""
    base, r, alpha, _ = case.values()
    _, y, dA, dB, dx = exercise.use_layer(LoRALinear, *case.values())
    own = np.random.default_rng(2)
    x, A = own.standard_normal((2, 4, len(base.weight.value))), own.standard_normal(dA.shape)
    B, dy = own.standard_normal(dB.shape), own.standard_normal(y.shape)
    weight, bias, needs = base.weight.value.T, base.bias.value, (True, False, False, True, True)
    expected, cache = lora_linear_forward(x, weight, bias, A, B, alpha / r, needs=needs)
    gx, _, _, gA, gB = lora_linear_backward(dy, cache)
    for found, right in [(y, expected), (dx, gx), (dA, gA), (dB, gB)]:
        np.testing.assert_allclose(found, right, atol=1e-12)


def test_the_course_s_own_layer_is_right(capsys):
    """The one that notebook 04 builds is an answer to this exercise."""
    assert check(lora_linear.LoRALinear) is lora_linear.LoRALinear


def test_merged_computes_what_the_layer_does():
    layer = exercise.merged_cases()[0]["layer"]
    x = Array(np.random.default_rng(0).standard_normal((3, 5)))
    np.testing.assert_allclose(exercise.merged(layer)(x).value, layer(x).value, atol=1e-12)


class NumPyInside(LoRALinear):
    """Right values, and no gradient: it computes with NumPy and wraps the result."""

    def __call__(self, x):
        y = x.value @ self.base.weight.value + self.base.bias.value + self.s * x.value @ self.A.value.T @ self.B.value.T
        return Array(y)


class TrainsTheBase(LoRALinear):
    def __init__(self, base, *rest):
        super().__init__(base, *rest)
        self.base = Linear(Array(base.weight.value, trained=True), base.bias)


class StartsNormal(LoRALinear):
    def __init__(self, base, r, alpha, rng):
        super().__init__(base, r, alpha, rng)
        self.A.value = rng.standard_normal(self.A.value.shape) / 20


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (NumPyInside, "remembers nothing"),
        (TrainsTheBase, "keep the base layer itself"),
        (StartsNormal, "uniform|up to"),
    ],
)
def test_further_mistakes_in_the_layer_are_told(mistake, hint, capsys):
    assert_told(check, mistake, hint, "LoRALinear", capsys)


def test_a_layer_without_a_call_is_told_in_python_s_words(capsys):
    class LoRALinear:
        def __init__(self, base, r, alpha, rng):
            pass

    with pytest.raises(TypeError, match="not callable"):
        check(LoRALinear)


def test_numpy_arrays_in_the_place_of_arrays_are_named(capsys):
    class LoRALinear:
        def __init__(self, base, r, alpha, rng):
            self.base, self.A = base, rng.standard_normal((r, 4))

        def __call__(self, x):
            return x @ self.A

    with pytest.raises(AttributeError, match="value"):
        check(LoRALinear)
    out = capsys.readouterr().out
    assert "x @ self.A" in out
    assert "NumPy array stands where the engine's Array should" in out
