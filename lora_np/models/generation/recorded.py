"""Writing on a GPU: the step of one token, recorded once and then started as a whole.

To write a token, a model of thirty blocks starts some four hundred kernels of a few microseconds; starting them one by
one takes Python far longer. What differs between two steps is the token and its place, and a recording has neither in
it: both are sent along, as the mask of the keys that count is. So each step reads all of the cache's room.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from ...autograd import changes, no_grad
from ...autograd.devices import on_gpu, to_device, to_numpy
from ...nn import evaluating
from ..kv_cache import KVCache

if TYPE_CHECKING:
    from ..base import CausalLM

FEWEST = 8  # steps to come that are worth recording one


class Moving(np.ndarray):
    """The positions of a step. now(): those of the step that is running, where it is replayed."""

    now: Any


class StepCache(KVCache):
    """A filled `KVCache`, as a recorded step of one token sees it: all of its room, and a mask of what counts."""

    def __init__(self, cache: KVCache, device: str) -> None:
        self.cache, self.capacity, self.layers, self.device = cache, cache.capacity, cache.layers, device
        for keys, values in self.layers.values():
            for array in (keys, values):
                array[:, :, cache.length :] = 0  # what is masked weighs nothing, but 0 · NaN is NaN

    @property
    def length(self) -> int:
        """How many tokens the cache holds."""
        return self.cache.length

    @length.setter
    def length(self, tokens: int) -> None:
        """Counted by `RecordedStep`, since nobody counts in a replay."""

    def next_positions(self, tokens: int) -> np.ndarray:
        """The place of the one token."""
        positions = self._places().view(Moving)
        positions.now = self._places
        self.place = to_device(self._places(), self.device, refresh=self._places)
        return positions

    def key_mask(self, rows: int) -> Any:
        """(rows, capacity): True up to the token's place."""

        def mask() -> np.ndarray:
            return np.broadcast_to(np.arange(self.capacity) <= self.length, (rows, self.capacity)).copy()

        return to_device(mask(), self.device, refresh=mask)

    def extend(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Put k and v (B, K, 1, D) in their place; returns all the room of the layer, (B, K, capacity, D)."""
        from ...autograd.cuda.elementary import keep_at

        keys, values = self.layers[layer]
        keep_at(k, keys, self.place)
        keep_at(v, values, self.place)
        return keys, values

    def _places(self):
        return np.array([self.length])


class RecordedSteps:
    """logits = steps(ids): ids (B, 1) -> (B, V) of the next token, on the host; the cache grows by one.

    The first call runs as usual, the second is recorded, from the third on it is replayed. None, and the cache is as it
    was, if the step cannot be recorded: something in it waits for the GPU, or calls what CUDA does not record.

    in_call     what each call of the model is made in
    unchanged   () -> is the model as it was? If not, others are to be made: a replay would read the arrays of before
    """

    def __init__(self, model: CausalLM, cache: KVCache, in_call: Callable[[], AbstractContextManager[Any]]) -> None:
        from ...autograd.cuda.record import Recording

        self.model, self.cache, self.in_call, self.recording = model, cache, in_call, Recording()
        self.unchanged = changes.watch()
        self.step_cache = StepCache(cache, model.device)
        self.ids = self.logits = None
        self.recorded = self.failed = False

    def __call__(self, ids: np.ndarray) -> np.ndarray | None:
        if self.ids is None:
            self.ids = to_device(ids.astype(np.int64), self.model.device)
            with self.recording.inside():
                self.logits = self._run()
        else:
            self.ids[...] = to_device(ids.astype(np.int64), self.model.device)
            if self.recorded:
                self.recording.replay()
            elif not self._record():
                return None
        logits = to_numpy(self.logits)[:, -1]
        self.cache.length += 1
        return logits

    def _record(self):
        """Was it possible?"""
        try:
            self.logits, self.recorded = self.recording.record(self._run), True
        except RuntimeError:
            self.failed = True
        return self.recorded

    def _run(self):
        with no_grad(), evaluating(), self.in_call():
            return self.model(self.ids, past_key_values=self.step_cache, logits_to_keep=1).logits.data


def can_be_recorded(model: CausalLM, cache: KVCache | None, steps: int) -> bool:
    """Can the next `steps` steps be one recording? They are on a GPU, and no layer looks through a window."""
    if cache is None or not cache.length or cache.length + 1 >= cache.capacity or steps < FEWEST:
        return False
    if not all(on_gpu(keys) for keys, _ in cache.layers.values()):
        return False
    known = changes.memo()
    if model not in known:  # a walk over all modules of a hundred adapters takes longer than to write some tokens
        parts = list(model.modules())
        known[model] = all(getattr(part, name, None) is None for part in parts for name in ("window", "softcap"))
    return bool(known[model])
