"""What adapters of one name do together in training: with plain LoRA made to do something."""

import numpy as np
import pytest
from lora_helpers import peft_model, refusal, some_ids, tiny_model

from lora_np import LoraConfig, nn
from lora_np.lora.in_training import put_run_state, run_state, step_hook
from lora_np.lora.layer import LoraAdapter


@pytest.fixture
def counting(monkeypatch):
    """Plain LoRA, whose adapters count their steps and add the sum of B to the loss; [(name, layers, step)]."""
    calls = []

    def after_step(cls, config, name, adapters, step):
        calls.append((name, list(adapters), step))
        for adapter in adapters.values():
            adapter.steps = getattr(adapter, "steps", 0) + 1

    def put(self, arrays):
        if set(arrays) - {"steps"}:
            raise ValueError("is of another model")
        self.steps = int(arrays["steps"]) if arrays else 0

    def term(cls, config, adapters):
        return sum((a.lora_B.weight.sum() for a in adapters), 0.0)

    monkeypatch.setattr(LoraAdapter, "together", True)
    monkeypatch.setattr(LoraAdapter, "model_methods", {"count_steps": "after_step"})
    monkeypatch.setattr(LoraAdapter, "after_step", classmethod(after_step))
    monkeypatch.setattr(LoraAdapter, "loss_term", classmethod(term))
    monkeypatch.setattr(LoraAdapter, "run_state", lambda self: {"steps": np.array(getattr(self, "steps", 0))})
    monkeypatch.setattr(LoraAdapter, "put_run_state", put)
    return calls


LAYERS = ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]


def loss_of(model):
    ids = some_ids(tiny_model().config)
    return model(ids, labels=ids).loss.item()


def test_active_adapters_that_are_trained_take_part(counting):
    model = peft_model(task_type="CAUSAL_LM")
    model.add_adapter("other", LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    model.base_model.after_step(3)
    model.base_model.count_steps(4)
    assert counting == [("default", LAYERS, 3), ("default", LAYERS, 4)]
    model.set_adapter(["default", "other"])
    model.base_model.after_step(5)
    assert [name for name, _, step in counting if step == 5] == ["default", "other"]
    model.set_adapter("default", inference_mode=True)
    model.base_model.after_step(6)
    assert counting[-1][2] == 5


def test_the_term_is_in_the_loss_of_a_model_with_a_task_and_not_where_adapters_are_left_out(counting):
    model = peft_model(task_type="CAUSAL_LM")
    plain = loss_of(model.base_model.model)
    term = sum(layer.lora_B["default"].weight.data.sum() for _, layer in model.base_model.layers())
    assert loss_of(model) == pytest.approx(plain + term, rel=1e-5)
    assert loss_of(model.base_model) == loss_of(model)
    model.set_adapter([])
    assert loss_of(model) == loss_of(tiny_model())
    model.set_adapter("default")
    with model.disable_adapter():
        assert loss_of(model) == loss_of(tiny_model())
    assert model(some_ids(tiny_model().config)).loss is None
    untold = peft_model()
    assert loss_of(untold) == loss_of(untold.base_model.model) != loss_of(untold.base_model)


def test_the_hook_finds_a_model_with_adapters_inside_another(counting):
    class Outer(nn.Module):
        def __init__(self):
            self.inner = peft_model()

    model = Outer()
    step_hook(model)(7)
    assert counting == [("default", LAYERS, 7)]
    step_hook(tiny_model())(8)
    assert len(counting) == 1


def test_what_they_know_is_taken_out_and_put_back_whole(counting):
    model, other = peft_model(), peft_model()
    model.base_model.after_step(0)
    state = run_state(model)
    assert len(state) == 2
    put_run_state(other, state)
    assert run_state(other) == state
    wrong = {**run_state(peft_model()), "elsewhere.default.steps": np.array(3)}
    assert "elsewhere" in refusal(ValueError, lambda: put_run_state(other, wrong))
    assert run_state(other) == state


def test_other_kinds_have_no_such_thing():
    model = peft_model()
    assert run_state(model) == {}
    model.base_model.after_step(0)
    assert not hasattr(model, "count_steps")
