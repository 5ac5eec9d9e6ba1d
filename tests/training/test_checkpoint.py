"""A run which was stopped goes on as if it had not been; files that do not fit are refused."""

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from interruption_helpers import interrupted, points_of
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from training_helpers import (
    ARGS,
    FILE,
    KINDS,
    MODELS,
    Batches,
    CallsBefore,
    StopHereError,
    child,
    full,
    lora,
    run,
    saved_step,
    stop,
    text_data,
    tiny,
    weights,
)

import lora_np
from lora_np import (
    LoraConfig,
    TrainingArguments,
    get_peft_model,
)
from lora_np.training.checkpoint import load_checkpoint
from lora_np.training.loop import TrainingRun

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("optim", "kept"), [("adamw_8bit", "uint8"), ("galore_adamw", "float32")])
def test_a_run_with_another_optimizer_goes_on_too(tmp_path, optim, kept, device):
    """In 8 bits, m of the embedding is; GaLore keeps what it projects on."""
    whole = full().to(device)
    history = run(whole, optim=optim)
    with pytest.raises(StopHereError):
        run(full().to(device), tmp_path, CallsBefore(6, stop), optim=optim)
    state = load_file(tmp_path / FILE)
    assert kept in {str(array.dtype) for name, array in state.items() if name.endswith(".m")}
    assert any(name.endswith((".m_absmax", ".projection")) for name in state)
    model = full(1).to(device)
    assert run(model, tmp_path, resume=True, optim=optim) == history
    assert weights(model.to("cpu")) == weights(whole.to("cpu"))
    with pytest.raises(ValueError, match=f"optim was '{optim}', now 'adamw'"):
        run(full(), tmp_path, resume=True)


@KINDS
def test_a_run_whose_weights_are_in_bfloat16_goes_on_too(tmp_path, make):
    pytest.importorskip("ml_dtypes")
    whole = make().to("bfloat16")
    history = run(whole)
    with pytest.raises(StopHereError):
        run(make().to("bfloat16"), tmp_path, CallsBefore(6, stop))
    model = make(1).to("bfloat16")
    assert run(model, tmp_path, resume=True) == history
    assert weights(model) == weights(whole)
    with pytest.raises(ValueError, match="is bfloat16 there and float32 here"):
        run(make(1), tmp_path, resume=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("accumulation", [1, 2])
@KINDS
def test_a_run_that_goes_on_gives_the_numbers_of_one_that_never_stopped(tmp_path, make, device, accumulation):
    """Broken off in step 6 and again in step 10, it goes on from steps 4 and 8, in models that start otherwise."""
    whole = make().to(device)
    history = run(whole, accumulation=accumulation)
    for seed, broken_off, resume in ((0, 6, False), (1, 10, True)):
        data = CallsBefore(broken_off * accumulation, stop)
        with pytest.raises(StopHereError):
            run(make(seed).to(device), tmp_path, data, resume, accumulation=accumulation)
    model = make(2).to(device)
    assert weights(model.to("cpu")) != weights(whole.to("cpu"))
    assert run(model.to(device), tmp_path, resume=True, accumulation=accumulation) == history
    assert weights(model.to("cpu")) == weights(whole.to("cpu"))


@KINDS
def test_the_same_model_can_go_on_after_an_error_in_the_middle_of_a_step(tmp_path, make):
    """What the broken step had added to the gradients is not part of the next one."""
    whole, model = make(), make()
    history = run(whole, accumulation=2)
    ids = [text_data().batch(ARGS["seed"], i)["input_ids"] for i in range(14)]
    ids[13][0, 0] = 999  # refused by the model, after the first batch of the step has gone through it
    with pytest.raises(IndexError, match="999"):
        run(model, tmp_path, Batches(ids), accumulation=2)
    assert run(model, tmp_path, resume=True, accumulation=2) == history
    assert weights(model) == weights(whole)


def test_a_finished_run_goes_on_with_nothing_and_returns_its_history(tmp_path):
    """There is a checkpoint at the end, also of a run whose length is no multiple of `checkpoint_every`."""
    model, again = full(), full(1)
    history = run(model, tmp_path, steps=10)
    assert run(again, tmp_path, Batches([]), resume=True, steps=10) == history
    assert weights(again) == weights(model)


def test_a_checkpoint_of_an_adapter_is_small(tmp_path):
    """A and B with two moments each: the frozen weights are not in it."""
    model = lora()
    run(model, tmp_path)
    trainable = model.num_parameters(only_trainable=True)
    with safe_open(tmp_path / FILE, "np") as file:
        names = file.keys()
        sizes = [file.get_tensor(name).size for name in names]
    assert sum(sizes) == 3 * trainable + 2
    assert trainable < model.num_parameters() / 10


CHANGES = [
    {"steps": 11},
    {"learning_rate": 0.02},
    {"warmup_steps": 2},
    {"min_lr_ratio": 0.2},
    {"weight_decay": 0.1},
    {"betas": (0.9, 0.99)},
    {"max_grad_norm": 2.0},
    {"accumulation": 2},
    {"eval_every": 6},
    {"seed": 8},
]


def assert_refused(model, directory, error, message, **changes):
    """Resuming says what is wrong, and leaves the model and the file as they were."""
    before, path = weights(model), Path(directory) / FILE
    content = path.read_bytes() if path.is_file() else None
    with pytest.raises(error, match=message):
        run(model, directory, resume=True, **changes)
    assert weights(model) == before
    assert all(p.grad is None for p in model.parameters())
    assert content is None or path.read_bytes() == content


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """{kind: directory with the checkpoint after step 4 of a run}."""
    directories = {name: tmp_path_factory.mktemp(name) for name in MODELS}
    for name, directory in directories.items():
        with pytest.raises(StopHereError):
            run(MODELS[name](), directory, CallsBefore(5, stop))
    return directories


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_run_with_other_arguments_is_refused(stopped, change):
    ((name, value),) = change.items()
    shown = str(value).strip("()")
    assert_refused(full(1), stopped["full"], ValueError, rf"{FILE} .*other arguments: {name} was .*{shown}", **change)


def lora_elsewhere():
    return get_peft_model(tiny(), LoraConfig(r=4, target_modules=["c_fc"], fan_in_fan_out=True))


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        pytest.param("full", lambda: tiny(width=32), id="other-width"),
        pytest.param("full", lambda: lora(1), id="adapter-for-full"),
        pytest.param("lora", lambda: full(1), id="full-for-adapter"),
        pytest.param("lora", lambda: lora(1, r=2), id="other-rank"),
        pytest.param("lora", lora_elsewhere, id="other-target"),
    ],
)
def test_a_run_of_another_model_is_refused(stopped, kind, make):
    assert_refused(make(), stopped[kind], ValueError, rf"{FILE} .*another model")


def damaged(path, how):
    """Spoil the checkpoint at `path`."""
    content = path.read_bytes()
    if how == "text":
        path.write_text("these are not weights")
    elif how == "header":
        path.write_bytes(content[:20] + b"\xff\xff" + content[22:])
    elif how == "weights only":
        save_file({"model.weight": np.zeros(3)}, path)
    elif how in ("run is not JSON", "run is empty", "run is a list"):
        run = {"run is not JSON": "{", "run is empty": "{}", "run is a list": "[]"}[how]
        save_file({"model.weight": np.zeros(3)}, path, {"run": run})
    else:
        path.write_bytes(content[:how])


DAMAGE = [0, 7, 100, 5000, -1, "text", "header", "weights only", "run is not JSON", "run is empty", "run is a list"]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(stopped, tmp_path, how):
    path = tmp_path / FILE
    path.write_bytes((stopped["full"] / FILE).read_bytes())
    damaged(path, how)
    assert_refused(full(1), tmp_path, ValueError, rf"{tmp_path / FILE} ")


def test_a_checkpoint_that_is_not_there(tmp_path):
    assert_refused(full(), tmp_path / "nowhere", FileNotFoundError, rf"nowhere/{FILE} does not exist")
    (tmp_path / FILE).mkdir()
    assert_refused(full(), tmp_path, FileNotFoundError, rf"{FILE} is a directory")


def test_going_on_from_no_directory_is_refused():
    with pytest.raises((ValueError, TypeError), match=r"directory"):
        run(full(), None, resume=True)


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    whole = full()
    history = run(whole)
    with pytest.raises(OSError, match="No space"):
        run(full(), tmp_path, CallsBefore(5, lambda: monkeypatch.setattr(os, "fsync", no_space)))
    assert os.listdir(tmp_path) == [FILE]
    monkeypatch.undo()
    model = full(1)
    assert run(model, tmp_path, resume=True) == history
    assert weights(model) == weights(whole)


def killed_while_saving(kind, directory, moment):
    """In a process of its own: train, and be killed in the second save."""

    def kill(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    written = []

    def half_written(array):
        written.append(array)
        return kill() if len(written) == 5 else array

    def after(*paths, replace=os.replace):
        replace(*paths)
        kill()

    interrupted_calls = {
        "in the middle of writing": (lora_np.storage.safetensors, "to_numpy", half_written),
        "before it is on the disk": (os, "fsync", kill),
        "before it is renamed": (os, "replace", kill),
        "after it is renamed": (os, "replace", after),
    }
    run(MODELS[kind](), directory, CallsBefore(5, lambda: setattr(*interrupted_calls[moment])))


@pytest.mark.parametrize(
    ("kind", "moment", "step"),
    [
        ("full", "in the middle of writing", 4),
        ("full", "before it is on the disk", 4),
        ("lora", "before it is renamed", 4),
        ("full", "after it is renamed", 8),
    ],
)
def test_a_kill_while_saving_loses_nothing(tmp_path, kind, moment, step):
    process = child(__file__, "killed_while_saving", kind, str(tmp_path), moment)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert saved_step(tmp_path) == step
    whole, model = MODELS[kind](), MODELS[kind](1)
    assert run(model, tmp_path, resume=True) == run(whole)
    assert weights(model) == weights(whole)


def rewritten(source, path, change):
    """The checkpoint of `source` at `path`, after `change` has been called with its arrays and what its header says."""
    arrays = load_file(source)
    with safe_open(source, "np") as file:
        state = json.loads(file.metadata()["run"])
    change(arrays, state)
    save_file(arrays, path, {"run": json.dumps(state)})


def says(**changes):
    return lambda arrays, state: state.update(changes)


def history_says(**changes):
    return lambda arrays, state: state["history"].update(changes)


def holds(changed, part):
    """The arrays whose names begin so, changed by a function that returns None for those to be left out."""

    def change(arrays, state):
        for name in [name for name in arrays if name.startswith(part)]:
            array = changed(arrays.pop(name))
            arrays |= {} if array is None else {name: np.asarray(array)}

    return change


def not_finite(number):
    def spoil(array):
        return np.full_like(array, number) if array.ndim else array

    return spoil


LOSSES = [5.0, 4.0, 3.0, 2.0]
LIES = {
    "an earlier step than it has losses": (says(step=2), "is of step 2.*losses"),
    "a step after the end": (says(step=99), "step 99.*12 steps"),
    "a step before the beginning": (says(step=-1), "step -1"),
    "a step in words": (says(step="x"), "step 'x'"),
    "half a step": (says(step=4.0), r"step 4\.0"),
    "a step that is true": (says(step=True), "step True"),
    "no step": (says(step=None), "step None"),
    "losses that are nan": (history_says(loss=[5.0, math.nan, 3.0, 2.0]), "losses, all finite.*nan"),
    "losses that are infinite": (history_says(loss=[5.0, math.inf, 3.0, 2.0]), "losses, all finite.*inf"),
    "losses that are words": (history_says(loss=["a", "b", "c", "d"]), "losses.*'a'"),
    "no list of losses": (history_says(loss="abcd"), "losses.*abcd"),
    "too few learning rates": (history_says(learning_rate=LOSSES[:3]), "step 4.*learning rates"),
    "an evaluation that is nan": (history_says(evaluation=[{"step": 0, "a": math.nan}]), "evaluations.*nan"),
    "an evaluation of later": (history_says(evaluation=[{"step": 9, "a": 1.0}]), "evaluations.*9"),
    "evaluations out of order": (history_says(evaluation=[{"step": 3, "a": 1.0}, {"step": 0, "a": 1.0}]), "order"),
    "an evaluation without a step": (history_says(evaluation=[{"a": 1.0}]), "evaluations"),
    "evaluations that are none": (history_says(evaluation=3), "evaluations.*3"),
    "a history that is a list": (says(history=LOSSES), "not a training checkpoint"),
    "arguments that are a number": (says(arguments=7), "not a training checkpoint"),
    "weights that are nan": (holds(not_finite(math.nan), "model."), r"model\..* not finite"),
    "weights in another type": (holds(lambda a: a.astype("f8"), "model."), "float64 there and float32 here"),
    "moments that are infinite": (holds(not_finite(math.inf), "optimizer.0.m"), r"0\.m.*not finite"),
    "moments in another type": (holds(lambda a: a.astype("f8"), "optimizer.0.v"), r"0\.v.*float64.*float32"),
    "moments in another shape": (holds(lambda a: a.reshape(-1)[:2], "optimizer.0.m"), r"0\.m.*shape \(2,\)"),
    "a moment too few": (holds(lambda a: None, "optimizer.0.v"), "v is missing"),
    "no optimizer": (holds(lambda a: None, "optimizer."), "optimizer state"),
    "an optimizer ahead of it": (holds(lambda a: a + (a.ndim == 0), "optimizer.0.step"), "taken.*5"),
    "a moment of nobody": (lambda arrays, _: arrays.update({"optimizer.99.m": np.zeros(3)}), r"99\.m.*none of"),
    "a step that is no number of steps": (holds(lambda a: a + 0.5, "optimizer.0.step"), r"0\.step.*whole number"),
    "several steps for one": (holds(lambda a: np.array([a, a]), "optimizer.0.step"), r"0\.step.*whole number"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_checkpoint_that_no_run_can_have_written_is_refused(stopped, tmp_path, lie):
    change, message = LIES[lie]
    rewritten(stopped["full"] / FILE, tmp_path / FILE, change)
    assert_refused(full(1), tmp_path, ValueError, rf"{tmp_path / FILE} .*{message}")


def test_a_checkpoint_from_before_load_best_is_still_read(stopped, tmp_path):
    rewritten(stopped["full"] / FILE, tmp_path / FILE, lambda _, state: state["arguments"].pop("load_best"))
    whole, model = full(), full(1)
    assert run(model, tmp_path, resume=True) == run(whole)
    assert weights(model) == weights(whole)


def everything_of(a_run):
    """What a `TrainingRun` and its model hold, to be compared: the arrays themselves, and their numbers."""
    arrays = {name: (id(p.data), p.data.tobytes()) for name, p in a_run.model.named_parameters()}
    optimizer = {key: {n: np.asarray(v).tobytes() for n, v in s.items()} for key, s in a_run.optimizer.state.items()}
    rates = [group["lr"] for group in a_run.optimizer.param_groups]
    best = {name: array.tobytes() for name, array in a_run.best.weights.items()}
    modes = [module.training for module in a_run.model.modules()]
    return arrays, optimizer, rates, best, modes, a_run.step, json.dumps(a_run.history), a_run.watch.saved_step


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_resuming_that_is_broken_off_at_any_line_has_changed_nothing(tmp_path, error):
    settings = {**ARGS, "steps": 4, "load_best": True}
    run(lora(), tmp_path, **settings)
    a_run = TrainingRun(lora(1), TrainingArguments(**settings))
    a_run.one_step(text_data())
    before = everything_of(a_run)
    for at in points_of(lambda: load_checkpoint(TrainingRun(lora(1), TrainingArguments(**settings)), tmp_path)):
        if interrupted(lambda: load_checkpoint(a_run, tmp_path), at, error):
            assert everything_of(a_run) == before, f"line {at}"
    load_checkpoint(a_run, tmp_path)
    assert a_run.step == 4
    assert everything_of(a_run)[0] != before[0]
