"""Weights that are written to in place, as an optimizer does, between a forward pass and its backward pass."""


def outdate(leaves):
    """Say that the arrays of these leaves are about to be written to.

    Graphs keep such arrays, not copies of them: their gradients would mix old values and new ones. So from now on
    backward() refuses what was recorded with these leaves before. (As torch's does after an optimizer's step. As there,
    a write to `tensor.data` by hand is seen by nobody. A new array put in the place of `data` harms no graph.)
    """
    for leaf in leaves:
        node, leaf._node = leaf._node, None
        if node is not None:
            node.free()
