"""Python's operators on arrays, each by its NumPy function, and where NumPy puts the result.

In `a * b + c` the product is an array that nobody has a name for. NumPy writes the sum over it if it is large, so that
there is one array less: whether an operand is such a temporary one, the number of references to it tells.
"""

from sys import getrefcount

import numpy as np

LEAST_REUSED = 1 << 18  # bytes


class _Probe:
    """How many references Python counts to an operand that nobody else refers to: on its left and its right side."""

    def __add__(self, other):
        return getrefcount(self), getrefcount(other)

    @classmethod
    def count(cls):
        left, right = cls(), cls()
        temporary, named = cls() + cls(), left + right
        return tuple(a if a < b else None for a, b in zip(temporary, named, strict=True))


# None where Python cannot tell a temporary operand from another: nothing is reused then, and a little more is counted.
LEFT, RIGHT = _Probe.count()


def _is_foreign(x):
    """Does x, such as a Tensor, want the operation for itself?"""
    return getattr(x, "__array_ufunc__", True) is None


def _binary(ufunc, reuses=False, commutes=False):
    """The methods for `self ∘ other` and `other ∘ self`.

    reuses: the result may go to where a temporary left operand is; where the operation `commutes`, the right one too.
    """

    def method(self, other):
        if _is_foreign(other):
            return NotImplemented
        if reuses and getrefcount(self) == LEFT and self.can_hold(ufunc, other):
            return self
        if commutes and getrefcount(other) == RIGHT and type(other) is type(self) and other.can_hold(ufunc, self):
            return other
        return ufunc(self, other)

    def reflected(self, other):
        if _is_foreign(other):
            return NotImplemented
        return self if commutes and getrefcount(self) == LEFT and self.can_hold(ufunc, other) else ufunc(other, self)

    return method, reflected


def _unary(ufunc):
    def method(self):
        return self if getrefcount(self) == LEFT and self.can_hold(ufunc) else ufunc(self)

    return method


def _in_place(ufunc):
    def method(self, other):
        return ufunc(self, other, out=(self,))

    return method


class Operators:
    """Mixed into a class of arrays that has `__array_ufunc__`, and

    can_hold(ufunc, *others)   could NumPy write ufunc(self, *others) to where self is?
    """

    __slots__ = ()
    __lt__, __gt__ = _binary(np.less)[0], _binary(np.greater)[0]
    __le__, __ge__ = _binary(np.less_equal)[0], _binary(np.greater_equal)[0]
    __eq__, __ne__, __hash__ = _binary(np.equal)[0], _binary(np.not_equal)[0], None
    __add__, __radd__ = _binary(np.add, reuses=True, commutes=True)
    __mul__, __rmul__ = _binary(np.multiply, reuses=True, commutes=True)
    __sub__, __rsub__ = _binary(np.subtract, reuses=True)
    __truediv__, __rtruediv__ = _binary(np.true_divide, reuses=True)
    __and__, __rand__ = _binary(np.bitwise_and, reuses=True, commutes=True)
    __or__, __ror__ = _binary(np.bitwise_or, reuses=True, commutes=True)
    __lshift__, __rshift__ = _binary(np.left_shift, reuses=True)[0], _binary(np.right_shift, reuses=True)[0]
    __pow__, __matmul__, __rmatmul__ = _binary(np.power)[0], *_binary(np.matmul)
    __neg__, __abs__, __invert__ = _unary(np.negative), _unary(np.absolute), _unary(np.invert)
    __iadd__, __isub__, __imul__ = _in_place(np.add), _in_place(np.subtract), _in_place(np.multiply)
    __itruediv__, __iand__, __ior__ = _in_place(np.true_divide), _in_place(np.bitwise_and), _in_place(np.bitwise_or)
