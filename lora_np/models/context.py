"""What a forward pass knows besides its ids: positions, which keys count, what was read before."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import nn
from ..autograd.devices import on_gpu, to_device, to_numpy
from ..autograd.recompute import recompute
from ..autograd.shape_ops import check_ids
from ..autograd.tensor import Tensor, data, is_grad_enabled
from ..nn.stand_in import stand_in
from .kv_cache import KVCache


class Context:
    """What all layers of one forward pass share besides their input.

    positions   integers (T,), or (B, T) where rows stand at different ones
    key_mask    booleans (B, S) for the S tokens so far, these included, on the model's device: False for padding;
                None if every key counts
    texts       ((row, start, stop), ...), where rows hold several, none of which sees another; None if each is one
    recompute   is each block's forward pass to be repeated in the backward pass, instead of being kept?
    """

    def __init__(
        self,
        ids: np.ndarray,
        device: str,
        attention_mask: ArrayLike | Tensor | None = None,
        position_ids: ArrayLike | Tensor | None = None,
        cache: KVCache | None = None,
        recompute: bool = False,
        seq_idx: ArrayLike | Tensor | None = None,
    ) -> None:
        B, T = ids.shape
        self.recompute = recompute
        self.cache, past = cache, 0 if cache is None else cache.length
        if cache is not None:
            if is_grad_enabled():
                raise RuntimeError("past_key_values holds no gradients: call the model inside no_grad()")
            cache.check_room(B, T)
        in_order = np.arange(T) if cache is None else cache.next_positions(T)
        self.texts = None
        if seq_idx is not None:
            if cache is not None:
                raise ValueError("seq_idx is for rows that are read whole: call the model without past_key_values")
            in_order, self.texts = _texts(seq_idx, B, T)
        self.positions = in_order if position_ids is None else _positions(position_ids, B, T)
        if attention_mask is None:
            self.key_mask = None if cache is None else cache.key_mask(B)
        else:
            self.key_mask = _key_mask(attention_mask, B, past + T, device)

    @property
    def seen(self) -> dict[str, Any]:
        """What attention is told of who sees whom."""
        return {"key_mask": self.key_mask, "texts": self.texts}

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Add k and v (B, K, T, D) to the cache; returns those of all tokens so far."""
        assert self.cache is not None
        return self.cache.extend(layer, data(k), data(v))

    def close(self, tokens: int) -> None:
        """All layers are done: the cache now holds `tokens` more."""
        if self.cache is not None:
            self.cache.length += tokens


def one_row(ids: Any) -> Any:
    """A list of numbers as a batch of one row; all else as it is."""
    return [ids] if isinstance(ids, list) and ids and not hasattr(ids[0], "__len__") else ids


def run_block(block: nn.Module, x: Tensor, context: Context, *more: Any) -> Tensor:
    """block(x, context, ...), recomputed in the backward pass if the context says so, with the block as it is now."""
    if not (context.recompute and is_grad_enabled()):
        return block(x, context, *more)
    then, leaves = stand_in(block)
    parameters, own = zip(*leaves.values(), strict=True) if leaves else ((), ())
    return recompute(lambda x: block(x, context, *more), x, parameters, again=(lambda x: then(x, context, *more), own))


def texts_by_position(position_ids: Any, shape: tuple[int, int]) -> np.ndarray | None:
    """seq_idx (B, T) where positions do not go on by 1: there another text begins. None if no row has a second.

    So Transformers tells texts apart, where there is neither a mask nor a cache. ValueError for another shape.
    """
    positions = np.broadcast_to(_positions(position_ids, *shape), shape)
    texts = (np.diff(positions, axis=1, prepend=positions[:, :1] - 1) != 1).cumsum(axis=1)
    return texts if texts.any() else None


def _positions(position_ids, B, T):
    positions = to_numpy(data(position_ids)).copy()  # the backward pass reads it too
    if positions.shape not in ((T,), (1, T), (B, T)):
        raise ValueError(f"position_ids must be ({T},) or ({B}, {T}), got {positions.shape}")
    check_ids(positions, np.iinfo(np.int64).max, "position")
    return positions[0] if positions.shape == (1, T) else positions


def _texts(seq_idx, B, T):
    """(each token's place in its text (B, T), the texts as (row, start, stop)): one begins where the number changes."""
    numbers = to_numpy(data(seq_idx))
    if numbers.shape != (B, T) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"seq_idx must be integers ({B}, {T}), the number of each token's text, got {numbers.shape}")
    begins = np.concatenate([np.ones((B, 1), bool), numbers[:, 1:] != numbers[:, :-1]], axis=1)
    places = np.arange(T) - np.maximum.accumulate(np.where(begins, np.arange(T), 0), axis=1)
    starts = np.append(np.flatnonzero(begins), B * T).tolist()  # in all rows, one after another
    texts = tuple((a // T, a % T, a % T + b - a) for a, b in itertools.pairwise(starts))
    return places, texts if len(texts) > B else None


def _key_mask(attention_mask, B, S, device):
    mask = data(attention_mask)
    if on_gpu(mask) and mask.dtype == bool and mask.shape == (B, S) and device != "cpu":
        return mask  # as a recorded step has it, in which nobody may look at it
    mask = checked_mask(mask, (B, S))
    return None if mask.all() else to_device(mask.astype(bool), device)


def checked_mask(attention_mask: ArrayLike | Tensor, shape: tuple[int, int]) -> np.ndarray:
    """An attention_mask as NumPy's array. ValueError if it is not of this shape, or holds anything but 1 and 0."""
    mask = to_numpy(data(attention_mask))
    if mask.shape != shape:
        raise ValueError(f"attention_mask must be {shape}, one value for each token read so far, got {mask.shape}")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("attention_mask holds 1 for a token and 0 for padding; it has other values")
    return mask
