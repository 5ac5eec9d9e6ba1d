"""Trained weights are put back all together or not at all."""

import numpy as np
import pytest
from interruption_helpers import interrupted
from training_helpers import lora

from lora_np.training.weights import copied, put


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_weights_that_are_put_back_are_all_of_one_time(error):
    model = lora()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before, after = copied(trained), {name: np.full(p.shape, 7.0) for name, p in trained.items()}
    number = 0
    while interrupted(lambda: put(trained, after), number, error, "training"):
        assert all(p.data.tobytes() == before[name].tobytes() for name, p in trained.items())
        number += 1
    assert number > len(trained)
    assert all((p.data == 7).all() for p in trained.values())


def test_a_copy_is_not_changed_by_training():
    model = lora()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    copies = copied(trained)
    for p in trained.values():
        p.data += 1
    assert not any((p.data == copies[name]).any() for name, p in trained.items())
