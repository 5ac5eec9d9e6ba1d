"""A training step on a GPU that is recorded once and then started as a whole."""

import operator
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from ...autograd import Tensor, changes
from ...autograd.devices import memory_advice, on_gpu
from ...autograd.float_types import in_16_bits
from ...autograd.in_place import outdate
from ...lora.lora_model import adapters_in
from ...lora.variants.alora import ActivatedLora
from ...lora.variants.embedding import EmbeddingAdapter
from ...lora.variants.tokens import TokenAdapter
from ...lora.variants.velora import Velora
from ...models.base import CausalLM
from ...nn import Module
from ...nn.module import clear_gradients
from ..optim import clip_grad_norm_
from ..optim.optimizer import Optimizer
from ..protocols import Array, Batch
from .batches import NAMES, checked, of_few_lengths
from .joint_step import shares
from .pieces import Gradients, Piece, Sums
from .processes import Communicator, SoloCommunicator

OF_EMBEDDINGS = EmbeddingAdapter, TokenAdapter
MOST_SHAPES = 48  # of batches that are recorded; others run as usual


class RecordedStep:
    """Forward, backward, clipping and the optimizer's step, as a few pieces of work for the GPU.

        step = RecordedStep(model, optimizer)
        loss = step({"input_ids": ids, "labels": labels})    # a number on the GPU
        loss = step(first, second)                           # the step of all rows of these batches

    Two kinds of pieces are recorded. One, for each shape of batch, adds its gradients to their sums; the other clips
    the sums and changes the weights. So several batches make a step, and several processes: between the two kinds they
    add up their sums. A piece runs as usual the first time; the second time it is recorded, and from the third on it
    is replayed: the host hands over the batch and starts one thing.

    A batch may have an attention_mask. The first batch's shape is recorded as it is; batches of other lengths are
    filled up on the right, so that few shapes are recorded (`batches.py`). Dropout draws anew in each replay, what an
    ordinary step would draw. If weights or the optimizer's state were replaced, as `load_state_dict` does, or if the
    model has been told something else, as by `set_adapter` or `eval`, all is recorded anew.

    RuntimeError, with what takes less, if the GPU's memory is full.
    ValueError if the model is not on a GPU, if the optimizer's step cannot be recorded, if an adapter draws random
    numbers other than dropout's or looks at the ids (aLoRA), or if a batch brings anything else.

    model          a language model, or a PeftModel around one, in training mode
    max_grad_norm  gradients are scaled down together if their norm is larger; 0 turns this off
    communicator   several processes, each with its rows of every batch: see `processes.py`
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        max_grad_norm: float = 0.0,
        communicator: Communicator | SoloCommunicator | None = None,
    ) -> None:
        self.model, self.optimizer, self.max_grad_norm = model, optimizer, max_grad_norm
        self.communicator = communicator or SoloCommunicator()
        self.language_model: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.trained: list[Tensor] = []
        self._begin()

    def _begin(self):
        self.unchanged = changes.watch()
        _check(self.model)
        if not self.optimizer.recordable:
            raise ValueError(f"a step of {type(self.optimizer).__name__} cannot be replayed: the host counts its steps")
        self.parameters, trained = list(self.model.parameters()), self.optimizer.parameters()
        if any(p.dtype != np.float32 for p in trained):
            raise ValueError("a recorded step trains parameters in float32: others are for model.to('float32')")
        if not all(p.data.flags.c_contiguous for p in trained):  # AdamW has no kernel for these, and the host counts
            raise ValueError("a recorded step trains arrays without gaps: p.data = ascontiguousarray(p.data)")
        if not _same(trained, self.trained):
            self.trained, self.sums = trained, Sums(trained)
        from ...autograd.cuda.record import Room

        self.room = Room()
        self.pieces: dict[Any, Gradients] = {}
        self.change: Piece | None = None  # of the weights
        self.used: tuple[int, ...] = ()  # the numbers of those that it changes
        self.first: tuple[int, ...] | None = None  # the first batch's shape
        self.adapters = adapters_in(self.model)
        self.held, self.settings, self.states = self._held(), self._settings(), None

    def takes(self, batches: Any) -> bool:
        """Have these batches only what a recorded step reads?"""
        return all(set(batch) in NAMES for batch in batches)

    def __call__(self, *batches: Batch) -> Array:
        parts = shares([checked(batch, self.language_model) for batch in batches], self.communicator)
        if not self._in_place():
            self._begin()
        with memory_advice():
            used = self._all_gradients(parts)
            with self.room.inside():
                self.communicator.sum_buffer(self.sums.flat)
            self._change_weights(used)
        self.unchanged = changes.watch()  # what changed meanwhile are the weights, in their places
        return self.sums.loss()

    def nbytes(self) -> int:
        """The memory of the GPU that recordings hold, beside the weights, in bytes."""
        return self.room.nbytes() + self.sums.flat.nbytes

    def _all_gradients(self, parts):
        """Fill the sums; returns the numbers of the parameters that have a gradient."""
        try:
            return self._gradients(parts)
        except MemoryError:
            if not self.pieces:
                raise
        self._begin()  # what was recorded for other shapes may have held the memory
        return self._gradients(parts)

    def _gradients(self, parts):
        with self.room.inside():
            self.sums.clear()
        used: set[int] = set(range(len(self.trained)) if self.communicator.size > 1 else ())
        for batch, share in parts:
            batch = self._of_few_shapes(batch)
            used.update(self._piece(batch).add(batch, share, self._add_gradients))
        return tuple(sorted(used))

    def _of_few_shapes(self, batch):
        shape = batch["input_ids"].shape
        if self.first in (None, shape):
            self.first = shape
            return batch
        if any(isinstance(adapter, Velora) for adapter in self.adapters):  # its v is a mean over all tokens
            return batch
        return of_few_lengths(batch, self.language_model.config)

    def _piece(self, batch):
        """The piece for this shape of batch; a new one, not to be kept, if there are too many shapes."""
        key = (batch["input_ids"].shape, len(batch))
        piece = self.pieces.get(key) or Gradients(self.room, batch, self.language_model.device)
        if len(self.pieces) < MOST_SHAPES:
            self.pieces[key] = piece
        return piece

    def _add_gradients(self, batch, share):
        clear_gradients(self.parameters)
        with self._narrowed():
            loss = self.model(**batch).loss
            loss.backward()
        return self.sums.add(loss.data, share)

    def _change_weights(self, used):
        if self.change is None or used != self.used:  # one for all: it counts the steps of its weights together
            self.used, self.change = used, Piece(self.room, keeps=True)
        outdate(self.trained)
        self.change.run(partial(self._clip_and_step, used))
        if self.states is None and self.change.is_recorded:
            self.states = self._states()

    def _clip_and_step(self, used):
        self.sums.hand_out(used)
        if self.max_grad_norm:
            clip_grad_norm_(self.trained, self.max_grad_norm)
        self.optimizer.step()
        self.sums.hand_out(())

    def _held(self):
        """The arrays that the model has, and all that its modules and adapters have as attributes."""
        parts = [*self.model.modules(), *adapters_in(self.model)]
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return [*(x.data for x in tensors), *(value for part in parts for value in vars(part).values())]

    def _settings(self):
        """What `changes.py` does not tell of: which parameters are trained, and how."""
        return [*(p.requires_grad for p in self.parameters), *self.optimizer.parameters(), *self.optimizer.param_groups]

    def _states(self):
        """The optimizer's state: its dictionaries, in which a replay counts steps, and their arrays."""
        states = list(self.optimizer.state.values())
        return states + [value for state in states for value in state.values() if not isinstance(value, int)]

    def _in_place(self):
        """Is all that was recorded what and where it was?"""
        return (
            (self.unchanged() or _same(self._held(), self.held))
            and _same(self._settings(), self.settings)
            and (self.states is None or _same(self._states(), self.states))
        )

    def _narrowed(self):
        """A block in which adapters beside weights in 16 bits are rounded to these all at once."""
        narrow = next((p.dtype for p in self.parameters if in_16_bits(p.dtype)), None)
        matrices = [p.data for p in self.parameters if p.dtype == np.float32 and p.requires_grad and p.ndim == 2]
        if narrow is None or not matrices or not on_gpu(matrices[0]):
            return nullcontext()
        from ...autograd.cuda.narrow import narrowed_for_a_step

        return narrowed_for_a_step(matrices, narrow)


def recorded_step(
    model: Module,
    optimizer: Optimizer,
    max_grad_norm: float = 0.0,
    communicator: Communicator | SoloCommunicator | None = None,
) -> RecordedStep | None:
    """A `RecordedStep` where that is possible and only adapters are trained, else None.

    Not those of embeddings: their gradient is sorted by ids on the host, for which a recording cannot stop. Nor others
    that ask the host, or that do something after each step.
    """
    if any(adapter.together or adapter.asks_the_host for adapter in adapters_in(model)):
        return None
    adapters = [adapter for adapter in adapters_in(model) if not isinstance(adapter, OF_EMBEDDINGS)]
    ours = {id(p) for adapter in adapters for p in adapter.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained or not all(id(p) in ours for p in trained):
        return None
    try:
        return RecordedStep(model, optimizer, max_grad_norm, communicator)
    except ValueError:
        return None


def _same(now, before):
    """Are these the very same things?"""
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _check(model):
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, CausalLM):
        raise ValueError(f"a recorded step needs a language model of this library, not a {type(base).__name__}")
    if not all(on_gpu(p.data) and (p.dtype == "float32" or in_16_bits(p.dtype)) for p in model.parameters()):
        raise ValueError("a recorded step needs a model on a GPU, in float32 or 16 bits: call model.to('cuda') first")
    if any(getattr(part, "draws", False) is True for part in [*model.modules(), *adapters_in(model)]):
        raise ValueError("a recorded step would draw the same random numbers every time, and this adapter draws others")
    if any(isinstance(adapter, ActivatedLora) for adapter in adapters_in(model)):
        raise ValueError("a recorded step looks at no batch, and aLoRA looks for its invocation tokens in each")
