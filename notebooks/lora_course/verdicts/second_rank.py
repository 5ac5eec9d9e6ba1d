"""Of what rank is full training's update at the second scale? SmolLM2-135M, in the runs of second_bits.py.

All of the model is trained on the 24 batches that LoRA reads there. Each linear layer's ΔW is then taken apart, and all
but its k strongest directions are cut off: once with all else as in the base, once with all else as trained.
`python -m lora_course.verdicts second_rank` makes the runs on two CPU cores.
"""

import copy
import time

import numpy as np

from lora_np.autograd import manual_seed
from lora_np.nn import Conv1D, Linear
from lora_np.training import TrainingArguments

from .along import look_along
from .data import shipped
from .four_bits import FLOAT, trained
from .second_bits import SEEDS, STEPS, base_of, losses_before, losses_of, texts_of
from .statistics import final, interval
from .verdict import Verdict, above, below, decided

RATE = 2e-4  # the best of second.py's search, in runs of four times the length
CUTS = (1, 8, 64)  # directions that are left
SHARES = (0.5, 0.9)  # of the energy
WIDTH = 576  # singular values of the layers whose spectra are told: all but those of keys and values
MOST = 0.9  # of the gain


def plan(done=()):
    """A run for each seed."""
    return [{"method": "full", "rate": RATE, "seed": seed} for seed in SEEDS]


def small_plan(done=()):
    """One run."""
    return plan()[:1]


def _weights(model):
    """{name: Parameter} of the linear layers, without the head."""
    head = model.get_output_embeddings()
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, (Linear, Conv1D))]
    return {name: module.weight for name, module in layers if module is not head}


def energy(squares):
    """(share of the energy in the first 8 directions, directions for each of SHARES): means over matrices of one width.

    squares (matrices, width): those of the singular values, the largest first.
    """
    shares = squares.cumsum(axis=1) / squares.sum(axis=1, keepdims=True)
    directions = [(1 + (shares < share).sum(axis=1)).mean() for share in SHARES]
    return [round(float(x), 4) for x in (shares[:, 7].mean(), *directions)]


def _gram(array):
    """The smaller of W Wᵀ and Wᵀ W, in float64: its eigenvalues are the squares of W's singular values."""
    wide = (array if array.shape[0] <= array.shape[1] else array.T).astype(np.float64)
    return wide @ wide.T


def _spectra(arrays):
    """The `energy` of those of the most usual width."""
    values = [np.linalg.eigvalsh(_gram(array))[::-1] for array in arrays]
    lengths, counts = np.unique([len(v) for v in values], return_counts=True)
    return energy(np.array([v for v in values if len(v) == lengths[counts.argmax()]]))


def taken_apart(model, base, loss):
    """{"energy": of ΔW, of W and of random numbers, "cut": {k: the loss with all else as in `base`, as in `model`}}.

    "all" for ΔW as it is. The weights of `model` are changed.
    """
    old = {name: p.data for name, p in _weights(base).items()}
    new = {name: p.data for name, p in _weights(model).items()}
    rng = np.random.default_rng(0)
    arrays = {
        "update": [new[name] - W for name, W in old.items()],
        "weight": list(old.values()),
        "random": [rng.standard_normal(W.shape, np.float32) for W in old.values()],
    }
    spectra = {name: _spectra(found) for name, found in arrays.items()}
    pieces = {name: _first(new[name] - W, max(CUTS)) for name, W in old.items()}
    alone, cut = copy.deepcopy(base), {}
    for k in (*CUTS, "all"):
        for where in (alone, model):
            for name, p in _weights(where).items():
                left, right = pieces[name]
                p.data = new[name] if k == "all" else old[name] + left[:, :k] @ right[:k]
        cut[str(k)] = [loss(alone), loss(model)]
    return {"energy": spectra, "cut": cut}


def _first(delta, k):
    """(U, Uᵀ ΔW) of the first k directions, or (ΔW V, Vᵀ): the first columns and rows of both give the best cuts."""
    directions = np.linalg.eigh(_gram(delta))[1][:, ::-1][:, :k].astype(delta.dtype)
    if delta.shape[0] <= delta.shape[1]:
        return directions, directions.T @ delta
    return delta @ directions, directions.T


def run(point, small=False, device="cpu", marks=None):
    """A point with its losses before and after, and what its update is made of."""
    began = time.perf_counter()
    text, held_out = texts_of(small)
    manual_seed(point["seed"])
    base = copy.deepcopy(base_of(small))
    model = copy.deepcopy(base).to(device)
    steps = 4 if small else STEPS
    columns = {"step": [0], **{name: [loss] for name, loss in losses_before(FLOAT, small, device).items()}}
    args = TrainingArguments(steps=steps, learning_rate=point["rate"], warmup_steps=steps // 10, seed=point["seed"])

    def look(step):
        for name, value in {"step": step, **losses_of(model, held_out)}.items():
            columns[name].append(value)

    diverged = look_along(model, text, args, marks or (steps,), look)
    trainable = sum(p.size for p in model.parameters() if p.requires_grad)
    prose = {"prose": held_out["prose"]}
    found = {} if diverged else taken_apart(model.to("cpu"), base, lambda model: losses_of(model, prose)["prose"])
    seconds = round(time.perf_counter() - began, 2)
    return {**point, **columns, "trainable": trainable, **found, "seconds": seconds, "diverged": diverged}


def parts(runs, k, column):
    """The part of each run's gain that is left when its update is cut to k; all else as in the base (0) or not (1)."""
    return [(run["prose"][0] - run["cut"][str(k)][column]) / (run["prose"][0] - final(run)) for run in runs]


def learnt(data):
    """What LoRA of rank 8 learns of the same batches, as a part of full training's gain: an interval over seeds."""
    gain = interval([run["prose"][0] - final(run) for run in data["runs"]])[0]
    return interval([(run["prose"][0] - final(run)) / gain for run in trained(shipped("second_bits"))[FLOAT]])


def verdicts(data):
    """The claim of notebook 09, by a rule that was written before the runs."""
    runs = data["runs"]
    eight, lora = interval(parts(runs, 8, 1)), learnt(data)
    numbers = {f"cut to {k}, all else as trained, part of the gain": interval(parts(runs, k, 1)) for k in CUTS}
    numbers["LoRA of rank 8 on the same batches, part of the gain"] = lora
    numbers[f"directions of {WIDTH} for nine tenths of ΔW's energy"] = interval(
        [r["energy"]["update"][2] for r in runs]
    )
    return [
        Verdict(
            "SmolLM2: the update of full training is of low rank",
            "tutorials, after [Hu et al., 2021](https://arxiv.org/abs/2106.09685)",
            numbers,
            len(SEEDS),
            f"cut to rank 8, it keeps {MOST} of the gain, the whole interval",
            decided(above(eight, MOST), below(eight, MOST)),
            "Its energy lies in many directions, and yet the first 8 of 576 keep about nine tenths of the gain.",
            ("second_rank", "second_bits"),
        )
    ]


def table(data):
    """{"energy": {what: means over seeds}, "cut": {k: [alone, beside]}} as parts of the gain."""
    runs = data["runs"]
    spectra = {what: np.mean([run["energy"][what] for run in runs], axis=0) for what in runs[0]["energy"]}
    cut = {k: [float(np.mean(parts(runs, k, column))) for column in (0, 1)] for k in runs[0]["cut"]}
    return {"energy": spectra, "cut": cut}
