"""`x.size` for users of NumPy and of torch."""

import json

import pytest

from lora_np.autograd import Tensor


def test_a_number_that_can_be_called(xp):
    size = Tensor(xp.zeros((2, 3))).size
    assert (size, size(), size(0), size(-1)) == (6, (2, 3), 2, 3)
    assert (size + 1, f"{size:,}", json.dumps(size)) == (7, "6", "6")
    assert Tensor(xp.asarray(1.0)).size() == ()
    with pytest.raises(IndexError):
        size(2)
