"""The training loop: what a step does, and what a run returns."""

import gc
import math
import os
import weakref

import numpy as np
import pytest
from training_helpers import (
    KINDS,
    Batches,
    CallsBefore,
    StopHereError,
    full,
    lora,
    run,
    saved_step,
    stop,
    text_data,
    tiny,
    weights,
)

from lora_np import (
    TrainingArguments,
    evaluate,
    nn,
    train,
)
from lora_np.training import clip_grad_norm_, loop
from lora_np.training.parallel import joint_gradients


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


def test_a_batch_without_a_target_is_refused():
    ids = text_data().batch(0, 0)["input_ids"]
    with pytest.raises(ValueError, match=r"nothing to average.*-100"):
        run(tiny(), data=Batches([ids] * 12, [np.full_like(ids, -100)] * 12))


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


def test_a_data_set_called_step_is_refused():
    """Its loss would stand in the place of the step's number."""
    with pytest.raises(ValueError, match="'step'"):
        train(tiny(), text_data(), TrainingArguments(steps=1), {"step": text_data()}, progress=False)


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


def test_gradients_from_before_the_run_do_not_enter_it():
    """A notebook shows a gradient, then trains."""
    model, fresh = tiny(), tiny()
    model(**text_data().batch(0, 99)).loss.backward()
    assert run(model) == run(fresh)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize(("accumulation", "good_calls"), [(1, 5), (2, 11)])
def test_a_loss_that_is_not_finite_leaves_the_weights_of_the_last_finite_one(
    tmp_path, number, accumulation, good_calls
):
    """In the step after 5 good ones, and with accumulation only in its second batch. The fifth's loss was finite, so
    the weights before it are good; nobody knows that of those after it."""
    reference = tiny()
    with pytest.raises(StopHereError):
        run(reference, data=CallsBefore(4 * accumulation, stop), accumulation=accumulation)
    model = tiny()
    message = rf"loss became {number} at step 5: try a lower learning rate. .*after 4 steps again; .* of step 4\."
    with pytest.raises(FloatingPointError, match=message):
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


def test_batches_that_it_takes_go_to_the_recorded_step_and_others_do_not(monkeypatch):
    """The step is pretended: what a GPU does with it is in parallel/test_recorded.py."""
    taken = []

    class Pretended:
        def __init__(self, model, optimizer, max_grad_norm, communicator):
            self.model, self.optimizer, self.max_grad_norm = model, optimizer, max_grad_norm
            self.communicator = communicator

        def takes(self, batches):
            return all(set(batch) == {"input_ids", "labels"} for batch in batches)

        def __call__(self, *batches):
            taken.append(len(batches))
            loss = joint_gradients(self.model, batches, self.communicator, self.optimizer.parameters())
            clip_grad_norm_(self.optimizer.parameters(), self.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss

    class Masked:
        """Every second batch has an attention mask, of which nothing is hidden."""

        def batch(self, seed, step):
            batch = text_data().batch(seed, step)
            return {**batch, "attention_mask": np.ones_like(batch["input_ids"])} if step % 2 else batch

    expected = run(tiny(), data=Masked())
    several = run(tiny(), accumulation=2)
    monkeypatch.setattr(loop, "recorded_step", Pretended)
    assert run(tiny(), data=Masked()) == expected
    assert taken == [1] * 6
    assert run(tiny(), data=Masked(), accumulation=2)["loss"] == several["loss"]
    assert taken == [1] * 6, "one of the two batches has a mask"
    assert run(tiny(), accumulation=2)["loss"] == several["loss"]
    assert taken == [1] * 6 + [2] * 12


def test_what_a_recorded_step_holds_is_free_once_the_run_is_over(monkeypatch):
    """Not only when Python looks for what refers to itself, as a run does: it may be most of a GPU's memory."""
    made = []

    class Pretended:
        def __init__(self, *given):
            made.append(weakref.ref(self))

        def takes(self, batches):
            return False

    monkeypatch.setattr(loop, "recorded_step", Pretended)
    gc.disable()
    try:
        run(tiny())
        assert [step() for step in made] == [None]
    finally:
        gc.enable()
