import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises import merge as exercise
from lora_course.exercises.merge import check
from lora_np import nn
from lora_np.lora import LoraConfig, LoraLinear


def never_transposed(W, A, B, alpha, conv1d):
    return W + alpha / len(A) * (B @ A)


def always_transposed(W, A, B, alpha, conv1d):
    return W + alpha / len(A) * (B @ A).T


def alpha_forgotten(W, A, B, alpha, conv1d):
    return W + (B @ A).T if conv1d else W + B @ A


def alpha_alone(W, A, B, alpha, conv1d):
    return W + alpha * (B @ A).T if conv1d else W + alpha * B @ A


def outputs_for_rank(W, A, B, alpha, conv1d):
    delta = alpha / len(B) * (B @ A)
    return W + (delta.T if conv1d else delta)


def update_alone(W, A, B, alpha, conv1d):
    delta = alpha / len(A) * (B @ A)
    return delta.T if conv1d else delta


def in_place(W, A, B, alpha, conv1d):
    delta = alpha / len(A) * (B @ A)
    W += delta.T if conv1d else delta
    return W


def right_for_square_only(W, A, B, alpha, conv1d):
    delta = alpha / len(A) * (B @ A)
    return W + (delta.T if conv1d and W.shape[0] == W.shape[1] else np.resize(delta, W.shape))


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (never_transposed, "not transposed"),
        (alpha_forgotten, "alpha / r is missing"),
        (alpha_alone, "not divided by the rank"),
        (outputs_for_rank, "number of outputs"),
        (update_alone, "update alone"),
        (in_place, "changed its argument `W`"),
        (right_for_square_only, "4 inputs and 9 outputs"),
    ],
)
def test_usual_mistakes_of_merge_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "merge", capsys)


def test_a_transpose_everywhere_stops_at_its_line(capsys):
    def merge(W, A, B, alpha, conv1d):
        return W + alpha / len(A) * (B @ A).T

    with pytest.raises(ValueError, match="broadcast"):
        check(merge)
    assert "(B @ A).T" in capsys.readouterr().out


def adds_again(merged, A, B, alpha, conv1d):
    return exercise.merge(merged, A, B, alpha, conv1d)


def as_it_was(merged, A, B, alpha, conv1d):
    return merged.copy()


def unmerged_without_transpose(merged, A, B, alpha, conv1d):
    return merged - alpha / len(A) * (B @ A)


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (adds_again, "added where it should be subtracted"),
        (as_it_was, "update is missing"),
        (unmerged_without_transpose, "not transposed"),
    ],
)
def test_usual_mistakes_of_unmerge_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "unmerge", capsys)


@pytest.mark.parametrize("conv1d", [False, True])
def test_the_reference_is_what_the_library_merges(conv1d, rng):
    layer = LoraLinear(nn.Conv1D(5, 7) if conv1d else nn.Linear(7, 5))
    layer.add_adapter("default", LoraConfig(r=3, lora_alpha=12, init_lora_weights=False))
    layer.active_adapters = ["default"]
    A, B = (p.data for p in layer.matrices("default"))
    W = layer.base_layer.weight.data
    merged, _ = layer.merged_parameters()
    np.testing.assert_allclose(exercise.merge(W, A, B, 12, conv1d), merged, atol=1e-6)
    np.testing.assert_allclose(exercise.unmerge(merged, A, B, 12, conv1d), W, atol=1e-6)


def test_a_product_for_the_quotient_is_named(capsys):
    def times_r(W, A, B, alpha, conv1d):
        delta = alpha * len(A) * (B @ A)
        return W + (delta.T if conv1d else delta)

    assert_told(check, times_r, "alpha · r: divide", "merge", capsys)
