"""The array engine that notebook 02 builds. The same lines stand there, in a cell that a reader may change.

It is made to be read; `lora_np.autograd` is made to be used.
"""

import numpy as np


class Array:
    """A NumPy array that remembers what it was made from, and how gradients go back."""

    made = 0  # a result always has a larger number than its parents

    def __init__(self, value, *parents, trained=False):
        self.value, self.grad = np.asarray(value), 0.0
        self.parents = [(p, back) for p, back in parents if p.wanted]
        self.wanted = trained or bool(self.parents)  # does its gradient matter?
        self.number = Array.made = Array.made + 1

    def array(self, other):  # numbers and NumPy arrays take part, in the same dtype
        if isinstance(other, Array):
            return other
        return Array(np.asarray(other, self.value.dtype))

    def __add__(self, other):
        other = self.array(other)
        y = self.value + other.value
        return Array(y, (self, lambda dy: dy), (other, lambda dy: dy))

    def __mul__(self, other):
        other = self.array(other)
        x, w = self.value, other.value
        return Array(x * w, (self, lambda dy: dy * w), (other, lambda dy: dy * x))

    def __matmul__(self, other):
        x, w = self.value, other.value
        to_x = self, lambda dy: dy @ w.swapaxes(-1, -2)
        to_w = other, lambda dy: x.swapaxes(-1, -2) @ dy
        return Array(x @ w, to_x, to_w)

    def __pow__(self, n):
        x = self.value
        return Array(x**n, (self, lambda dy: dy * n * x ** (n - 1)))

    def __sub__(self, other):
        return self + self.array(other) * -1.0

    def __truediv__(self, other):
        return self * self.array(other) ** -1.0

    def exp(self):
        y = np.exp(self.value)
        return Array(y, (self, lambda dy: dy * y))

    def log(self):
        return Array(np.log(self.value), (self, lambda dy: dy / self.value))

    def tanh(self):
        y = np.tanh(self.value)
        return Array(y, (self, lambda dy: dy * (1 - y * y)))

    def sum(self, axis=None):  # the axis stays, with length 1
        y = self.value.sum(axis, keepdims=axis is not None)
        return Array(y, (self, lambda dy: np.broadcast_to(dy, self.value.shape)))

    def mean(self, axis=None):
        total = self.sum(axis)
        return total * (total.value.size / self.value.size)

    def reshape(self, *shape):
        x = self.value
        return Array(x.reshape(shape), (self, lambda dy: dy.reshape(x.shape)))

    def swapaxes(self, a, b):
        return Array(self.value.swapaxes(a, b), (self, lambda dy: dy.swapaxes(a, b)))

    def __getitem__(self, index):
        def back(dy):
            dx = np.zeros_like(self.value)
            np.add.at(dx, index, dy)  # what was picked twice gets two gradients
            return dx

        return Array(self.value[index], (self, back))

    def backward(self):
        found, to_visit = {}, [self]
        while to_visit:
            array = to_visit.pop()
            if array.number not in found:
                found[array.number] = array
                to_visit += [parent for parent, _ in array.parents]
        self.grad = np.ones_like(self.value)
        for number in sorted(found, reverse=True):  # the youngest first
            for parent, back in found[number].parents:
                dx = back(found[number].grad)
                parent.grad = parent.grad + summed(dx, parent.value.shape)


def summed(dx, shape):
    """What NumPy repeated in the forward pass is summed in the backward pass."""
    new = dx.ndim - len(shape)  # axes that broadcasting has put in front
    axes = [i for i in range(dx.ndim) if i < new or shape[i - new] != dx.shape[i]]
    return dx.sum(tuple(axes), keepdims=True).reshape(shape) if axes else dx
