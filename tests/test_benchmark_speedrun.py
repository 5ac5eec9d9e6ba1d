"""tests/benchmarks/speedrun.py: both sides of the race train the same, and what it says is what was measured."""

import numpy as np
import pytest
from benchmarks.speedrun import TARGET, Lora, Racer, Torch, counted, padded, race

from lora_np import GPT2Config, GPT2LMHeadModel, LoraConfig, TrainingArguments, get_peft_model, no_grad


def batches(count):
    """Rows of ids, of which the second half is learnt."""
    rng = np.random.default_rng(0)
    found = [{"input_ids": rng.integers(0, 50, (3, 10))} for _ in range(count)]
    return [{**batch, "labels": np.where(np.arange(10) < 5, -100, batch["input_ids"])} for batch in found]


@pytest.fixture
def folder(tmp_path):
    """A base and an adapter that is no zero."""
    shape = {"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**shape, **still, bos_token_id=0, eos_token_id=0))
    model.save_pretrained(tmp_path)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    with no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.data += 0.1
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path


@pytest.mark.parity
def test_both_sides_train_the_same(folder):
    args = TrainingArguments(steps=6, learning_rate=1e-2, warmup_steps=2)
    sides = [Lora(folder, args, "lora_np"), Torch(folder, args, "float32")]
    before, after = [], []
    for side in sides:
        before.append(side.losses(batches(2)))
        side.steps(batches(4))
        after.append(side.losses(batches(2)))
    np.testing.assert_allclose(before[0], before[1], rtol=1e-5)
    np.testing.assert_allclose(after[0], after[1], rtol=1e-4)
    assert np.abs(np.subtract(after[0], before[0])[:, 0]).min() > 1e-3


@pytest.mark.parametrize("kind", [Lora, pytest.param(Torch, marks=pytest.mark.parity)])
def test_a_rehearsal_changes_nothing(folder, kind):
    args = TrainingArguments(steps=6, learning_rate=1e-2, warmup_steps=2)
    sides = [kind(folder, args, "float32") for _ in range(2)]
    sides[0].rehearse(batches(3))
    for side in sides:
        side.steps(batches(4))
    assert sides[0].losses(batches(2)) == sides[1].losses(batches(2))


def test_a_padded_batch_has_the_same_loss(folder, monkeypatch):
    monkeypatch.setattr("benchmarks.speedrun.PADDED", 14)
    side = Lora(folder, TrainingArguments(steps=6), "float32")
    (batch,) = batches(1)
    assert padded(batch)["input_ids"].shape == (3, 14)
    (usual, count), (other, same) = side.losses([batch, padded(batch)])
    assert count == same
    assert np.isclose(usual, other, rtol=1e-6)


def test_only_foretold_labels_count():
    (batch,) = batches(1)
    assert counted(batch) == 3 * 5
    batch["labels"][:, 0] = 1
    assert counted(batch) == 3 * 5


def test_a_race_ends_where_all_have_arrived_or_are_out_of_steps(monkeypatch, tmp_path, capsys):
    """A racer of numbers alone: each of its steps takes a second and lowers the loss."""

    class Counts(Racer):
        def __init__(self, system, folder, args, device):
            self.speed, self.steps = {"lora_np": 0.04, "torch + PEFT": 0.01}[system], 0
            self.done = {"system": system, "step": [], "seconds": [], "held_out": []}
            self.pipe = self.process = self

        def ask(self, name, given):
            if name == "steps":
                self.steps += len(given)
                return float(len(given)), None
            return 0.1, [(4.0 - self.speed * self.steps, 3), (4.0 - self.speed * self.steps, 1)]

        def await_ready(self):
            pass

        def send(self, told):
            assert told is None

        def join(self):
            pass

    monkeypatch.setattr("benchmarks.speedrun.Racer", Counts)
    monkeypatch.setattr("benchmarks.speedrun.prepare", lambda folder: (None, list(range(50)), ["held out"]))
    kept = []
    fast, slow = race(["lora_np", "torch + PEFT"], keep=lambda done: kept.append(len(done[1]["step"])))
    assert kept == [2, 3, 4]
    assert fast["step"] == [0, 20, 40]
    assert fast["seconds"] == [0.0, 20.0, 40.0]
    assert fast["held_out"] == [4.0, 3.2, 2.4]
    assert fast["held_out"][-2] > TARGET > fast["held_out"][-1]
    assert slow["step"] == [0, 20, 40, 50]
    assert "torch + PEFT" in capsys.readouterr().out
