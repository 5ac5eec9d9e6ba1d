"""What a recorded step is put together from: pieces of work, and one array in which gradients are added up."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...autograd import Tensor
from ...autograd.devices import array_module, to_device
from ...autograd.dispatch import implementation
from ..protocols import Array, Batch

if TYPE_CHECKING:
    from ...autograd.cuda.record import Room


class Piece:
    """Work for the GPU that is done as usual the first time, recorded the second, and replayed from then on.

    It leaves nothing in the room's memory, which all pieces of a step share.

    keeps: does the first time make arrays that stay, as an optimizer's state does? They are then not the room's.
    """

    def __init__(self, room: "Room", keeps: bool = False) -> None:
        from ...autograd.cuda.record import Recording

        self.recording, self.keeps, self.runs, self.is_recorded = Recording(room), keeps, 0, False

    def run(self, work: Callable[[], None]) -> None:
        """Do the work, the same each time, in one of the three ways."""
        if self.is_recorded:
            self.recording.replay()
        elif self.runs == 0 and self.keeps:
            work()
        elif self.runs == 0:
            self.as_usual(work)
        else:
            self.recording.record(work)
            self.is_recorded = True
        self.runs += 1

    def as_usual(self, work: Callable[[], None]) -> None:
        """Do it unrecorded, in the same stream and memory."""
        with self.recording.inside():
            work()


class Gradients:
    """A piece that adds to the sums: the gradients of batches of one shape, and their loss, times the batch's share.

    buffers   {name: array} on the model's device, in which the piece reads the batch
    share     (1,), there too
    used      the numbers of the parameters that had a gradient
    """

    def __init__(self, room: "Room", example: Batch, device: str) -> None:
        self.piece, self.device, self.cannot = Piece(room), device, False
        self.buffers = {name: to_device(array.copy(), device) for name, array in example.items()}
        self.share, self._share = to_device(np.ones(1, np.float32), device), 1.0
        self.used: tuple[int, ...] = ()

    def add(self, batch: Batch, share: float, work: Callable[[Batch, Array], tuple[int, ...]]) -> tuple[int, ...]:
        """Do the work, `used = work(buffers, share)`, for this batch; returns `used`.

        Where it cannot be recorded, because something in it waits for the GPU or calls what CUDA does not record, it is
        done as usual.
        """

        def with_buffers() -> None:
            self.used = work(self.buffers, self.share)

        self._fill(batch, share)
        if not self.cannot:
            try:
                self.piece.run(with_buffers)
            except RuntimeError:
                if self.piece.runs == 0 or self.piece.is_recorded:
                    raise
                self.cannot = True
        if self.cannot:
            self.piece.as_usual(with_buffers)
        return self.used

    def _fill(self, batch, share):
        with self.piece.recording.inside():
            for name, buffer in self.buffers.items():
                buffer[...] = to_device(batch[name], self.device)
            if share != self._share:
                self.share[...], self._share = share, share


class Sums:
    """The gradients of some parameters, and the loss: one flat float32 array on their device, that stays in its place.

    gradients   views of it, one for each parameter
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        ends = np.cumsum([p.size for p in parameters])
        self.starts = [int(end) - p.size for end, p in zip(ends, parameters, strict=True)]
        self.flat = array_module(parameters[0].data).zeros(int(ends[-1]) + 1, np.float32)
        pieces = zip(self.starts, parameters, strict=True)
        self.gradients = [self.flat[start : start + p.size].reshape(p.shape) for start, p in pieces]

    def clear(self) -> None:
        """Begin anew."""
        self.flat[...] = 0

    def loss(self) -> Array:
        """A copy of the loss."""
        return self.flat[-1:].reshape(()).copy()

    def add(self, loss: Array, share: Array) -> tuple[int, ...]:
        """Add share times the loss and the gradients that the parameters have now; the numbers of those that have one.

        The gradients are then forgotten.
        """
        xp = array_module(loss)
        used = tuple(i for i, p in enumerate(self.parameters) if p.grad is not None)
        arrays: list[Any] = [xp.ascontiguousarray(self.parameters[i].grad, np.float32) for i in used]
        arrays.append(xp.asarray(loss, np.float32))
        places = [*(self.starts[i] for i in used), self.flat.size - 1]
        kernel = implementation("add_shares", arrays) or _add_shares
        kernel(self.flat, arrays, places, share)
        for p in self.parameters:
            p.grad = None
        return used

    def hand_out(self, used: tuple[int, ...]) -> None:
        """Let these parameters have their sums as gradients, and the others none."""
        for p in self.parameters:
            p.grad = None
        for i in used:
            self.parameters[i].grad = self.gradients[i]


def _add_shares(sums, arrays, places, share):
    """What the kernel of that name does, in NumPy."""
    for array, start in zip(arrays, places, strict=True):
        sums[start : start + array.size] += share * array.ravel()
