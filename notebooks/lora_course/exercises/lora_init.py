"""Exercise 05: how A and B are initialised."""

import numpy as np

from .checking import Exercise, checker

OUT, IN, RANK = 300, 400, 50  # large enough to tell distributions apart


def lora_init(n_out, n_in, r, rng):
    """A (r, n_in) uniform in ±1/√n_in, B (n_out, r) zero: as the library's `lora.init.kaiming`, from a given `rng`."""
    bound = 1 / np.sqrt(n_in)
    return rng.uniform(-bound, bound, (r, n_in)), np.zeros((n_out, r))


def _started(function, seed=5):
    return function(OUT, IN, RANK, np.random.default_rng(seed))


def two_matrices(function):
    """None, or a sentence if the function does not return two arrays of the right shapes."""
    results = _started(function)
    if results is None:
        return "it returned nothing. Is the `return` missing?"
    if isinstance(results, list) and len(results) == 2:
        return "it returns a list: leave the brackets out, `return A, B`."
    if not isinstance(results, tuple) or len(results) != 2:
        return "it should return two things: A, B."
    if [np.shape(array) for array in results] == [(OUT, RANK), (RANK, IN)]:
        return "A and B are returned in the wrong order."
    for name, array, shape in zip("AB", results, ((RANK, IN), (OUT, RANK)), strict=True):
        if np.shape(array) != shape:
            turned = " It is transposed." if np.shape(array) == shape[::-1] else ""
            sizes = f"n_out = {OUT}, n_in = {IN}, r = {RANK}"
            return f"{name} has shape {np.shape(array)}; with {sizes} it should be {shape}.{turned}"
    return None


def starts_as_the_base(function):
    """None, or a sentence if B A is not zero at initialisation, or is so because of A."""
    A, B = _started(function)
    if not A.any() and not B.any():
        return "A and B are both zero: then dA and dB are zero too, and nothing is ever learned. A must be random."
    if not A.any():
        return "A is zero and B random. B A is zero as well, but LoRA does it the other way round: A random, B zero."
    if B.any():
        return "B is not zero. B A then changes the layer before training has begun."
    return None


def is_random(function):
    """None, or a sentence if A does not come from the generator, or holds one number."""
    A, again, other = (_started(function, seed)[0] for seed in (5, 5, 6))
    if np.ptp(A) == 0:
        return "all entries of A are the same: its r rows would learn the same direction. Draw them at random."
    if not np.array_equal(A, again):
        return (
            "two calls with generators of one seed give two different A. Draw from `rng`, so that runs can be repeated."
        )
    if np.array_equal(A, other):
        return "two different generators give the same A. Draw from the `rng` that is given, not from a new one."
    if np.allclose(A, A[0]):
        return "all rows of A are the same: they would learn the same direction."
    return None


def has_the_right_spread(function):
    """None, or a sentence if A is not uniform in ±1/√in."""
    A, bound = _started(function)[0], 1 / np.sqrt(IN)
    if A.min() >= 0:
        return "A has no negative entries: it should be uniform in -1/√n_in to 1/√n_in."
    deviation, wanted = A.std(), bound / np.sqrt(3)
    for said, used in (("the rank r", RANK), ("n_out", OUT)):
        if np.isclose(deviation, 1 / np.sqrt(3 * used), rtol=0.03) and np.abs(A).max() <= 1 / np.sqrt(used):
            return f"A's bound comes from {said}; it should come from n_in, the number of inputs that are added up."
    if np.isclose(deviation, 1 / IN / np.sqrt(3), rtol=0.03):
        return "A's bound is 1/n_in: the square root is missing."
    if np.isclose(deviation, wanted, rtol=0.03) and np.abs(A).max() <= bound:
        return None
    if np.isclose(deviation, bound, rtol=0.03):
        return "A is normal with deviation 1/√n_in; it should be uniform between -1/√n_in and 1/√n_in."
    return (
        f"A's entries deviate by {deviation:.4f} and reach {np.abs(A).max():.4f}. Uniform in ±1/√n_in, with "
        f"n_in = {IN}, they would deviate by {wanted:.4f} and reach {bound:.4f}."
    )


def where_formed(rule):
    """The rule for two matrices of the right shapes, of which A is not zero: of others there is nothing to say."""

    def checked(function):
        return None if two_matrices(function) or not _started(function)[0].any() else rule(function)

    return checked


def base_is_kept(function):
    """`starts_as_the_base`, where there are two matrices."""
    return None if two_matrices(function) else starts_as_the_base(function)


check = checker(
    Exercise(lora_init, rules=(two_matrices, base_is_kept, where_formed(is_random), where_formed(has_the_right_spread)))
)
