"""A recorded step trains exactly as an ordinary one."""

import contextlib
import functools
import gc
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
from communicator_helpers import results
from lora_helpers import peft_model, randomize, relative, tiny_llama, tiny_model
from relative_helpers import SMALL

from lora_np import (
    SGD,
    AdamW,
    AdamW8bit,
    GaLoreAdamW,
    Gemma2Config,
    Gemma2ForCausalLM,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    Tensor,
    TrainingArguments,
    VeloraConfig,
    create_lorafa_optimizer,
    create_riemannian_optimizer,
    evaluate,
    get_peft_model,
    manual_seed,
    nn,
    train,
)
from lora_np.lora.family.hra import HRAConfig
from lora_np.lora.family.vblora import VBLoRAConfig
from lora_np.nn import quantize_model
from lora_np.training import clip_grad_norm_, loop
from lora_np.training.optim import Optimizer
from lora_np.training.parallel import SoloCommunicator, joint_gradients
from lora_np.training.parallel import recorded as recorded_module
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


def batches(model, count, masked=False, length=8, rows=3):
    rng = np.random.default_rng(length)
    for _ in range(count):
        ids = rng.integers(0, model.config.vocab_size, (rows, length))
        labels = ids.copy()
        if masked:  # another number of targets in every batch
            labels[rng.random(labels.shape) < rng.uniform(0.1, 0.8)] = -100
            labels[0, 1] = ids[0, 1]
        yield {"input_ids": ids, "labels": labels}


def masked_batches(model, side, count=6):
    """Batches with an attention_mask that hides some tokens at this side of each row; these have no labels."""
    made, rng = list(batches(model, count)), np.random.default_rng(1)
    for batch in made:
        hidden = np.zeros((3, 8), bool)
        for row, tokens in enumerate(rng.integers(0, 4, 3) if side != "nowhere" else ()):
            place = {"left": slice(0, tokens), "right": slice(8 - tokens, 8), "holes": slice(2, 2 + tokens)}[side]
            hidden[row, place] = True
        batch["labels"][hidden] = -100
        batch["attention_mask"] = np.where(hidden, 0, 1)
    return made


def optimizer_of(model):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if part in name], "lr": lr}
        for part, lr in (("lora_A", 0.01), ("lora_B", 0.02))
    ]
    return AdamW(groups, weight_decay=0.1)


def recorded_losses(step, all_batches):
    return [float(step(batch)) for batch in all_batches]


def ordinary_losses(model, optimizer, all_batches, max_norm=0.0):
    return ordinary_steps(model, optimizer, [[batch] for batch in all_batches], max_norm)


def ordinary_steps(model, optimizer, all_steps, max_norm=0.0):
    """The loss of each step; a step is several batches."""
    found = []
    for parts in all_steps:
        loss = joint_gradients(model, parts, SoloCommunicator(), optimizer.parameters())
        if max_norm:
            clip_grad_norm_(optimizer.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss))
    return found


class FakeRecording:
    """What `Recording` does, on the CPU: a recorded function is called again when it is replayed."""

    made = []

    def __init__(self, room):
        self.runs, self.function = [], None
        self.made.append(self)

    def inside(self):
        return contextlib.nullcontext()

    def record(self, function):
        self.function = function
        self.runs.append("recorded")
        function()

    def replay(self):
        self.runs.append("replayed")
        self.function()


class FakeRoom:
    """What `Room` does, on the CPU."""

    def inside(self):
        return contextlib.nullcontext()


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Recording as if the CPU were a GPU; returns the list of recordings that were begun."""
    record = types.ModuleType("lora_np.autograd.cuda.record")
    record.Recording, record.Room, FakeRecording.made = FakeRecording, FakeRoom, []
    monkeypatch.setitem(sys.modules, "lora_np.autograd.cuda", types.ModuleType("lora_np.autograd.cuda"))
    monkeypatch.setitem(sys.modules, "lora_np.autograd.cuda.record", record)
    monkeypatch.setattr("lora_np.training.parallel.recorded.on_gpu", lambda x: True)
    return FakeRecording.made


def cpu_model(**changes):
    manual_seed(0)
    return peft_model(model=tiny_model(**changes)).train()


def runs_of(step):
    return [piece.piece.recording.runs for piece in step.pieces.values()]


def assert_ordinary(step, losses, all_steps, max_norm=0.0, **changes):
    """These are the losses of ordinary steps, and the step's weights are those that they lead to."""
    model = cpu_model(**changes)
    optimizer = optimizer_of(model)
    np.testing.assert_allclose(losses, ordinary_steps(model, optimizer, all_steps, max_norm), rtol=1e-5)
    assert losses[0] != losses[-1]
    for p, q in zip(step.optimizer.parameters(), optimizer.parameters(), strict=True):
        assert relative(p.data, q.data) < 1e-4


def started(model, all_batches):
    """A recorded step of `model` on the CPU that has taken these batches, and its losses."""
    step = RecordedStep(model, optimizer_of(model))
    return step, recorded_losses(step, all_batches)


@pytest.mark.parametrize("masked", [False, True])
def test_the_first_batch_runs_the_second_is_recorded_the_others_are_replayed(on_the_cpu, masked):
    all_batches = list(batches(cpu_model(), 6, masked))
    step, found = started(cpu_model(), all_batches)
    assert runs_of(step) == [["recorded"] + ["replayed"] * 4]
    assert [step.change.recording.runs] == runs_of(step)
    assert_ordinary(step, found, [[batch] for batch in all_batches])
    assert all(p.grad is None for p in step.parameters)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        SGD,
        AdamW8bit,
        GaLoreAdamW,
        lambda model: create_riemannian_optimizer(model, AdamW, lr=1e-3),
        lambda model: create_lorafa_optimizer(model, 4, 8, 1e-3),
        lambda model: type("Own", (Optimizer,), {})([p for p in model.parameters() if p.requires_grad], lr=0.1),
    ],
    ids=["sgd", "8-bit", "galore", "riemannian", "lora-fa", "of somebody else"],
)
def test_a_step_that_the_host_counts_is_refused(on_the_cpu, make_optimizer):
    """Replayed, it would for ever take the step that it was recorded with."""
    model = cpu_model()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(trained if isinstance(make_optimizer, type) else model)
    with pytest.raises(ValueError, match="cannot be replayed: the host counts its steps"):
        RecordedStep(model, optimizer)


def test_arrays_that_have_no_kernel_are_refused(on_the_cpu):
    """Their rate and their number of steps would for ever be those of the recording."""
    model, all_batches = cpu_model(), list(batches(cpu_model(), 4))
    step, _ = started(model, all_batches)
    step.trained[1].data = np.asfortranarray(step.trained[1].data)
    with pytest.raises(ValueError, match=r"trains arrays without gaps: p\.data = ascontiguousarray"):
        step(all_batches[0])
    assert recorded_module.recorded_step(model, step.optimizer) is None
    step.trained[1].data = np.ascontiguousarray(step.trained[1].data)
    assert np.isfinite(step(all_batches[0]))


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


def test_each_shape_is_recorded_and_lengths_are_rounded_up(on_the_cpu):
    model = cpu_model(n_positions=64)
    all_batches = list(batches(model, 2, length=8))
    all_batches += [one for length in (5, 12, 16, 17, 23, 9) for one in batches(model, 1, length=length)]
    all_batches += [{name: x[:2] for name, x in all_batches[0].items()}]
    step, found = started(model, all_batches)
    assert {shape: piece.piece.recording.runs for (shape, _), piece in step.pieces.items()} == {
        (3, 8): ["recorded"],  # the first batch's length stays
        (3, 16): ["recorded", "replayed", "replayed"],
        (3, 32): ["recorded"],
        (2, 16): [],
    }
    assert_ordinary(step, found, [[batch] for batch in all_batches], n_positions=64)


def test_beyond_a_number_of_shapes_batches_run_as_usual(on_the_cpu, monkeypatch):
    monkeypatch.setattr(recorded_module, "MOST_SHAPES", 2)
    all_batches = [one for length in (5, 40, 17, 40, 17, 17, 40) for one in batches(cpu_model(), 1, length=length)]
    all_batches = [{name: x[: 1 + i % 3] for name, x in batch.items()} for i, batch in enumerate(all_batches)]
    step, found = started(cpu_model(n_positions=64), all_batches)
    assert len(step.pieces) == 2
    assert_ordinary(step, found, [[batch] for batch in all_batches], n_positions=64)


@pytest.mark.parametrize("side", ["left", "right", "holes", "nowhere"])
def test_attention_masks(on_the_cpu, side):
    all_batches = masked_batches(cpu_model(), side)
    step, found = started(cpu_model(), all_batches)
    kept = [names for _, names in step.pieces]
    assert kept == [3 if side in ("left", "holes") else 2]  # input_ids, labels and perhaps the mask
    assert runs_of(step) == [["recorded"] + ["replayed"] * 4]
    assert_ordinary(step, found, [[batch] for batch in all_batches])


@pytest.mark.parametrize("masked", [False, True])
def test_several_batches_make_one_step(on_the_cpu, masked):
    each = list(batches(cpu_model(), 10, masked))
    each[5]["labels"] = np.full_like(each[5]["labels"], -100)  # a batch in which nothing counts
    all_steps = [each[i : i + 2] for i in range(0, 10, 2)]
    step = RecordedStep(model := cpu_model(), optimizer_of(model), max_grad_norm=0.5)
    found = [float(step(*parts)) for parts in all_steps]
    assert runs_of(step) == [["recorded"] + ["replayed"] * 7]
    assert step.change.recording.runs == ["recorded"] + ["replayed"] * 3
    assert_ordinary(step, found, all_steps, 0.5)


def test_processes_add_up_their_sums(on_the_cpu):
    all_steps = [[one] for one in batches(cpu_model(), 5, masked=True, rows=4)]
    all_steps[2][0]["labels"][2:] = -100  # one process has no target

    def run(communicator):
        model = cpu_model()
        step = RecordedStep(model, optimizer_of(model), 0.5, communicator)
        losses = [float(step(*parts)) for parts in all_steps]
        return step, losses, communicator

    for step, losses, communicator in results(2, run):
        assert_ordinary(step, losses, all_steps, 0.5)
        assert communicator.bytes_per_step == 4 * (1 + sum(p.size for p in step.trained))


def test_what_cannot_be_recorded_runs_as_usual(on_the_cpu, monkeypatch):
    def refused(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    all_batches = list(batches(cpu_model(), 5))
    step, found = started(cpu_model(), all_batches[:1])
    (piece,) = step.pieces.values()
    monkeypatch.setattr(piece.piece.recording, "record", refused)
    found += recorded_losses(step, all_batches[1:])
    assert piece.cannot
    assert runs_of(step) == [[]]
    assert step.change.recording.runs == ["recorded"] + ["replayed"] * 3
    assert_ordinary(step, found, [[batch] for batch in all_batches])


def test_an_error_of_the_first_run_is_told(on_the_cpu, monkeypatch):
    step = RecordedStep(model := cpu_model(), optimizer_of(model))

    def failing(**batch):
        raise RuntimeError("of the model")

    monkeypatch.setattr(step, "model", failing)
    with pytest.raises(RuntimeError, match="of the model"):
        step(next(batches(model, 1)))


def test_where_the_memory_is_full_recordings_are_given_up_once(on_the_cpu, monkeypatch):
    all_batches = list(batches(cpu_model(), 6))
    step, found = started(cpu_model(), all_batches[:3])
    (piece,) = step.pieces.values()

    def full():
        raise MemoryError

    monkeypatch.setattr(piece.piece.recording, "replay", full)
    found += recorded_losses(step, all_batches[3:])
    assert [piece.piece.recording.runs for piece in step.pieces.values()] == [["recorded", "replayed"]]
    assert_ordinary(step, found, [[batch] for batch in all_batches])


def test_a_model_to_which_length_matters_gets_no_longer_batches(on_the_cpu):
    def changing():
        manual_seed(0)
        stretched = {"rope_type": "dynamic", "factor": 2.0}
        model = tiny_llama(rope_parameters=stretched, max_position_embeddings=64)
        return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)).train()

    lengths = (8, 5, 8, 5, 5, 9)
    all_batches = [one for length in lengths for one in batches(changing(), 1, length=length)]
    step = RecordedStep(model := changing(), optimizer_of(model))
    found = recorded_losses(step, all_batches)
    assert sorted(shape for shape, _ in step.pieces) == [(3, 5), (3, 8), (3, 9)]
    model = changing()
    np.testing.assert_allclose(found, ordinary_losses(model, optimizer_of(model), all_batches), rtol=1e-5)


def test_an_adapter_that_takes_a_mean_over_all_tokens_gets_no_longer_batches(on_the_cpu):
    def velora():
        manual_seed(0)
        return peft_model(velora_config=VeloraConfig(num_groups=4)).train()

    all_batches = [one for length in (8, 5, 7, 5, 5) for one in batches(velora(), 1, length=length)]
    step = RecordedStep(model := velora(), optimizer_of(model))
    found = recorded_losses(step, all_batches)
    assert sorted(shape for shape, _ in step.pieces) == [(3, 5), (3, 7), (3, 8)]
    model = velora()
    np.testing.assert_allclose(found, ordinary_losses(model, optimizer_of(model), all_batches), rtol=1e-5)


def test_replaced_weights_are_recorded_anew(on_the_cpu):
    model, all_batches = cpu_model(), list(batches(cpu_model(), 4))
    first = {name: x.copy() for name, x in model.state_dict().items()}
    step, _ = started(model, all_batches)
    model.load_state_dict(first)
    recorded_losses(step, all_batches)
    assert [recording.runs for recording in on_the_cpu] == [["recorded", "replayed", "replayed"]] * 4


def with_buffers():
    """A model whose frozen weights are in 4 bits."""
    manual_seed(0)
    return peft_model(model=quantize_model(tiny_model())).train()


def replaced_codes(step):
    buffers = list(step.model.buffers())
    assert buffers
    for buffer in buffers:
        buffer.data = buffer.data.copy()


def with_another_adapter(step):
    step.model.add_adapter("b", LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    step.model.base_model.set_adapter(["default", "b"])


def rescaled(step):
    for _, layer in step.model.base_model.layers():
        layer.scaling["default"] = 0.5 * layer.scaling["default"]


def frozen(step):
    step.trained[0].requires_grad = False


def with_the_state_that_it_has(step):
    step.optimizer.load_state_dict(step.optimizer.state_dict())


def with_one_parameter_more(step):
    step.optimizer.param_groups[0]["params"].remove(left_out := step.trained[0])
    step.optimizer.add_param_group({"params": [left_out], "lr": 1.0})


CHANGES = {
    "codes": replaced_codes,
    "evaluation": lambda step: step.model.eval(),
    "another adapter": with_another_adapter,
    "scaling": rescaled,
    "frozen": frozen,
    "checkpointing": lambda step: step.model.gradient_checkpointing_enable(),
    "state": with_the_state_that_it_has,
    "another group": with_one_parameter_more,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_was_told_something_else_is_recorded_anew(on_the_cpu, name):
    step = RecordedStep(model := with_buffers(), optimizer_of(model))
    recorded_losses(step, all_batches := list(batches(model, 4)))
    assert [recording.runs for recording in on_the_cpu] == [["recorded", "replayed", "replayed"]] * 2
    CHANGES[name](step)
    recorded_losses(step, all_batches)
    assert [recording.runs for recording in on_the_cpu] == [["recorded", "replayed", "replayed"]] * 4
    ages = {state["step"] for state in step.optimizer.state.values()}
    assert ages <= {4, 8}


def test_who_looks_at_the_model_between_two_steps_changes_nothing(on_the_cpu):
    model, all_batches = cpu_model(n_positions=64), list(batches(cpu_model(), 5))
    step, _ = started(model, all_batches[:3])
    evaluate(model, all_batches[0]["input_ids"])
    model.generate(all_batches[0]["input_ids"], max_new_tokens=2)
    model.eval()
    model.train()
    other = cpu_model()  # another one, that learns in between
    ordinary_losses(other, optimizer_of(other), all_batches[:1])
    recorded_losses(step, all_batches[3:])
    assert [recording.runs for recording in on_the_cpu] == [["recorded"] + ["replayed"] * 3] * 2


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
    with pytest.raises(ValueError, match=r"nothing to average: every label after .* is -100 in the batch"):
        step({"input_ids": ids, "labels": first_only})
    with pytest.raises(ValueError, match=r"labels of shape \(3, 7\) do not fit input_ids of shape \(3, 8\)"):
        step({"input_ids": ids, "labels": ids[:, 1:]})
    with pytest.raises(ValueError, match="takes input_ids, labels and an attention_mask, not input_ids, labels, x"):
        step({"input_ids": ids, "labels": ids, "x": np.ones_like(ids)})
    with pytest.raises(ValueError, match=r"attention_mask must be \(3, 8\), one value for each token"):
        step({"input_ids": ids, "labels": ids, "attention_mask": np.ones((3, 7))})
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
    assert len(replays) == 2 * 6  # gradients, and the change of the weights
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
        states.append(optimizer.numbered_state())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[0][0] != losses[0][-1]
    for a, b in zip(*weights, strict=True):
        assert relative(b, a) < 1e-4
    assert all(states[0][name] == states[1][name] == 7 for name in states[0] if name.endswith("step"))


def assert_trains_alike(make_model, all_steps, max_norm=0.0, close=1e-4):
    """Recorded steps give the losses and weights of ordinary ones. Returns the recorded step."""
    manual_seed(7)
    model = make_model()
    manual_seed(8)  # what dropout draws from
    step = RecordedStep(model, optimizer_of(model), max_norm)
    found = [float(step(*parts)) for parts in all_steps]
    manual_seed(7)
    model = make_model()
    manual_seed(8)
    optimizer = optimizer_of(model)
    np.testing.assert_allclose(found, ordinary_steps(model, optimizer, all_steps, max_norm), rtol=1e-5)
    for p, q in zip(step.trained, optimizer.parameters(), strict=True):
        assert relative(p.data.get(), q.data.get()) < close
    return step


LONG = {"gpt2": {"n_positions": 300}, "llama": {"max_position_embeddings": 300}}
LENGTHS = (40, 33, 270, 20, 47, 260, 36, 19, 265, 48, 275, 35)


@gpu
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("masked", [False, True])
def test_batches_of_unequal_lengths_are_recorded(kind, masked):
    example = make(kind, **LONG[kind])
    all_steps = [[one] for length in LENGTHS for one in batches(example, 1, masked, length)]
    step = assert_trains_alike(lambda: make(kind, **LONG[kind]), all_steps)
    assert sorted(length for (_, length), _ in step.pieces) == [32, 40, 48, 288]
    assert sum(piece.piece.is_recorded for piece in step.pieces.values()) == 3
    assert not any(piece.cannot for piece in step.pieces.values())
    pool = step.room.pool
    del step
    gc.collect()
    assert pool.total_bytes() == 0  # nothing that stays was put there


@gpu
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("side", ["left", "right", "holes"])
def test_masks_are_read_anew_in_each_replay(kind, side):
    step = assert_trains_alike(lambda: make(kind), [[one] for one in masked_batches(make(kind), side)])
    (piece,) = step.pieces.values()
    assert ("attention_mask" in piece.buffers) == (side != "right")
    assert piece.piece.is_recorded


def with_dropout(kind, checkpointing=False):
    rates = dict.fromkeys(("resid_pdrop", "attn_pdrop", "embd_pdrop"), 0.2) if kind == "gpt2" else {}
    rates = {"attention_dropout": 0.2} if kind == "llama" else rates
    options = {"r": 4, "lora_dropout": 0.3, "init_lora_weights": False, "target_modules": "all-linear"}
    base = (tiny_model if kind == "gpt2" else tiny_llama)(**rates, **LONG[kind])
    model = get_peft_model(base, LoraConfig(**options, fan_in_fan_out=kind == "gpt2")).to("cuda").train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    return model


@gpu
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_draws_what_ordinary_steps_draw(kind, checkpointing):
    """Also where batches are filled up, and in what is computed again."""
    example = with_dropout(kind)
    all_steps = [[one] for length in LENGTHS for one in batches(example, 1, True, length)]
    step = assert_trains_alike(functools.partial(with_dropout, kind, checkpointing), all_steps, 1.0)
    assert sum(piece.piece.is_recorded for piece in step.pieces.values()) == 3


@gpu
def test_each_replay_draws_anew_and_a_seed_brings_it_back():
    model = with_dropout("gpt2")
    step = RecordedStep(model, AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0))
    (batch,) = batches(model, 1, length=40)
    found = [float(step(batch)) for _ in range(2)]
    for _ in range(2):
        manual_seed(5)
        found += [float(step(batch)) for _ in range(4)]
    assert len(set(found)) == 2 + 4
    assert found[2:6] == found[6:]


@gpu
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_several_batches_and_shapes_make_one_step(kind):
    example = with_dropout(kind)
    each = [one for length in (40, 20, 270, 33) * 3 for one in batches(example, 1, True, length)]
    each[5]["labels"] = np.full_like(each[5]["labels"], -100)
    all_steps = [each[i : i + 2] for i in range(0, 12, 2)]
    assert_trains_alike(functools.partial(with_dropout, kind), all_steps, 0.5)


@gpu
def test_windows_and_caps_are_recorded():

    def make_model():
        sizes = {**SMALL, "head_dim": 6, "query_pre_attn_scalar": 9, "max_position_embeddings": 64}
        caps = {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.7}
        model = randomize(Gemma2ForCausalLM(Gemma2Config(**sizes, **caps, sliding_window=3)))
        return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")).to("cuda").train()

    all_steps = [[one] for length in (40, 36, 40, 33, 40, 40) for one in batches(make_model(), 1, True, length)]
    step = assert_trains_alike(make_model, all_steps, close=1e-3)
    assert {piece.cannot for piece in step.pieces.values()} == {False}


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


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(r=2, target_modules=["c_attn"], rank_dropout=0.1),
        LoHaConfig(r=2, target_modules=["c_attn"], module_dropout=0.1),
        OFTConfig(oft_block_size=4, target_modules=["c_attn"], module_dropout=0.1),
    ],
    ids=["rank_dropout", "module_dropout", "of blocks"],
)
def test_random_numbers_that_are_not_dropouts_are_refused(on_the_cpu, config):
    model = get_peft_model(tiny_model(), config)
    with pytest.raises(ValueError, match="would draw the same random numbers every time"):
        RecordedStep(model, AdamW([p for p in model.parameters() if p.requires_grad]))


def test_an_adapter_that_looks_at_the_ids_is_refused(on_the_cpu):
    """It would find its tokens also in what a batch is filled up with."""
    model = peft_model(alora_invocation_tokens=[3, 0])
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad])
    with pytest.raises(ValueError, match="aLoRA looks for its invocation tokens in each"):
        RecordedStep(model, optimizer)
    assert recorded_module.recorded_step(model, optimizer) is None


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
    assert len(replays) == 2 * 7  # of nine steps, the first runs as usual and the second is recorded
    monkeypatch.setattr(loop, "recorded_step", lambda *args: None)
    expected, others = run()
    assert len(replays) == 2 * 7
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    assert history["loss"][0] != history["loss"][-1]
    assert history["learning_rate"] == expected["learning_rate"]
    found, wanted = ([point["held out"] for point in h["evaluation"]] for h in (history, expected))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for a, b in zip(weights, others, strict=True):
        assert relative(a, b) < 1e-3


@gpu
@pytest.mark.parametrize("changes", [{"target_modules": ["wte"]}, {"modules_to_save": ["wte"]}], ids=str)
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
        monkeypatch.setattr(recorded_module, "RecordedStep", lambda *args: pytest.fail("it would be recorded"))
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
        optimizer.load_state_dict(optimizer.state_dict())
        results.append((found + run(all_batches[4:]), [p.data.get() for p in optimizer.parameters()]))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert relative(b, a) < 1e-3


class UnequalData:
    """Batches of several lengths; some have padding on the left, and a mask for it."""

    def batch(self, seed, step):
        (batch,) = batches(with_dropout("gpt2"), 1, True, LENGTHS[step % len(LENGTHS)])
        if step % 5 == 2:
            batch["attention_mask"] = np.ones_like(batch["input_ids"])
            batch["attention_mask"][1, :4], batch["labels"][1, :6] = 0, -100
        return batch


@gpu
@pytest.mark.parametrize("accumulation", [1, 3])
def test_train_records_real_batches_and_goes_on_as_if_it_had_not_stopped(monkeypatch, tmp_path, accumulation):
    def run(steps, directory=None, resume=False):
        manual_seed(0)
        model = with_dropout("gpt2")
        args = TrainingArguments(
            steps=steps,
            num_train_epochs=None,
            learning_rate=0.01,
            accumulation=accumulation,
            lr_scheduler_type="constant",
        )
        history = train(model, UnequalData(), args, directory=directory, resume=resume, progress=False)
        return history["loss"], [p.data.get() for p in model.parameters() if p.requires_grad]

    taken, call = [], RecordedStep.__call__
    monkeypatch.setattr(RecordedStep, "__call__", lambda self, *parts: taken.append(len(parts)) or call(self, *parts))
    losses, weights = run(14)
    assert taken == [accumulation] * 14
    run(6, tmp_path)
    monkeypatch.setattr(loop.TrainingRun, "arguments", lambda self: {})  # other steps than before
    again, same_weights = run(14, tmp_path, resume=True)
    np.testing.assert_allclose(again, losses, rtol=1e-5)
    monkeypatch.setattr(loop, "recorded_step", lambda *args: None)
    expected, others = run(14)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for a, b, c in zip(weights, same_weights, others, strict=True):
        assert relative(b, a) < 1e-3
        assert relative(a, c) < 1e-3


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
