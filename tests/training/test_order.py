"""Which rows a step reads: each once per epoch, the same for the same seed and step."""

import pytest

from lora_np.training.order import rows_of_step


@pytest.mark.parametrize(("rows", "batch_size"), [(7, 3), (4, 4), (2, 5), (1, 3)])
def test_each_row_comes_once_per_epoch(rows, batch_size):
    read = [row for step in range(rows) for row in rows_of_step(0, step, batch_size, rows)]
    for epoch in range(batch_size):
        assert sorted(read[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_it_follows_from_seed_and_step():
    assert rows_of_step(1, 2, 8, 50) == rows_of_step(1, 2, 8, 50)
    assert rows_of_step(1, 2, 8, 50) != rows_of_step(2, 2, 8, 50)
    assert rows_of_step(1, 2, 8, 50) != rows_of_step(1, 3, 8, 50)
