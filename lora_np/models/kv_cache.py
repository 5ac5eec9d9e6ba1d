"""The keys and values of what was read before, so that writing on does not read it all again."""

import numpy as np

from ..autograd.devices import array_module
from ..expect import expect_whole


class KVCache:
    """The keys and values of the tokens read so far, of every layer, so that each token is computed once.

    Room for `capacity` tokens is made at the first use: per layer two arrays (B, K, capacity, D), filled from the left.
    Pass it to a model as `past_key_values`, inside `no_grad`; `length` says how many tokens it holds.
    Where a layer sees a window alone (Mistral, Gemma 2 and 3), keys and values that have left it are kept as well: the
    results are the same, for more memory than such a layer needs.
    """

    def __init__(self, capacity: int) -> None:
        expect_whole(capacity, "capacity")
        self.capacity, self.length = capacity, 0
        self.layers: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def extend(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store k and v (B, K, T, D) of the next T tokens; returns all of the layer's, (B, K, length + T, D)."""
        end = self.length + k.shape[2]
        if layer not in self.layers:
            xp, shape = array_module(k), (*k.shape[:2], self.capacity, k.shape[3])
            self.layers[layer] = xp.empty(shape, k.dtype), xp.empty(shape, v.dtype)
        keys, values = self.layers[layer]
        keys[:, :, self.length : end], values[:, :, self.length : end] = k, v
        return keys[:, :, :end], values[:, :, :end]

    def next_positions(self, tokens: int) -> np.ndarray:
        """The places of the next `tokens` tokens."""
        return np.arange(self.length, self.length + tokens)

    def key_mask(self, rows: int) -> np.ndarray | None:
        """Every key that `extend` returns counts. (In a recorded step there are others: `generation/recorded.py`.)"""
        return None

    def make_room(self, capacity: int) -> None:
        """Let there be room for `capacity` tokens at least; what is held stays."""
        if capacity > self.capacity:
            self.capacity = capacity
            self.layers = {layer: (self._wider(k), self._wider(v)) for layer, (k, v) in self.layers.items()}

    def _wider(self, array):
        wider = array_module(array).empty((*array.shape[:2], self.capacity, array.shape[3]), array.dtype)
        wider[:, :, : self.length] = array[:, :, : self.length]
        return wider

    def reorder(self, rows: np.ndarray) -> None:
        """Row i becomes what row rows[i] was, as beams need it that go on from others' texts."""
        if (rows == np.arange(len(rows))).all():
            return
        for keys, values in self.layers.values():
            index = array_module(keys).asarray(rows)
            for array in (keys, values):
                array[:, :, : self.length] = array[index, :, : self.length]

    def check_room(self, rows: int, tokens: int) -> None:
        """ValueError if `tokens` more do not fit, or if the cache is of another number of rows."""
        if self.length + tokens > self.capacity:
            raise ValueError(
                f"the cache has room for {self.capacity} tokens and holds {self.length}: {tokens} more do not fit"
            )
        held = next((len(keys) for keys, _ in self.layers.values()), rows)
        if held != rows:
            raise ValueError(f"the cache holds {held} rows, not {rows}")
