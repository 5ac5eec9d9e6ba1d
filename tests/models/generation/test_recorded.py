"""A recorded step of one token writes what the ordinary one does."""

import contextlib
import sys
import types

import numpy as np
import pytest
from lora_helpers import peft_model, rows_as_on_a_gpu, tiny_llama, tiny_model

from lora_np import LoraConfig, get_peft_model
from lora_np.autograd.conversion import as_dtype
from lora_np.models.generation import recorded
from lora_np.models.kv_cache import KVCache

gpu = pytest.mark.gpu
MODELS = {
    "gpt2": lambda: tiny_model(n_positions=64),
    "llama": lambda: tiny_llama(max_position_embeddings=64),
    "adapted": lambda: get_peft_model(
        tiny_llama(max_position_embeddings=64), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    ),
    "adapted gpt2": lambda: peft_model(model=tiny_model(n_positions=64)),
}


@gpu
@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_same_text(monkeypatch, kind, dtype, rows):
    ids = np.random.default_rng(0).integers(0, 31, (rows, 5))
    model, made = MODELS[kind]().to("cuda"), []
    if dtype == "bfloat16":
        model = model.to("bfloat16")
    record = recorded.RecordedSteps.__init__
    monkeypatch.setattr(recorded.RecordedSteps, "__init__", lambda *a: made.append(1) or record(*a))
    options = {"max_new_tokens": 30, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    found = model.generate(ids, **options)
    assert made == [1]
    monkeypatch.setattr(recorded, "FEWEST", 10**6)
    expected = model.generate(ids, **options)
    assert made == [1]
    same = (found.sequences == expected.sequences).all(axis=0)
    first = len(same) if same.all() else int(np.argmin(same))  # after a near tie the texts may differ
    assert first >= 5 + (10 if dtype == "bfloat16" else 30)
    for a, b in list(zip(found.logits, expected.logits, strict=True))[: first - 5]:
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max() if dtype == "bfloat16" else 1e-4)
    assert found.past_key_values.length == expected.past_key_values.length


def test_what_is_on_a_cpu_is_not_recorded():
    model, cache = tiny_llama(), KVCache(40)
    model.generate([[1, 2, 3]], max_new_tokens=2, past_key_values=cache)
    assert cache.length
    assert not recorded.can_be_recorded(model, cache, 30)
    assert not recorded.can_be_recorded(model, None, 30)


class FakeRecording:
    """What `Recording` does, on the CPU: what was recorded is done again; or it cannot be recorded."""

    fails, done = False, []

    def inside(self):
        return contextlib.nullcontext()

    def record(self, function):
        if self.fails:
            raise NotImplementedError("calls to cuBLAS during stream capture are unsupported")
        self.function = function
        self.done.append("recorded")
        self.result = function()
        return self.result

    def replay(self):
        self.done.append("replayed")
        self.result[...] = self.function()


@pytest.fixture
def as_if_a_gpu(monkeypatch):
    """A step on the CPU is taken for one that can be recorded; FakeRecording.done says what was done."""
    record, elementary = types.ModuleType("record"), types.ModuleType("elementary")

    def keep_at(x, room, place):
        room[:, :, place[0]] = x[:, :, 0]

    record.Recording, elementary.keep_at = FakeRecording, keep_at
    monkeypatch.setattr(FakeRecording, "done", [])
    monkeypatch.setitem(sys.modules, "lora_np.autograd.cuda", types.ModuleType("lora_np.autograd.cuda"))
    monkeypatch.setitem(sys.modules, "lora_np.autograd.cuda.record", record)
    monkeypatch.setitem(sys.modules, "lora_np.autograd.cuda.elementary", elementary)
    return lambda: monkeypatch.setattr(recorded, "on_gpu", lambda x: True)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", list(MODELS))
def test_as_if_the_cpu_were_a_gpu(monkeypatch, as_if_a_gpu, kind, fails):
    model, ids = MODELS[kind](), np.random.default_rng(0).integers(0, 31, (2, 5))
    expected = model.generate(ids, max_new_tokens=20, do_sample=False)
    monkeypatch.setattr(FakeRecording, "fails", fails)
    as_if_a_gpu()
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=20, do_sample=False), expected)
    assert FakeRecording.done == ([] if fails else ["recorded"] + ["replayed"] * 17)


def test_what_changes_between_two_steps_is_recorded_anew(as_if_a_gpu):
    model, ids = MODELS["adapted"](), np.random.default_rng(0).integers(0, 31, (2, 5))

    def text(change):
        model.set_scale("default", 1)
        found = []
        for step, tokens in enumerate(model.stream(ids, max_new_tokens=20, eos_token_id=[])):
            found.append(tokens)
            if step == 6 and change:
                model.set_scale("default", -30)
        return np.stack(found, axis=1)

    expected, unchanged = text(True), text(False)
    as_if_a_gpu()
    np.testing.assert_array_equal(text(True), expected)
    assert (expected != unchanged).any()
    assert FakeRecording.done == ["recorded"] + ["replayed"] * 4 + ["recorded"] + ["replayed"] * 11


def test_rows_are_recorded_where_all_matrices_are_read_where_they_lie(monkeypatch, as_if_a_gpu):
    model, ids = MODELS["adapted"](), np.random.default_rng(0).integers(0, 31, (2, 5))
    model.add_adapter("other", LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    told = {"max_new_tokens": 20, "do_sample": False}
    one, both = (model.generate(ids, adapter_names=["other", name], **told) for name in ("other", "default"))
    assert (one[0] != model.generate(ids, **told)[0]).any()
    as_if_a_gpu()
    np.testing.assert_array_equal(model.generate(ids, adapter_names=["other", "default"], **told), both)
    assert FakeRecording.done == []  # stacks are moved together
    np.testing.assert_array_equal(model.generate(ids, adapter_names=["other", "other"], **told), one)
    assert FakeRecording.done == ["recorded"] + ["replayed"] * 17
    FakeRecording.done.clear()
    rows_as_on_a_gpu(monkeypatch)
    np.testing.assert_array_equal(model.generate(ids, adapter_names=["other", "default"], **told), both)
    assert FakeRecording.done == ["recorded"] + ["replayed"] * 17


@gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_on_a_gpu(monkeypatch, dtype):
    """The text of rows with adapters of their own is the same as without a recording, also where one changes."""
    model, names = MODELS["adapted"](), ["default", "other", "__base__"]
    model.add_adapter("other", LoraConfig(r=12, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    model.to("cuda")
    for name, p in model.named_parameters():
        p.data = p.data if "lora_" in name else p.data.astype(as_dtype(dtype))
    ids, made, record = np.random.default_rng(0).integers(0, 31, (3, 5)), [], recorded.RecordedSteps.__init__
    monkeypatch.setattr(recorded.RecordedSteps, "__init__", lambda *a: made.append(1) or record(*a))

    def text():
        found = []
        for step, tokens in enumerate(model.stream(ids, max_new_tokens=24, eos_token_id=[], adapter_names=names)):
            found.append(tokens)
            if step == 8:
                for adapter in model.base_model.adapter("other").adapters.values():
                    adapter.lora_B.weight.data = -3 * adapter.lora_B.weight.data
        return np.stack(found, axis=1)

    found = text()
    assert made == [1, 1]
    for adapter in model.base_model.adapter("other").adapters.values():
        adapter.lora_B.weight.data = adapter.lora_B.weight.data / -3
    monkeypatch.setattr(recorded, "FEWEST", 10**6)
    expected = text()
    assert made == [1, 1]
    assert (found == expected).mean() > (0.6 if dtype == "bfloat16" else 0.99)
