"""A training step on a GPU that is recorded once and then started as a whole."""

from contextlib import nullcontext

import numpy as np

from ...autograd.devices import memory_advice, on_gpu, to_device, to_numpy
from ...autograd.float_types import in_16_bits
from ...autograd.in_place import outdate
from ...autograd.shape_ops import check_ids
from ...autograd.tensor import data
from ...lora.lora_model import adapters_in
from ...lora.variants.embedding import EmbeddingAdapter
from ...lora.variants.tokens import TokenAdapter
from ...models.base import CausalLM
from ...models.output import IGNORED, shift_labels
from ...nn import Dropout, Module
from ..optim import clip_grad_norm_
from ..optim.optimizer import Optimizer
from ..protocols import Array, Batch

OF_EMBEDDINGS = EmbeddingAdapter, TokenAdapter
MOST_MISFITS = 4  # batches of other shapes, less those that fitted, after which a recording is given up


class RecordedStep:
    """Forward, backward, clipping and the optimizer's step of one batch, as one piece of work for the GPU.

        step = RecordedStep(model, optimizer)
        loss = step({"input_ids": ids, "labels": labels})    # a number on the GPU

    The first call runs as usual, the second, if its batch is of the same shape, is recorded, and from the third on it
    is replayed: the host hands over the batch and starts one thing. Batches of another shape run as usual; if most are
    of that kind, the recording and its memory are given up. If weights or the optimizer's state were replaced, as
    `load_state_dict` does, the step is recorded anew.

    RuntimeError, with what takes less, if the GPU's memory is full.
    ValueError if the model is not on a GPU, if dropout is on, whose masks would be the same in every replay, or if a
    batch brings an attention_mask, or if the optimizer's step cannot be recorded.

    model          a language model, or a PeftModel around one, in training mode
    max_grad_norm  gradients are scaled down together if their norm is larger; 0 turns this off
    """

    def __init__(self, model: Module, optimizer: Optimizer, max_grad_norm: float = 0.0) -> None:
        _check(model)
        if not optimizer.recordable:
            raise ValueError(f"a step of {type(optimizer).__name__} cannot be replayed: the host counts its steps")
        self.model, self.optimizer, self.max_grad_norm = model, optimizer, max_grad_norm
        self.language_model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.parameters, self.misfits, self.given_up = list(model.parameters()), 0, False
        self._begin()

    def _begin(self):
        from ...autograd.cuda.record import Recording

        self.recording, self.loss = Recording(), None
        self.buffers = None  # the batch on the GPU, which the recording reads
        self.arrays = None  # the arrays that the recording reads and writes, once it is made

    def __call__(self, batch: Batch) -> Array:
        with memory_advice():
            return self._step(_checked(batch, self.language_model))

    def _step(self, batch):
        if self.arrays is not None and not self._in_place():
            self._begin()
        fits = self.buffers is not None and self.buffers["input_ids"].shape == batch["input_ids"].shape
        if self.given_up or (self.arrays is not None and not fits):
            self._count(1)
            return self._run(batch)
        if not fits:
            self._run_before_recording(batch)
        elif self.arrays is None:
            self._record(batch)
        else:
            self._count(-1)
            self._fill(batch)
            outdate(self.optimizer.parameters())
            self.recording.replay()
        return self.loss.copy()  # into memory that no replay writes to

    def _run_before_recording(self, batch):
        """A first time inside the recording's stream and memory: nothing has to be compiled or set up later."""
        device = self.language_model.device
        self.buffers = {name: to_device(array.copy(), device) for name, array in batch.items()}
        with self.recording.inside():
            self.loss = self._run(self.buffers)

    def _record(self, batch):
        self._fill(batch)
        self.loss = self.recording.record(lambda: self._run(self.buffers))
        self.arrays = self._used_arrays()

    def _fill(self, batch):
        for name, buffer in self.buffers.items():
            buffer[...] = to_device(batch[name], self.language_model.device)

    def _count(self, change):
        """Count batches that do not fit the recording against those that do; too many, and it is given up."""
        self.misfits = max(0, self.misfits + change)
        if self.misfits > MOST_MISFITS and not self.given_up:
            self._begin()
            self.given_up = True

    def _used_arrays(self):
        """The arrays of the weights and of the optimizer's state."""
        states = (value for state in self.optimizer.state.values() for value in state.values())
        return [p.data for p in self.parameters] + [value for value in states if not isinstance(value, int)]

    def _in_place(self):
        """Are these still the arrays that were recorded?"""
        now = self._used_arrays()
        return len(now) == len(self.arrays) and all(a is b for a, b in zip(now, self.arrays, strict=True))

    def _run(self, batch):
        with self._narrowed():
            loss = self.model(**batch).loss
            loss.backward()
        if self.max_grad_norm:
            clip_grad_norm_(self.optimizer.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.data

    def _narrowed(self):
        """A block in which adapters beside weights in 16 bits are rounded to these all at once."""
        narrow = next((p.dtype for p in self.parameters if in_16_bits(p.dtype)), None)
        matrices = [p.data for p in self.parameters if p.dtype == np.float32 and p.requires_grad and p.ndim == 2]
        if narrow is None or not matrices or not on_gpu(matrices[0]):
            return nullcontext()
        from ...autograd.cuda.narrow import narrowed_for_a_step

        return narrowed_for_a_step(matrices, narrow)


def recorded_step(model: Module, optimizer: Optimizer, max_grad_norm: float = 0.0) -> RecordedStep | None:
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
        return RecordedStep(model, optimizer, max_grad_norm)
    except ValueError:
        return None


def _checked(batch, model):
    """The batch as NumPy's int64, once it is known that the model can read it: in a replay nobody looks at it again."""
    if set(batch) != {"input_ids", "labels"}:
        raise ValueError(f"a recorded step takes input_ids and labels, not {', '.join(sorted(batch))}")
    ids, labels = (to_numpy(data(batch[name])) for name in ("input_ids", "labels"))
    ids, targets = model.checked_ids(ids), shift_labels(labels, ids.shape)
    model.check_positions(np.arange(ids.shape[1]))
    counts = targets != IGNORED
    check_ids(targets[counts], model.config.vocab_size, "target")
    if not counts.any():
        raise ValueError(f"the loss has nothing to average: every label after the first is {IGNORED}")
    return {"input_ids": ids.astype(np.int64, copy=False), "labels": labels.astype(np.int64, copy=False)}


def _check(model):
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, CausalLM):
        raise ValueError(f"a recorded step needs a language model of this library, not a {type(base).__name__}")
    if not all(on_gpu(p.data) and (p.dtype == "float32" or in_16_bits(p.dtype)) for p in model.parameters()):
        raise ValueError("a recorded step needs a model on a GPU, in float32 or 16 bits: call model.to('cuda') first")
    rates = [module.p for module in model.modules() if isinstance(module, Dropout)]
    rates += [getattr(module, "dropout", 0.0) for module in model.modules() if not isinstance(module, Dropout)]
    if any(rate for rate in rates if isinstance(rate, float)):
        raise ValueError("a recorded step would draw the same dropout masks every time: set all dropout to 0")
    if any(getattr(module, "draws", False) for module in model.modules()):
        raise ValueError("a recorded step would draw the same random numbers every time, and this adapter draws others")
