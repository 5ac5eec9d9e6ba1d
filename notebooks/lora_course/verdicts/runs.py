"""One run of a point: train the small model by one method, and look at it at marked steps."""

import copy
import sys
import time
from pathlib import Path

import numpy as np

from lora_np import LoraConfig, get_peft_model
from lora_np.autograd import manual_seed
from lora_np.autograd.devices import to_device, to_numpy
from lora_np.cli.task import evenly_spaced
from lora_np.lora.intruders import reduce_intruder_dimension
from lora_np.models import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from lora_np.nn import uniform
from lora_np.training import TextData, TrainingArguments, evaluate, prose_documents, python_documents
from lora_np.training.data import split_documents
from lora_np.training.loop import TrainingRun
from lora_np.training.pretrain import CONFIG

from ..adaptation import PROSE, Adaptation
from ..sweep import TARGETS
from . import capacity, family, four_bits, reward, second, second_bits, second_rank
from .along import look_along
from .points import settings

LOSSES = ("validation", "prose", "source")  # in nats per byte: validation prose chooses, test prose and source count
TOP, SIMILAR = 10, 0.5  # intruders are looked for among so many directions, with cosines below this
STRENGTHS = (0.75, 0.5, 0.0)  # what is left of the intruders in the models that are tried without them
LOOKED_INTO = ("curves",)  # data sets whose updates are measured, too
OWN = {  # data sets with models and data of their own
    "capacity": capacity.run,
    "larger": capacity.run,
    "reward": reward.run,
    "second": second.run,
    "second_bits": second_bits.run,
    "second_rank": second_rank.run,
}


class Mixed:
    """Batches of text that is learnt, with some rows of text that was known before: replay."""

    def __init__(self, new, old, rows):
        self.new, self.old = with_rows(new, new.batch_size - rows), with_rows(old, rows)
        self.batch_size = new.batch_size

    def batch(self, seed, step):
        new, old = self.new.batch(seed, step), self.old.batch(seed + 1000, step)
        return {name: np.concatenate([new[name], old[name]]) for name in new}


def with_rows(data, rows):
    """The same text in batches of another size."""
    other = copy.copy(data)
    other.batch_size = rows
    return other


class Bench:
    """Text and base models, loaded once; `run` makes one point after another.

    small   short runs of little text, for a try: the numbers mean nothing
    bases   the folder of the bases of other widths
    """

    def __init__(self, device="cpu", small=False, bases="runs/verdict_bases"):
        self.device, self.small, self.bases = device, small, Path(bases) / ("small" if small else "full")
        sizes = settings("curves", {"method": "full"}, small)
        window, count = sizes["window"], sizes["evaluations"]
        self.task = Adaptation(1, window=window, evaluations=count, held_out="validation", device=device)
        self.source_parts = split_documents(python_documents(), held_out=0.05)
        test = (split_documents(prose_documents())["test"], self.source_parts["test"])
        prose, source = (evenly_spaced(self._data_of(text, 16).windows(), count) for text in test)
        self.held_out = {"validation": self.task.evaluation[PROSE], "prose": prose, "source": source}
        self._source = None

    def _data_of(self, documents, rows):
        return TextData(documents, self.task.tokenizer, self.task.train.length, rows)

    @property
    def source(self):
        """The source that bases are trained on, and that replay takes from."""
        if self._source is None:
            parts = self.source_parts["train"]
            self._source = self._data_of(dict(list(parts.items())[:40]) if self.small else parts, 16)
        return self._source

    def losses(self, model):
        """The three losses of a model, rounded."""
        with family.without_terms(model):
            return {name: round(evaluate(model, text, batch_size=64), 5) for name, text in self.held_out.items()}

    def run(self, name, point, marks=None):
        """The point of data set `name` with what came of it; see `data.py`.

        marks: other steps to look at than usual; the run ends at the last of them.
        """
        if name in OWN:
            return OWN[name](point, self.small, self.device, marks)
        sizes = settings(name, point, self.small)
        sizes["marks"] = marks or sizes["marks"]
        if point["method"] == "base":
            return self._make_base(point, sizes)
        if name == "times":
            return self._time(name, point, sizes)
        began = time.perf_counter()
        try:
            model, observer, diverged = self._trained(name, point, sizes)
        except Exception as error:
            if self.device == "cpu":
                raise
            print(f"not recorded: {name} {point}: {error!r:.300}", file=sys.stderr, flush=True)
            model, observer, diverged = self._trained(name, point, sizes, recorded=False)
        reduced = observer.reduced() if name in LOOKED_INTO and not diverged else {}
        trainable = sum(p.size for p in model.parameters() if p.requires_grad)
        if name == "four_bits" and not diverged:
            reduced = four_bits.after(model, self.losses, point["method"])
        return {
            **point,
            **observer.columns,
            **reduced,
            "trainable": trainable,
            "seconds": round(time.perf_counter() - began, 2),
            "diverged": diverged,
        }

    def _trained(self, name, point, sizes, recorded=True):
        """(model, observer, has it diverged?)"""
        model, extra = self._prepare(name, point)
        observer = Observer(self, model, point, into=name in LOOKED_INTO)
        data, args = self._data(point, sizes), _arguments(point, sizes, extra)
        return model, observer, self._train(model, data, args, sizes, observer, recorded)

    def _train(self, model, data, args, sizes, observer, recorded=True):
        """Train, and look at each mark; has it diverged? recorded: on a GPU, may the step be recorded and replayed?"""
        return look_along(model, data, args, sizes["marks"], observer.look, recorded)

    def _data(self, point, sizes):
        data = with_rows(self.task.train, sizes["batch"])
        replay = point.get("replay")
        return Mixed(data, self.source, max(1, replay * sizes["batch"] // 16)) if replay else data

    def base(self, width=None):
        """The shipped base, or one of another width that was made for the scaling runs."""
        if width is None:
            return self.task.base()
        return AutoModelForCausalLM.from_pretrained(self.bases / str(width), device=self.device)

    def _prepare(self, name, point):
        """(model, arguments of the training that go with its method)."""
        manual_seed(point["seed"])
        model = self.base(point.get("width"))
        if name == "four_bits":
            return get_peft_model(four_bits.rounded(model, point["method"]), four_bits.config(point["method"])), {}
        if point["method"] == "full":
            return model, {}
        if name in ("family", "times"):
            config = family.CONFIGS[point["method"]](point["size"])
            return get_peft_model(model, config), family.ARGUMENTS.get(point["method"], {})
        model = get_peft_model(model, lora_config(point))
        if point.get("start") == "B first":
            turn_start(model)
        return model, {"weight_decay": point.get("weight_decay", 0.0)}

    def _time(self, name, point, sizes):
        """The median time of a step, in milliseconds, once it runs steadily."""
        model, extra = self._prepare(name, point)
        data = self._data(point, sizes)
        run = TrainingRun(model, _arguments(point, sizes, extra))
        model.train()
        run.watch.keep()
        times = []
        for step in range(sizes["steps"]):
            began = time.perf_counter()
            run.one_step(data)
            run.watch.settle()  # waits for a GPU
            if step >= sizes["steps"] // 3:
                times.append(1e3 * (time.perf_counter() - began))
        trainable = sum(p.size for p in model.parameters() if p.requires_grad)
        return {**point, "milliseconds": round(float(np.median(times)), 3), "trainable": trainable}

    def _make_base(self, point, sizes):
        """Train a base of one width on Python source, as the shipped one was, for fewer steps."""
        width = point["width"]
        manual_seed(point["seed"])
        shape = {**CONFIG, "n_embd": width, "n_head": width // 32, "n_positions": self.task.train.length}
        model = GPT2LMHeadModel(GPT2Config(**shape)).to(self.device)
        args = TrainingArguments(
            steps=sizes["steps"],
            learning_rate=3e-3 * min(1.0, (128 / width) ** 0.5),
            warmup_steps=sizes["steps"] // 10,
            min_lr_ratio=0.05,
            weight_decay=0.1,
            betas=(0.9, 0.98),
            seed=point["seed"],
        )
        observer = Observer(self, model, point, into=False)
        diverged = self._train(model, with_rows(self.source, sizes["batch"]), args, sizes, observer)
        model.to("cpu").save_pretrained(self.bases / str(width))
        return {**point, **observer.columns, "diverged": diverged}


def lora_config(point):
    """The LoraConfig of a point that is plain LoRA: its scaling s is alpha / r."""
    return LoraConfig(
        r=point["rank"],
        lora_alpha=point["scaling"] * point["rank"],
        target_modules=TARGETS[point["targets"]],
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )


def turn_start(model):
    """A zero and B uniform in ±1/√r, as A was in ±1/√in: the first step changes A, and B only then."""
    for _, layer in model.base_model.layers():
        A, B = layer.matrices("default")
        A.data[...] = 0
        B.data[...] = to_device(uniform(B.shape, 1 / np.sqrt(B.shape[1])), model.device)


def _arguments(point, sizes, extra):
    course = {"lr_scheduler_type": "constant_with_warmup"} if sizes["schedule"] == "constant" else {}
    warmup = min(10, sizes["steps"] // 10)
    return TrainingArguments(
        steps=sizes["steps"], learning_rate=point["rate"], warmup_steps=warmup, seed=point["seed"], **course, **extra
    )


class Observer:
    """Looks at a model in training: its losses and, if `into`, the size of the update and its intruders.

    columns: {name: [a value for each mark]}
    """

    def __init__(self, bench, model, point, into):
        self.bench, self.model, self.point, self.into = bench, model, point, into
        names = ("step", *LOSSES, *(("size", "intruders") if into else ()))
        self.columns = {name: [] for name in names}
        if into:
            self.before = linear_weights(bench.base(point.get("width")))
            self.directions = {n: np.linalg.svd(W, full_matrices=False)[0] for n, W in self.before.items()}

    def look(self, step):
        """Note what there is to see after this step."""
        seen = {"step": step, **self.bench.losses(self.model)}
        if self.into:
            deltas = self.deltas()
            seen["size"] = round(relative_size(deltas, self.before), 5)
            seen["intruders"] = self.intruders(deltas)
        for name, value in seen.items():
            self.columns[name].append(value)

    def deltas(self):
        """{layer: ΔW (out, in)}."""
        if self.point["method"] == "full":
            return {n: W - self.before[n] for n, W in linear_weights(self.model).items()}
        layers = self.model.base_model.layers()
        return {n.removeprefix("transformer."): to_numpy(layer.delta_weight("default")) for n, layer in layers}

    def intruders(self, deltas):
        """How many of the 10 strongest left directions of each W + ΔW are like none of W."""
        count = 0
        for n, delta in deltas.items():
            U = np.linalg.svd(self.before[n] + delta, full_matrices=False)[0]
            count += int((np.abs(U[:, :TOP].T @ self.directions[n]).max(axis=1) < SIMILAR).sum())
        return count

    def reduced(self):
        """{"reduced": {strength: {loss: value}}}: the trained model with its intruders made smaller. LoRA only."""
        if self.point["method"] != "LoRA":
            return {}
        found = {}
        for strength in STRENGTHS:
            options = {"top_k": TOP, "threshold_epsilon": SIMILAR, "mitigation_lambda": strength, "logging_sink": None}
            reduce_intruder_dimension(self.model, new_adapter_name="fewer", **options)
            found[str(strength)] = self.bench.losses(self.model)
            self.model.set_adapter("default")
            self.model.delete_adapter("fewer")
        return {"reduced": found}


def linear_weights(model):
    """{layer: W (out, in)} of the linear layers in the blocks, as NumPy arrays of their own."""
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    found = {}
    for i in range(model.config.n_layer):
        for name in names:
            layer = model.get_submodule(f"transformer.h.{i}.{name}")
            found[f"h.{i}.{name}"] = to_numpy(layer.weight.data).T.copy()
    return found


def relative_size(deltas, weights):
    """‖ΔW‖ / ‖W‖ over all layers."""
    total = {id(kind): sum(float(np.square(X).sum()) for X in kind.values()) for kind in (deltas, weights)}
    return (total[id(deltas)] / total[id(weights)]) ** 0.5
