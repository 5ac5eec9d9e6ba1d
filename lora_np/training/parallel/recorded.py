"""A training step on a GPU that is recorded once and then started as a whole."""

from ...autograd.backend import on_gpu
from ...models.causal_lm import CausalLM
from ...models.prepared import PreparedBatch
from ...nn import Dropout
from ..optim import clip_grad_norm_

MOST_MISFITS = 4  # batches of other shapes, less those that fitted, after which a recording is given up


class RecordedStep:
    """Forward, backward, clipping and the optimizer's step of one batch, as one piece of work for the GPU.

        step = RecordedStep(model, optimizer)
        loss = step({"input_ids": ids, "labels": labels})    # a number on the GPU

    The first call runs as usual, the second, if its batch is of the same shape, is recorded, and from the third on it
    is replayed: the host hands over the batch and starts one thing. Batches of another shape, or with another number of
    targets, run as usual; if most are of that kind, the recording and its memory are given up. If weights or the
    optimizer's state were replaced, as `load_state_dict` does, the step is recorded anew.

    ValueError if the model is not on a GPU, if dropout is on, whose masks would be the same in every replay, or if a
    batch brings an attention_mask.

    model          a language model, or a PeftModel around one, in training mode
    max_grad_norm  gradients are scaled down together if their norm is larger; 0 turns this off
    """

    def __init__(self, model, optimizer, max_grad_norm=0.0):
        _check(model)
        self.model, self.optimizer, self.max_grad_norm = model, optimizer, max_grad_norm
        self.language_model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.parameters, self.misfits, self.given_up = list(model.parameters()), 0, False
        self._begin()

    def _begin(self):
        from ...autograd.cuda.record import Recording

        self.recording, self.loss = Recording(), None
        self.before = self.batch = None  # the batch of the last ordinary run, and the one that replays read
        self.places = []  # the arrays that the recording reads and writes

    def __call__(self, batch):
        if set(batch) != {"input_ids", "labels"}:
            raise ValueError(f"a recorded step takes input_ids and labels, not {', '.join(sorted(batch))}")
        new = PreparedBatch(self.language_model, **batch)
        if self.batch is not None and not self._in_place():
            self._begin()
        if self.given_up or (self.batch is not None and not self.batch.fits(new)):
            self._count(1)
            return self._run(new)
        if self.batch is not None:
            self._count(-1)
            self.batch.take(new)
            self.recording.replay()
        elif self.before is not None and self.before.fits(new):
            self.loss, self.batch = self.recording.record(lambda: self._run(new)), new
            self.places = self._places()
        else:
            self.before = new
            with self.recording.place():
                self.loss = self._run(new)
        return self.loss.copy()  # into memory that no replay writes to

    def _count(self, change):
        """Count batches that do not fit the recording against those that do; too many, and it is given up."""
        self.misfits = max(0, self.misfits + change)
        if self.misfits > MOST_MISFITS and not self.given_up:
            self._begin()
            self.given_up = True

    def _places(self):
        """The arrays of the weights and of the optimizer's state."""
        states = (value for state in self.optimizer.state.values() for value in state.values())
        return [p.data for p in self.parameters] + [value for value in states if not isinstance(value, int)]

    def _in_place(self):
        """Are these still the arrays that were recorded?"""
        now = self._places()
        return len(now) == len(self.places) and all(a is b for a, b in zip(now, self.places, strict=True))

    def _run(self, batch):
        loss = self.model(batch).loss
        loss.backward()
        if self.max_grad_norm:
            clip_grad_norm_(self.optimizer.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.data


def recorded_step(model, optimizer, max_grad_norm=0.0):
    """A `RecordedStep` where that is possible and only adapters are trained, else None.

    An embedding that is trained looks at its ids on the host, for which a recording can not stop.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if not names or not all("lora_" in name and "lora_embedding" not in name for name in names):
        return None
    try:
        return RecordedStep(model, optimizer, max_grad_norm)
    except ValueError:
        return None


def _check(model):
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, CausalLM):
        raise ValueError(f"a recorded step needs a language model of this library, not a {type(base).__name__}")
    if not all(on_gpu(p.data) and p.dtype == "float32" for p in model.parameters()):
        raise ValueError("a recorded step needs a model in float32 on a GPU: call model.to('cuda') first")
    rates = [module.p for module in model.modules() if isinstance(module, Dropout)]
    rates += [getattr(module, "dropout", 0.0) for module in model.modules() if not isinstance(module, Dropout)]
    if any(rate for rate in rates if isinstance(rate, float)):
        raise ValueError("a recorded step would draw the same dropout masks every time: set all dropout to 0")
