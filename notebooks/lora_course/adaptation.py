"""One experiment, many methods: adapt the small base model from Python source to English prose.

Data, order of the batches, number of steps and evaluation are the same whatever is trained: LoRA in any
configuration, everything, or the head alone. What differs in the outcome then comes from the method.
"""

import dataclasses
import time

import numpy as np

from lora_np.autograd import manual_seed
from lora_np.cli.task import evenly_spaced as spread
from lora_np.lora import LoraConfig, get_peft_model
from lora_np.models import AutoModelForCausalLM, AutoTokenizer
from lora_np.models.loading.auto import TINY_PYTHON
from lora_np.training import TextData, TrainingArguments, prose_documents, python_documents, train
from lora_np.training.data import split_documents

PROSE, SOURCE = "English prose", "Python source"


@dataclasses.dataclass
class Outcome:
    """What a run gave. Losses are in nats per byte, on held-out text."""

    history: dict  # as `training.train` returns it
    prose: float  # on the text that was learnt
    source: float  # on what the base had been trained on: what was forgotten
    trainable: int  # parameters
    seconds: float  # of training, evaluations included
    model: object  # trained

    @property
    def bytes(self):
        """The size of what was trained, in float32: of an adapter's file, but for its header."""
        return 4 * self.trainable


class Adaptation:
    """The task, loaded once; `run` it with one method after another.

    steps, batch_size, window   the budget: what each run sees
    evaluations                 how many windows of each held-out text are looked at
    held_out                    "test" for results; "validation" for choosing, such as a learning rate
    device                      "cpu" or "cuda"
    """

    def __init__(self, steps=160, batch_size=16, window=256, evaluations=64, held_out="test", device="cpu"):
        self.steps, self.device = steps, device
        self.tokenizer = AutoTokenizer.from_pretrained(TINY_PYTHON)
        prose = split_documents(prose_documents())
        source = split_documents(python_documents(), held_out=0.05)
        self.train = TextData(prose["train"], self.tokenizer, window, batch_size)
        texts = {PROSE: prose[held_out], SOURCE: source[held_out]}
        self.evaluation = {
            name: spread(TextData(text, self.tokenizer, window, batch_size).windows(), evaluations)
            for name, text in texts.items()
        }

    def base(self):
        """The base model as it is shipped, fresh: it has seen Python source and no prose."""
        return AutoModelForCausalLM.from_pretrained(TINY_PYTHON, device=self.device)

    def prepare(self, method, seed=0):
        """A model to train. `method` is a LoraConfig, "full" (everything learns) or "head" (only the output layer)."""
        manual_seed(seed)
        model = self.base()
        if isinstance(method, LoraConfig):
            return get_peft_model(model, method)
        if method == "head":
            return self._head_only(model)
        if method != "full":
            raise ValueError(f'method must be a LoraConfig, "full" or "head", got {method!r}')
        return model

    def _head_only(self, model):
        """The head shares its weight with the embedding; to train it alone it gets a copy of its own."""
        separate = type(model)(dataclasses.replace(model.config, tie_word_embeddings=False)).to(self.device)
        state = model.state_dict()
        separate.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"].copy()})
        separate.requires_grad_(False)
        separate.lm_head.requires_grad_(True)
        return separate

    def run(self, method, learning_rate=1e-2, seed=0, eval_every=None, progress=False, **arguments):
        """Train by one method; an `Outcome`. The seed decides A's initialisation and the order of the batches.

        eval_every: steps between evaluations, None for one before and one after. `arguments` are further fields of
        TrainingArguments, such as loraplus_lr_ratio.
        """
        model = self.prepare(method, seed)
        args = TrainingArguments(
            steps=self.steps,
            learning_rate=learning_rate,
            warmup_steps=min(10, self.steps // 10),
            eval_every=eval_every or self.steps,
            seed=seed,
            **arguments,
        )
        began = time.perf_counter()
        history = train(model, self.train, args, self.evaluation, progress=progress)
        seconds = time.perf_counter() - began
        last, trainable = history["evaluation"][-1], sum(p.size for p in model.parameters() if p.requires_grad)
        return Outcome(history, last[PROSE], last[SOURCE], trainable, seconds, model)


def spread_of(values):
    """(mean, standard deviation over runs): with the n - 1 of a sample; the deviation of a single value is 0."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
