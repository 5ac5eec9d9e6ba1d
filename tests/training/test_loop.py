"""The training loop: what a step does, and that a run which was stopped goes on as if it had not been."""

import contextlib
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import lora_np
from lora_np import (
    ByteTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LoraConfig,
    TextData,
    TrainingArguments,
    evaluate,
    get_peft_model,
    manual_seed,
    nn,
    train,
)

TEXT = "the quick brown fox jumps over the lazy dog; " * 40
ARGS = {"steps": 12, "learning_rate": 0.01, "warmup_steps": 3, "eval_every": 5, "checkpoint_every": 4, "seed": 7}
FILE = "checkpoint.safetensors"


def tiny(seed=0, dropout=0.0, vocab_size=256, width=16):
    manual_seed(seed)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(vocab_size, n_positions=16, n_embd=width, n_layer=1, n_head=2, **rates))


def full(seed=0):
    """A model trained whole, with dropout everywhere."""
    return tiny(seed, dropout=0.2)


def lora(seed=0, r=4):
    """An adapter on a base model that is always the same; only the adapter depends on the seed."""
    base = tiny(0, dropout=0.1)
    manual_seed(seed)
    return get_peft_model(base, LoraConfig(r=r, target_modules=["c_attn"], lora_dropout=0.3, fan_in_fan_out=True))


MODELS = {"full": full, "lora": lora}
KINDS = pytest.mark.parametrize("make", [full, lora])


def text_data(batch_size=4):
    return TextData({"text": TEXT}, ByteTokenizer(), 16, batch_size)


def run(model, directory=None, data=None, resume=False, **changes):
    data = data or text_data()
    held_out = {"held out": text_data().windows()[:5]}
    args = TrainingArguments(**{**ARGS, **changes})
    return train(model, data, args, held_out, directory, resume, progress=False)


def saved_step(directory):
    with safe_open(Path(directory) / FILE, "np") as file:
        return json.loads(file.metadata()["run"])["step"]


def weights(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


class Batches:
    """Ids given in advance, a batch per call; every token counts, unless there are labels that say otherwise."""

    def __init__(self, ids, labels=None):
        self.ids, self.labels = ids, labels or ids

    def batch(self, seed, step):
        return {"input_ids": self.ids[step], "labels": self.labels[step]}


def partly_labelled(ids, share=0.3, seed=0):
    """Labels for `ids` of which about this share counts: in the first rows less, in the last ones more."""
    rng = np.random.default_rng(seed)
    chance = 2 * share * np.linspace(0.1, 0.9, len(ids))[:, None]
    return np.where(rng.random(ids.shape) < chance, ids, -100)


class CallsBefore:
    """Text that calls a function when a given step asks for its batch."""

    def __init__(self, step, call):
        self.data, self.step, self.call = text_data(), step, call

    def batch(self, seed, step):
        if step == self.step:
            self.call()
        return self.data.batch(seed, step)


class StopHereError(Exception):
    """Stands for whatever may end a run from outside."""


def stop():
    raise StopHereError


class Plus(nn.Module):
    """A model whose loss, after some calls in training, has a number such as nan added. Gradients stay finite."""

    def __init__(self, model, number, good_calls):
        self.model, self.number, self.calls_left = model, number, good_calls

    def forward(self, input_ids, labels):
        out = self.model(input_ids=input_ids, labels=labels)
        if self.training:
            self.calls_left -= 1
            if self.calls_left < 0:
                out.loss = out.loss + self.number
        return out


def test_random_bytes_are_learnt_as_far_as_they_can_be():
    """Uniform random letters out of 4 have the entropy ln 4: the loss comes down to it and cannot go below."""
    letters = np.random.default_rng(0).choice([10, 20, 30, 40], 20_000)
    windows = letters.reshape(-1, 16)
    batches = Batches([windows[8 * i : 8 * i + 8] for i in range(120)])
    model = tiny()
    args = TrainingArguments(steps=120, learning_rate=0.02)
    history = train(model, batches, args, {"fresh": windows[960:]}, progress=False)
    first, *_, last = [entry["fresh"] for entry in history["evaluation"]]
    assert first == pytest.approx(math.log(256), abs=0.1)
    assert math.log(4) - 0.01 < last < math.log(4) + 0.05


@KINDS
def test_the_loss_falls_on_a_text_and_what_is_frozen_stays(make):
    model = make()
    frozen = {name: p.data.tobytes() for name, p in model.named_parameters() if not p.requires_grad}
    history = run(model, steps=60)
    first, last = history["evaluation"][0]["held out"], history["evaluation"][-1]["held out"]
    assert last < first - (1.5 if make is full else 0.05)
    assert bool(frozen) == (make is lora)
    for name, p in model.named_parameters():
        if not p.requires_grad:
            assert p.data.tobytes() == frozen[name]


@pytest.mark.parity
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5])
def test_a_run_is_torchs_adamw_on_the_same_gradients(max_grad_norm):
    """The loop written out once more with PyTorch's parts: clipping, the rate of each step, decay on matrices only."""
    import torch

    settings = {"steps": 8, "learning_rate": 0.01, "warmup_steps": 3, "min_lr_ratio": 0.2, "weight_decay": 0.5}
    args = TrainingArguments(**settings, betas=(0.8, 0.9), max_grad_norm=max_grad_norm)
    ours, model, data = tiny().to(dtype=np.float64), tiny().to(dtype=np.float64), text_data()
    history = train(ours, data, args, progress=False)

    theirs = {name: torch.nn.Parameter(torch.tensor(p.data)) for name, p in model.named_parameters()}
    matrices = [p for name, p in theirs.items() if p.ndim > 1]
    vectors = [p for name, p in theirs.items() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.9))
    for step, rise in enumerate([1 / 4, 2 / 4, 3 / 4, 1, None, None, None, None]):
        fall = 0.2 + 0.8 * (1 + math.cos(math.pi * (step - 3) / 5)) / 2
        model.load_state_dict({name: p.detach().numpy() for name, p in theirs.items()})
        model.zero_grad()
        loss = model(**data.batch(0, step)).loss
        loss.backward()
        for name, p in model.named_parameters():
            theirs[name].grad = torch.tensor(p.grad)
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(theirs.values(), max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (rise or fall)
        optimizer.step()
        assert history["loss"][step] == pytest.approx(loss.item(), abs=1e-12)
        assert history["learning_rate"][step] == pytest.approx(0.01 * (rise or fall), rel=1e-12)
    for name, p in ours.named_parameters():
        np.testing.assert_allclose(p.data, theirs[name].detach().numpy(), rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("accumulation", [2, 3])
@pytest.mark.parametrize("all_count", [True, False], ids=["all-count", "some-count"])
def test_accumulated_batches_are_one_large_batch(accumulation, all_count):
    """Also where one batch has many more targets than the next: each target weighs the same."""

    def joined(batches):
        return [np.concatenate(batches[i : i + accumulation]) for i in range(0, len(batches), accumulation)]

    ids = [text_data(2).batch(0, i)["input_ids"] for i in range(4 * accumulation)]
    labels = ids if all_count else list(partly_labelled(np.stack(ids).reshape(len(ids), -1)).reshape(len(ids), 2, -1))
    parts, whole = tiny().to(dtype=np.float64), tiny().to(dtype=np.float64)
    args = {"steps": 4, "learning_rate": 0.01, "max_grad_norm": 0.5}
    a = train(parts, Batches(ids, labels), TrainingArguments(**args, accumulation=accumulation), progress=False)
    b = train(whole, Batches(joined(ids), joined(labels)), TrainingArguments(**args), progress=False)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-12)
    for (name, p), q in zip(parts.named_parameters(), whole.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-9, atol=1e-11, err_msg=name)


def test_a_batch_without_a_target_is_refused():
    ids = text_data().batch(0, 0)["input_ids"]
    with pytest.raises(ValueError, match=r"nothing to average.*-100"):
        run(tiny(), data=Batches([ids] * 12, [np.full_like(ids, -100)] * 12))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 32])
def test_evaluate_is_the_mean_over_all_tokens_without_dropout(training, batch_size):
    model, windows = full().train(training), text_data().windows()[:7]
    mean = evaluate(model, windows, batch_size)
    assert all(module.training == training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    logits = model.eval()(input_ids=windows).logits.data[:, :-1].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, columns = np.indices(windows[:, 1:].shape)
    assert mean == pytest.approx(-logs[rows, columns, windows[:, 1:]].mean(), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_evaluate_weighs_each_target_the_same(batch_size):
    """Rows with few targets and with many, one with none, one whose only label is the first, which does not count."""
    model, ids = tiny(), text_data().windows()[:7]
    labels = partly_labelled(ids)
    labels[:3] = -100
    labels[1, 0], labels[2, 5] = ids[1, 0], ids[2, 5]
    logits = model.eval()(input_ids=ids).logits.data[:, :-1].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, columns = np.nonzero(labels[:, 1:] != -100)
    assert len(set(np.bincount(rows))) > 3
    expected = -logs[rows, columns, labels[rows, columns + 1]].mean()
    assert evaluate(model, (ids, labels), batch_size) == pytest.approx(expected, rel=1e-6)


def test_evaluate_records_nothing():
    class Watched(nn.Module):
        def __init__(self):
            self.model, self.recorded = tiny(), []

        def forward(self, **inputs):
            out = self.model(**inputs)
            self.recorded.append(out.loss.requires_grad)
            return out

    model = Watched()
    evaluate(model, text_data().windows()[:7], 3)
    assert model.recorded == [False] * 3
    assert lora_np.autograd.is_grad_enabled()


def test_evaluate_leaves_the_mode_after_an_error_too():
    model = tiny().train()
    with pytest.raises(IndexError, match="300"):
        evaluate(model, np.full((2, 8), 300))
    assert all(module.training for module in model.modules())


def test_evaluate_on_nothing_is_an_error():
    with pytest.raises(ValueError, match="no window"):
        evaluate(tiny(), np.zeros((0, 16), np.int64))
    with pytest.raises(ValueError, match="no label in it that counts"):
        evaluate(tiny(), (np.zeros((2, 16), np.int64), np.full((2, 16), -100)))


def test_each_batch_is_asked_for_once_and_in_order():
    class Asked:
        def __init__(self):
            self.calls = []

        def batch(self, seed, step):
            self.calls.append((seed, step))
            return text_data().batch(seed, step)

    data = Asked()
    run(tiny(), data=data, steps=4, accumulation=3, seed=5)
    assert data.calls == [(5, i) for i in range(12)]


def test_dropout_differs_in_every_step_and_batch():
    """With a learning rate of almost nothing and always the same batch, only dropout is left to change the loss."""
    same = Batches([text_data().batch(0, 0)["input_ids"]] * 12)
    losses = {k: run(full(), data=same, steps=6, learning_rate=1e-12, accumulation=k)["loss"] for k in (1, 2)}
    assert len(set(losses[1])) == len(set(losses[2])) == 6
    for one, two in zip(losses[1], losses[2], strict=True):
        assert one != pytest.approx(two, abs=1e-5), "the second batch of a step repeats the dropout of the first"


def test_the_history_has_every_step_and_every_evaluation():
    model, windows, evaluated = tiny(), text_data().windows(), []
    sets = {"a": windows[:3], "b": windows[3:8]}

    class Watched(Batches):
        def batch(self, seed, step):
            evaluated.append({"step": step, **{name: evaluate(model, w) for name, w in sets.items()}})
            return text_data().batch(seed, step)

    args = TrainingArguments(steps=11, learning_rate=0.02, warmup_steps=2, min_lr_ratio=0.5, eval_every=5)
    history = train(model, Watched([]), args, sets, progress=False)
    assert set(history) == {"loss", "learning_rate", "evaluation", "interrupted"}
    assert history["interrupted"] is False
    assert len(history["loss"]) == len(history["learning_rate"]) == 11
    fall = [0.01 + 0.01 * (1 + math.cos(math.pi * i / 9)) / 2 for i in range(9)]
    np.testing.assert_allclose(history["learning_rate"], [0.02 / 3, 0.04 / 3, *fall])
    last = {"step": 11, **{name: evaluate(model, w) for name, w in sets.items()}}
    assert history["evaluation"] == [evaluated[0], evaluated[5], evaluated[10], last]


def test_an_evaluation_at_the_last_step_is_made_once():
    assert [entry["step"] for entry in run(tiny(), steps=10)["evaluation"]] == [0, 5, 10]


def test_the_model_trains_in_training_mode_and_is_left_in_evaluation_mode():
    model, modes = full(), set()
    run(model, data=CallsBefore(3, lambda: modes.update(module.training for module in model.modules())))
    assert modes == {True}
    assert not any(module.training for module in model.modules())
    with pytest.raises(StopHereError):
        run(model, data=CallsBefore(3, stop))
    assert not any(module.training for module in model.modules())


@KINDS
def test_the_same_run_twice_gives_the_same_numbers_and_another_seed_others(make):
    models = [make(), make(), make()]
    histories = [run(models[0]), run(models[1]), run(models[2], seed=8)]
    assert histories[0] == histories[1] != histories[2]
    assert weights(models[0]) == weights(models[1]) != weights(models[2])


def test_progress_and_directories_change_no_number(tmp_path, capsys):
    model, other = full(), full()
    history = run(model)
    shown = train(
        other, text_data(), TrainingArguments(**ARGS), {"held out": text_data().windows()[:5]}, tmp_path / "new" / "one"
    )
    assert shown == history
    assert weights(other) == weights(model)
    assert "12/12" in capsys.readouterr().err
    assert os.listdir(tmp_path / "new" / "one") == [FILE]


def test_progress_shows_the_tokens_of_a_second_without_padding(monkeypatch, capsys):
    """The clock says that every step takes a second. Prompts are counted, for they are computed too; padding is not."""
    monkeypatch.setattr("lora_np.training.progress.time", SimpleNamespace(perf_counter=itertools.count().__next__))
    ids = np.arange(1, 49).reshape(4, 12)
    labels = ids.copy()
    labels[0, 5:] = labels[1, :11] = labels[2, 1:] = labels[3, 3:7] = -100
    labels[2, 0] = -100  # all of it padding
    history = train(tiny(), Batches([ids] * 4, [labels] * 4), TrainingArguments(steps=2, accumulation=2))
    shown = capsys.readouterr().err
    assert f"loss={history['loss'][-1]:.3f}, {2 * (5 + 12 + 0 + 12)} tokens/s" in shown
    assert re.search(r"2/2 \[00:\d\d<00:\d\d", shown), "the time left"


def test_gradients_from_before_the_run_do_not_enter_it():
    """A notebook shows a gradient, then trains."""
    model, fresh = tiny(), tiny()
    model(**text_data().batch(0, 99)).loss.backward()
    assert run(model) == run(fresh)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


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
    {"steps": 13},
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


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize(("accumulation", "good_calls"), [(1, 5), (2, 11)])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_change(tmp_path, number, accumulation, good_calls):
    """In the step after 5 good ones, and with accumulation only in its second batch."""
    reference = tiny()
    with pytest.raises(StopHereError):
        run(reference, data=CallsBefore(5 * accumulation, stop), accumulation=accumulation)
    model = tiny()
    with pytest.raises(FloatingPointError, match=rf"{number} at step 5.*lower learning rate"):
        run(Plus(model, number, good_calls), tmp_path, accumulation=accumulation)
    assert weights(model) == weights(reference)
    assert saved_step(tmp_path) == 4


def test_after_a_loss_that_was_not_finite_the_model_can_be_trained():
    """The gradients of the step that was given up must not enter the next run."""
    model, fresh = tiny(), tiny()
    with pytest.raises(FloatingPointError):
        run(Plus(model, math.nan, 0))
    assert run(model) == run(fresh)


@pytest.mark.parametrize("make", [lambda: tiny().requires_grad_(False), lambda: lora().requires_grad_(False)])
def test_a_frozen_model_is_refused(make):
    with pytest.raises(ValueError, match=r"nothing to train.*frozen"):
        run(make())


def test_a_merged_model_is_refused(tmp_path):
    model = lora()
    run(model)
    model.merge_adapter()
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"merged.*unmerge_adapter\(\)"):
        run(model, tmp_path)
    assert weights(model) == before
    assert not os.listdir(tmp_path)
    model.unmerge_adapter()
    assert len(run(model)["loss"]) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps.*0"),
        ({"steps": 2.5}, "steps.*2.5"),
        ({"accumulation": -1}, "accumulation.*-1"),
        ({"eval_every": 0}, "eval_every.*0"),
        ({"checkpoint_every": "often"}, "checkpoint_every.*often"),
        ({"learning_rate": 0}, "learning_rate.*0"),
        ({"learning_rate": -1e-3}, "learning_rate.*-0.001"),
        ({"learning_rate": math.nan}, "learning_rate.*nan"),
        ({"learning_rate": math.inf}, "learning_rate.*inf"),
        ({"max_grad_norm": -1.0}, "max_grad_norm.*-1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingArguments(**settings)


@pytest.mark.parametrize("step", [6, 99], ids=["broken off", "to the end"])
def test_ctrl_c_has_its_usual_meaning_after_the_run(step):
    before = signal.getsignal(signal.SIGINT)
    with contextlib.suppress(StopHereError):
        run(tiny(), data=CallsBefore(step, stop))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_outside_the_main_thread():
    """Only the main thread may handle signals; a notebook's background thread can train all the same."""
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: run(full())).result() == run(full())


def child(program, *arguments):
    """A process that runs one of the functions below."""
    code = f"import test_loop; test_loop.{program}(*{arguments!r})"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, **pipes)


def killed_while_saving(kind, directory, moment):
    """In a process of its own: train, and be killed in the second save."""

    def kill(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def half_written(arrays, path, metadata):
        save_file(arrays, path, metadata)
        os.truncate(path, os.path.getsize(path) // 2)
        kill()

    def after(*paths, replace=os.replace):
        replace(*paths)
        kill()

    places = {
        "in the middle of writing": (lora_np.storage.safetensors, "save_file", half_written),
        "before it is on the disk": (os, "fsync", kill),
        "before it is renamed": (os, "replace", kill),
        "after it is renamed": (os, "replace", after),
    }
    run(MODELS[kind](), directory, CallsBefore(5, lambda: setattr(*places[moment])))


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
    process = child("killed_while_saving", kind, str(tmp_path), moment)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert saved_step(tmp_path) == step
    whole, model = MODELS[kind](), MODELS[kind](1)
    assert run(model, tmp_path, resume=True) == run(whole)
    assert weights(model) == weights(whole)


def interrupted(kind, directory):
    """In a process of its own: train; in step 6, say so and wait for a line. Then print the history."""

    def wait():
        print("ready", flush=True)
        sys.stdin.readline()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background would have it ignored
    print(json.dumps(run(MODELS[kind](), directory, CallsBefore(6, wait))))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("kind", MODELS)
def test_ctrl_c_ends_the_run_after_the_step_in_progress(tmp_path, kind):
    process = child("interrupted", kind, str(tmp_path))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate("go on\n", timeout=60)
    assert process.returncode == 0
    partial = json.loads(output)
    assert partial["interrupted"] is True
    assert len(partial["loss"]) == saved_step(tmp_path) == 7

    whole, model = MODELS[kind](), MODELS[kind](1)
    history = run(whole)
    assert partial["loss"] == history["loss"][:7]
    assert run(model, tmp_path, resume=True) == history
    assert weights(model) == weights(whole)


def interrupted_twice(directory):
    """In a process of its own: train, with two interruptions in step 6. Then print what came of it."""

    def twice():
        signal.raise_signal(signal.SIGINT)
        print("still running", flush=True)
        signal.raise_signal(signal.SIGINT)
        print("still running after the second", flush=True)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run(full(), directory, CallsBefore(6, twice))
    except KeyboardInterrupt:
        print("KeyboardInterrupt", flush=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_the_run_at_once(tmp_path):
    process = child("interrupted_twice", str(tmp_path))
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "still running\nKeyboardInterrupt\n")
    whole, model = full(), full(1)
    assert run(model, tmp_path, resume=True) == run(whole)
    assert weights(model) == weights(whole)
