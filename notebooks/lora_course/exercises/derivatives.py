"""Central differences, for the checks of gradients."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Gradients:
    """For functions that compute gradients: what they should be the gradients of, for a check by finite differences.

    forward     a function of those arguments of a case that it names
    of          {name of a result: the argument whose gradient it is}
    cotangent   the argument that holds the gradient of forward's result; None where that result is one number
    """

    forward: Callable
    of: dict
    cotangent: str | None = "dy"


def from_finite_differences(exercise, results):
    """The largest difference between a gradient in `results`, those of the first case, and central differences."""
    case, gradients = exercise.cases()[0], exercise.gradients
    by_name = dict(zip(exercise.results, results, strict=True))
    cotangent = 1.0 if gradients.cotangent is None else case[gradients.cotangent]
    taken = gradients.forward.__code__.co_varnames[: gradients.forward.__code__.co_argcount]
    arguments = {name: case[name] for name in taken}
    return max(
        float(np.abs(by_name[result] - finite_differences(gradients.forward, arguments, name, cotangent)).max())
        for result, name in gradients.of.items()
    )


def finite_differences(forward, arguments, name, cotangent, eps=1e-6):
    """The gradient of Σ cotangent ∘ forward(**arguments) for one array among the arguments, by central differences."""
    array = arguments[name].astype(np.float64)
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        sums = []
        for step in (eps, -eps):
            moved = array.copy()
            moved[index] += step
            sums.append(float(np.sum(cotangent * forward(**{**arguments, name: moved}))))
        gradient[index] = (sums[0] - sums[1]) / (2 * eps)
    return gradient
