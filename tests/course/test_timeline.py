"""Taking a step apart: every operation is noted, nothing is changed, the parts add up to the whole."""

import numpy as np
import pytest
from lora_helpers import peft_model

from lora_course.timeline import PARTS, REST, Span, Timeline, time_line, watched
from lora_np import AdamW, manual_seed
from lora_np.autograd import fused


def make():
    manual_seed(0)
    model = peft_model().train()
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 8))
    return model, AdamW([p for p in model.parameters() if p.requires_grad]), {"input_ids": ids, "labels": ids}


def test_a_step_has_its_operations_in_order():
    model, optimizer, batch = make()
    line = time_line(model, optimizer, batch)
    forward = [span.part for span in line.spans if span.phase == "forward"]
    backward = [span.part for span in line.spans if span.phase == "backward"]
    assert forward[:3] == ["norm, GELU", "linear layers", "attention"]
    assert forward[-1] == backward[0] == "head and loss"
    assert forward.count("attention") == backward.count("attention") == model.config.n_layer
    assert line.spans[-1].part == "optimizer"
    assert all(0 <= span.start <= span.end <= line.milliseconds for span in line.spans)
    assert line.lanes == 1


def test_a_watched_step_trains_as_any_other():
    trained = []
    for watch in (False, True):
        model, optimizer, batch = make()
        if watch:
            time_line(model, optimizer, batch, warm_up=2)
        else:
            for _ in range(3):
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        trained.append([p.data for p in optimizer.parameters()])
        assert all(p.grad is None for p in optimizer.parameters())
    for a, b in zip(*trained, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_operations_are_put_back_also_after_an_error():
    before = {name: getattr(fused, name) for name in fused.__all__}
    with watched():
        assert fused.linear_forward is not before["linear_forward"]
    assert fused.linear_forward is before["linear_forward"]
    with pytest.raises(RuntimeError, match="an error"), watched():
        raise RuntimeError("an error")
    assert {name: getattr(fused, name) for name in fused.__all__} == before


def test_every_fused_operation_belongs_to_a_part():
    names = {name.rpartition("_")[0] for name in fused.__all__ if name.endswith(("_forward", "_backward"))}
    assert names | {"optimizer"} == {name for operations in PARTS.values() for name in operations}


def test_threads_are_lanes(monkeypatch):
    monkeypatch.setenv("LORA_NP_NUM_THREADS", "2")
    model, optimizer, batch = make()
    monkeypatch.setattr("lora_np.autograd.threads.LEAST_TOKENS", 1)
    assert time_line(model, optimizer, batch).lanes == 2


def test_parts_add_up_and_threads_share():
    spans = [
        Span("attention", "forward", 0.0, 4.0, 0),
        Span("attention", "forward", 1.0, 5.0, 1),
        Span("optimizer", "step", 8.0, 9.0, 0),
    ]
    parts = Timeline(spans, 10.0).by_part()
    assert parts["attention"] == 4.0
    assert parts["optimizer"] == 0.5
    assert parts["linear layers"] == 0.0
    assert parts[REST] == 5.5
    assert list(parts) == [*PARTS, REST]
