"""Examples of many lengths in rows of one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lora_np.training.packing import pack


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_packing_wastes_no_row(lengths):
    rows = pack(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = sorted(sum(lengths[i] for i in row) for row in rows)
    assert filled[-1] <= 20
    assert len(rows) == 1 or filled[0] + filled[1] > 20, "two rows would fit into one"
    assert pack(lengths, 20) == rows


def test_the_fullest_row_with_room_is_taken():
    assert pack([8, 5, 4, 1], 10) == [[0], [1, 2, 3]]  # the first row with room would be row 0
    assert pack([3, 5, 5, 3, 4], 10) == [[1, 2], [4, 0, 3]]
