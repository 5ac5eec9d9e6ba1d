"""A recorded step trains exactly as an ordinary one."""

import contextlib
import functools
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
from lora_helpers import peft_model, relative, tiny_llama, tiny_model

from lora_np import (
    AdamW,
    AdamW8bit,
    GaLoreAdamW,
    LoraConfig,
    Tensor,
    TrainingArguments,
    create_lorafa_optimizer,
    create_riemannian_optimizer,
    get_peft_model,
    manual_seed,
    nn,
    train,
)
from lora_np.lora.family.hra import HRAConfig
from lora_np.lora.family.oft import OFTConfig
from lora_np.lora.family.vblora import VBLoRAConfig
from lora_np.nn import quantize_model
from lora_np.training import loop, parallel
from lora_np.training.parallel.recorded import RecordedStep

gpu = pytest.mark.gpu


def make(kind, **changes):
    """A model on the GPU with an adapter, the same every time."""
    manual_seed(0)
    if kind == "gpt2":
        return peft_model(model=tiny_model(**changes)).to("cuda").train()
    model = tiny_llama(**changes)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, config).to("cuda").train()


def batches(model, count, masked=False):
    rng = np.random.default_rng(0)
    for _ in range(count):
        ids = rng.integers(0, model.config.vocab_size, (3, 8))
        labels = ids.copy()
        if masked:  # another number of targets in every batch
            labels[rng.random(labels.shape) < rng.uniform(0.1, 0.8)] = -100
            labels[0, 1] = ids[0, 1]
        yield {"input_ids": ids, "labels": labels}


def optimizer_of(model):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if part in name], "lr": lr}
        for part, lr in (("lora_A", 0.01), ("lora_B", 0.02))
    ]
    return AdamW(groups, weight_decay=0.1)


def recorded_losses(step, all_batches):
    return [float(step(batch)) for batch in all_batches]


def ordinary_losses(model, optimizer, all_batches):
    found = []
    for batch in all_batches:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


class FakeRecording:
    """What `Recording` does, on the CPU: a recorded function is called again when it is replayed."""

    made = []

    def __init__(self):
        self.is_inside, self.runs, self.function = False, [], None
        self.made.append(self)

    @contextlib.contextmanager
    def inside(self):
        self.is_inside = True
        yield
        self.is_inside = False

    def record(self, function):
        self.function = function
        self.runs.append("recorded")
        self.result = function()
        return self.result

    def replay(self):
        self.runs.append("replayed")
        self.result[...] = self.function()


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Recording as if the CPU were a GPU; returns the list of recordings that were begun."""
    record = types.ModuleType("lora_np.autograd.cuda.record")
    record.Recording, FakeRecording.made = FakeRecording, []
    monkeypatch.setitem(sys.modules, "lora_np.autograd.cuda", types.ModuleType("lora_np.autograd.cuda"))
    monkeypatch.setitem(sys.modules, "lora_np.autograd.cuda.record", record)
    monkeypatch.setattr("lora_np.training.parallel.recorded.on_gpu", lambda x: True)
    return FakeRecording.made


def cpu_model():
    manual_seed(0)
    return peft_model(model=tiny_model()).train()


def started(model, all_batches):
    """A recorded step of `model` on the CPU that has taken these batches, and its losses."""
    step = RecordedStep(model, optimizer_of(model))
    return step, recorded_losses(step, all_batches)


@pytest.mark.parametrize("masked", [False, True])
def test_the_first_batch_runs_the_second_is_recorded_the_others_are_replayed(on_the_cpu, masked):
    all_batches = list(batches(cpu_model(), 6, masked))
    step, found = started(cpu_model(), all_batches)
    assert [recording.runs for recording in on_the_cpu] == [["recorded"] + ["replayed"] * 4]
    model = cpu_model()
    np.testing.assert_allclose(found, ordinary_losses(model, optimizer_of(model), all_batches), rtol=1e-5)
    for p, q in zip(step.optimizer.parameters(), optimizer_of(model).parameters(), strict=True):
        assert relative(p.data, q.data) < 1e-4
        assert p.grad is None


@pytest.mark.parametrize(
    "make_optimizer",
    [
        AdamW8bit,
        GaLoreAdamW,
        lambda model: create_riemannian_optimizer(model, AdamW, lr=1e-3),
        lambda model: create_lorafa_optimizer(model, 4, 8, 1e-3),
    ],
    ids=["8-bit", "galore", "riemannian", "lora-fa"],
)
def test_a_step_that_the_host_counts_is_refused(on_the_cpu, make_optimizer):
    """Replayed, it would for ever take the step that it was recorded with."""
    model = cpu_model()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(trained if isinstance(make_optimizer, type) else model)
    with pytest.raises(ValueError, match="cannot be replayed: the host counts its steps"):
        RecordedStep(model, optimizer)


def test_a_batch_is_copied_and_its_arrays_stay_the_callers(on_the_cpu):
    all_batches = list(batches(cpu_model(), 4))
    before = [{name: x.copy() for name, x in batch.items()} for batch in all_batches]
    _, expected = started(cpu_model(), all_batches)
    for batch, copy in zip(all_batches, before, strict=True):
        assert all((batch[name] == copy[name]).all() for name in batch)
    step, found = RecordedStep(model := cpu_model(), optimizer_of(model)), []
    for batch in all_batches:
        found.append(float(step(batch)))
        for x in batch.values():
            x[...] = 0  # the caller goes on to use the memory
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.int32, np.uint8, Tensor, lambda x: x.tolist()])
def test_what_a_batch_may_be(on_the_cpu, kind):
    all_batches = list(batches(cpu_model(), 3))
    _, expected = started(cpu_model(), all_batches)
    _, found = started(cpu_model(), [{name: kind(x) for name, x in batch.items()} for batch in all_batches])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_another_shape_before_the_recording_begins_anew(on_the_cpu):
    all_batches = list(batches(cpu_model(), 5))
    all_batches[0] = {name: x[:, :5] for name, x in all_batches[0].items()}
    _, found = started(cpu_model(), all_batches)
    assert on_the_cpu[0].runs == ["recorded", "replayed", "replayed"]
    model = cpu_model()
    np.testing.assert_allclose(found, ordinary_losses(model, optimizer_of(model), all_batches), rtol=1e-5)


def test_another_shape_after_it_runs_as_usual(on_the_cpu):
    all_batches = list(batches(cpu_model(), 6))
    all_batches[3] = {name: x[:2] for name, x in all_batches[3].items()}
    _, found = started(cpu_model(), all_batches)
    assert on_the_cpu[0].runs == ["recorded", "replayed", "replayed", "replayed"]
    model = cpu_model()
    np.testing.assert_allclose(found, ordinary_losses(model, optimizer_of(model), all_batches), rtol=1e-5)


def test_hardly_used_it_is_given_up(on_the_cpu):
    all_batches = list(batches(cpu_model(), 14))
    for number in range(3, 12):
        all_batches[number] = {name: x[:, : 4 + number % 3] for name, x in all_batches[number].items()}
    step, found = started(cpu_model(), all_batches)
    assert step.given_up
    assert [recording.runs for recording in on_the_cpu] == [["recorded", "replayed"], []]
    model = cpu_model()
    np.testing.assert_allclose(found, ordinary_losses(model, optimizer_of(model), all_batches), rtol=1e-5)


def test_replaced_weights_are_recorded_anew(on_the_cpu):
    model, all_batches = cpu_model(), list(batches(cpu_model(), 4))
    first = {name: x.copy() for name, x in model.state_dict().items()}
    step, _ = started(model, all_batches)
    model.load_state_dict(first)
    recorded_losses(step, all_batches)
    assert [recording.runs for recording in on_the_cpu] == [["recorded", "replayed", "replayed"]] * 2


WRONG = {
    "a token that is none": ({"input_ids": 31}, IndexError, "token id 31 is out of range: there are 31"),
    "a token below zero": ({"input_ids": -1}, IndexError, "token id -1 is out of range"),
    "a target that is none": ({"labels": 31}, IndexError, "target 31 is out of range: there are 31"),
    "a target below zero": ({"labels": -7}, IndexError, "target -7 is out of range"),
}


@pytest.mark.parametrize("where", [0, 1, 2, 4])
@pytest.mark.parametrize("name", WRONG)
def test_every_batch_is_checked_before_it_counts(on_the_cpu, name, where):
    changes, error, message = WRONG[name]
    model, all_batches = cpu_model(), list(batches(cpu_model(), 5))
    step, _ = started(model, all_batches[:where])
    weights = [p.data.copy() for p in step.optimizer.parameters()]
    wrong = {key: x.copy() for key, x in all_batches[where].items()}
    for key, value in changes.items():
        wrong[key][1, 2] = value
    with pytest.raises(error, match=message):
        step(wrong)
    assert all((p.data == w).all() for p, w in zip(step.optimizer.parameters(), weights, strict=True))
    found = recorded_losses(step, all_batches[where:])
    _, expected = started(cpu_model(), all_batches)
    np.testing.assert_allclose(found, expected[where:], rtol=1e-6)


@pytest.mark.parametrize("where", [0, 3])
def test_what_a_batch_cannot_be(on_the_cpu, where):
    model, all_batches = cpu_model(), list(batches(cpu_model(), 4))
    step, _ = started(model, all_batches[:where])
    ids = all_batches[3]["input_ids"]
    first_only = np.full_like(ids, -100)
    first_only[:, 0] = 3
    with pytest.raises(ValueError, match="nothing to average: every label after the first is -100"):
        step({"input_ids": ids, "labels": first_only})
    with pytest.raises(ValueError, match=r"labels of shape \(3, 7\) do not fit input_ids of shape \(3, 8\)"):
        step({"input_ids": ids, "labels": ids[:, 1:]})
    with pytest.raises(ValueError, match="a recorded step takes input_ids and labels, not attention_mask"):
        step({"input_ids": ids, "labels": ids, "attention_mask": np.ones_like(ids)})
    with pytest.raises(ValueError, match="are more than the model's context of 12"):
        step({"input_ids": np.ones((1, 13), int), "labels": np.ones((1, 13), int)})


def fetched(x):
    raise AssertionError("an array was fetched from the GPU")


@gpu
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("masked", [False, True])
def test_ids_and_labels_on_the_gpu_stay_there_and_give_the_same(monkeypatch, kind, masked):
    import cupy

    model = make(kind)
    for batch in batches(model, 3, masked):
        out = model(**batch)
        out.loss.backward()
        expected = [p.grad.get() for p in model.parameters() if p.requires_grad]
        model.zero_grad()
        with monkeypatch.context() as patch:
            for place in ("models.pretrained_model", "models.output", "autograd.functional", "autograd.fused.loss"):
                patch.setattr(f"lora_np.{place}.to_numpy", fetched)
            found = model(**{name: cupy.asarray(x) for name, x in batch.items()})
            found.loss.backward()
        np.testing.assert_allclose(found.loss.item(), out.loss.item(), rtol=1e-5)
        for g, p in zip(expected, (p for p in model.parameters() if p.requires_grad), strict=True):
            assert relative(p.grad.get(), g) < 1e-4
        model.zero_grad()


@gpu
@pytest.mark.parametrize("wrong", [31, -1])
def test_ids_and_labels_on_the_gpu_are_checked(wrong):
    import cupy

    model, ids = make("gpt2"), cupy.ones((2, 5), int)
    bad = ids.copy()
    bad[1, 3] = wrong
    with pytest.raises(IndexError, match=f"token id {wrong} is out of range"):
        model(bad, labels=ids)
    with pytest.raises(IndexError, match=f"target {wrong} is out of range"):
        model(ids, labels=bad)
    with pytest.raises(ValueError, match="every target is -100"):
        model(ids, labels=cupy.full_like(ids, -100))


@gpu
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_batches_with_any_number_of_targets_are_replayed(monkeypatch, kind):
    from lora_np.autograd.cuda.record import Recording

    replays, replay = [], Recording.replay
    monkeypatch.setattr(Recording, "replay", lambda self: (replays.append(1), replay(self)))
    model = make(kind)
    all_batches = list(batches(model, 8, masked=True))
    found = recorded_losses(RecordedStep(model, optimizer_of(model)), all_batches)
    assert len(replays) == 6
    model = make(kind)
    np.testing.assert_allclose(found, ordinary_losses(model, optimizer_of(model), all_batches), rtol=1e-5)


@gpu
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("max_norm", [0.0, 0.5])
@pytest.mark.parametrize("masked", [False, True])
def test_a_recorded_step_trains_as_an_ordinary_one(kind, max_norm, masked):
    from lora_np.training import clip_grad_norm_

    losses, weights, states = [], [], []
    for recorded in (False, True):
        model = make(kind)
        optimizer = optimizer_of(model)
        step, found = RecordedStep(model, optimizer, max_norm) if recorded else None, []
        for number, batch in enumerate(batches(model, 7, masked)):
            optimizer.param_groups[0]["lr"] = 0.01 / (number + 1)  # as a schedule would change it
            if recorded:
                found.append(step(batch))
                continue
            loss = model(**batch).loss
            loss.backward()
            if max_norm:
                clip_grad_norm_(optimizer.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.data)
        losses.append([float(loss) for loss in found])
        weights.append([p.data.get() for p in optimizer.parameters()])
        states.append(optimizer.state_dict())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[0][0] != losses[0][-1]
    for a, b in zip(*weights, strict=True):
        assert relative(b, a) < 1e-4
    assert all(states[0][name] == states[1][name] == 7 for name in states[0] if name.endswith("step"))


@gpu
def test_a_batch_of_another_shape_runs_as_usual_in_between():
    model = make("gpt2")
    step = RecordedStep(model, optimizer_of(model))
    all_batches = list(batches(model, 6))
    all_batches[3] = {name: x[:, :5] for name, x in all_batches[3].items()}
    found = recorded_losses(step, all_batches)
    model = make("gpt2")
    np.testing.assert_allclose(found, ordinary_losses(model, optimizer_of(model), all_batches), rtol=1e-5)


@gpu
@pytest.mark.parametrize("wrong", [31, -1])
def test_ids_are_checked_also_in_a_replay(wrong):
    model = make("gpt2")
    step = RecordedStep(model, optimizer_of(model))
    for batch in batches(model, 4):
        step(batch)
    batch["input_ids"][0, 0] = wrong
    with pytest.raises(IndexError, match=f"token id {wrong} is out of range"):
        step(batch)


@gpu
@pytest.mark.parametrize("changes", [{"resid_pdrop": 0.1}, {"attn_pdrop": 0.1}, {"embd_pdrop": 0.1}])
def test_dropout_is_refused(changes):
    with pytest.raises(ValueError, match="the same dropout masks"):
        RecordedStep(make("gpt2", **changes), None)


class Data:
    """Random batches, the same for the same step."""

    def batch(self, seed, step):
        ids = np.random.default_rng((seed, step)).integers(0, 31, (3, 8))
        return {"input_ids": ids, "labels": ids}


KINDS_OF_LORA = [
    {},
    {"quantized": True},
    {"use_dora": True},
    {"use_rslora": True, "lora_bias": True, "target_modules": ["c_fc"]},  # of keys a bias learns nothing but noise
    {"target_modules": "all-linear", "rank_pattern": {"c_fc": 2}},
    {"init_lora_weights": "olora"},
]


@gpu
@pytest.mark.parametrize("changes", KINDS_OF_LORA, ids=str)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_train_records_the_steps_of_an_adapter(monkeypatch, changes, checkpointing):
    def run():
        base = quantize_model(tiny_model()) if changes.get("quantized") else tiny_model()
        options = {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True, **changes}
        options.pop("quantized", None)
        manual_seed(0)
        model = get_peft_model(base, LoraConfig(**options)).to("cuda")
        if checkpointing:
            model.gradient_checkpointing_enable()
        args = TrainingArguments(steps=9, eval_every=4, learning_rate=0.01)
        history = train(model, Data(), args, {"held out": Data().batch(1, 0)["input_ids"]}, progress=False)
        return history, [p.data.get() for p in model.parameters() if p.requires_grad]

    from lora_np.autograd.cuda.record import Recording

    replays = []
    replay = Recording.replay
    monkeypatch.setattr(Recording, "replay", lambda self: (replays.append(1), replay(self)))
    history, weights = run()
    assert len(replays) == 7  # of nine steps, the first runs as usual and the second is recorded
    monkeypatch.setattr(loop, "recorded_step", lambda *args: None)
    expected, others = run()
    assert len(replays) == 7
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    assert history["loss"][0] != history["loss"][-1]
    assert history["learning_rate"] == expected["learning_rate"]
    found, wanted = ([point["held out"] for point in h["evaluation"]] for h in (history, expected))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for a, b in zip(weights, others, strict=True):
        assert relative(a, b) < 1e-3


@gpu
@pytest.mark.parametrize(
    "changes", [{"lora_dropout": 0.1}, {"target_modules": ["wte"]}, {"modules_to_save": ["wte"]}], ids=str
)
def test_train_does_not_record_what_can_not_be(changes):
    options = {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True, **changes}
    model = get_peft_model(tiny_model(), LoraConfig(**options)).to("cuda")
    args = TrainingArguments(steps=4)
    assert loop.TrainingRun(model, args).recorded is None
    assert np.isfinite(train(model, Data(), args, progress=False)["loss"]).all()


OF_GPT2 = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
ASKING = [
    HRAConfig(r=4, target_modules=["c_attn"]),
    VBLoRAConfig(r=2, num_vectors=8, vector_length=4, **OF_GPT2),
    OFTConfig(oft_block_size=4, use_cayley_neumann=False, **OF_GPT2),
]


@pytest.mark.parametrize("config", ASKING, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_adapters_that_ask_the_host_are_not_recorded(monkeypatch, config, device):
    model = get_peft_model(tiny_model(), config).to(device)
    if device == "cpu":
        monkeypatch.setattr(parallel.recorded, "RecordedStep", lambda *args: pytest.fail("it would be recorded"))
    args = TrainingArguments(steps=4)
    assert loop.TrainingRun(model, args).recorded is None
    assert np.isfinite(train(model, Data(), args, progress=False)["loss"]).all()


@gpu
def test_weights_and_state_that_were_replaced_are_the_ones_that_learn():
    all_batches = list(batches(make("gpt2"), 8))
    results = []
    for recorded in (False, True):
        model = make("gpt2")
        optimizer = optimizer_of(model)
        first = {name: x.copy() for name, x in model.state_dict().items()}
        run = functools.partial(ordinary_losses, model, optimizer)
        if recorded:
            run = functools.partial(recorded_losses, RecordedStep(model, optimizer))
        found = run(all_batches[:4])
        model.load_state_dict(first)
        optimizer.load_state_dict({k: v.copy() if hasattr(v, "copy") else v for k, v in optimizer.state_dict().items()})
        results.append((found + run(all_batches[4:]), [p.data.get() for p in optimizer.parameters()]))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert relative(b, a) < 1e-3


@gpu
def test_a_recording_that_is_hardly_used_is_given_up():
    model = make("gpt2")
    step = RecordedStep(model, optimizer_of(model))
    all_batches = list(batches(model, 14))
    for number in range(3, 12):
        all_batches[number] = {name: x[:, : 4 + number % 3] for name, x in all_batches[number].items()}
    found = recorded_losses(step, all_batches)
    assert step.given_up
    assert step.recording.graph is None
    model = make("gpt2")
    np.testing.assert_allclose(found, ordinary_losses(model, optimizer_of(model), all_batches), rtol=1e-5)


class OwnModel(nn.Module):
    """Not a language model of this library, but `train` can train it."""

    def __init__(self):
        self.lora_weight = nn.Parameter(np.ones((31, 4), np.float32))

    def forward(self, input_ids, labels):
        return SimpleNamespace(loss=(self.lora_weight[input_ids] ** 2).mean())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_a_model_of_another_kind_trains_unrecorded(device):
    model = OwnModel().to(device)
    with pytest.raises(ValueError, match="a language model of this library, not a OwnModel"):
        RecordedStep(model, None)
    losses = train(model, Data(), TrainingArguments(steps=4, learning_rate=0.1), progress=False)["loss"]
    assert losses[-1] < losses[0]


def test_a_model_that_is_not_on_a_gpu_is_refused():
    model = peft_model()
    with pytest.raises(ValueError, match=r"needs a model on a GPU, .*: call model.to\('cuda'\) first"):
        RecordedStep(model, AdamW([p for p in model.parameters() if p.requires_grad]))
