"""Evaluation for one call: nothing in the modules changes, and no other thread sees it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lora_helpers import peft_model, some_ids, tiny_llama, tiny_model

from lora_np import evaluate, nn, no_grad
from lora_np.autograd import threads

DROPOUT = {"resid_pdrop": 0.4, "embd_pdrop": 0.4, "attn_pdrop": 0.4}


def with_dropout(kind):
    if kind == "llama":
        return tiny_llama(attention_dropout=0.4)
    return peft_model(model=tiny_model(**DROPOUT), lora_dropout=0.4)


def mixed_modes(model):
    """The model with some modules in training and others not."""
    for i, module in enumerate(model.modules()):
        module.training = i % 3 > 0
    return model


def modes(model):
    return [module.training for module in model.modules()]


def test_inside_the_block_every_module_evaluates_and_after_it_is_as_it_was():
    model = mixed_modes(with_dropout("gpt2"))
    before = modes(model)
    with nn.evaluating():
        assert not any(modes(model))
        with nn.evaluating():
            pass
        assert not any(modes(model))
    assert modes(model) == before
    with pytest.raises(ZeroDivisionError), nn.evaluating():
        1 / 0  # noqa: B018
    assert modes(model) == before


def test_what_is_set_inside_holds_after_the_block():
    layer = nn.Dropout(0.5)
    with nn.evaluating():
        layer.train()
        assert not layer.training
    assert layer.training


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_dropout_is_off_in_the_block_and_on_outside(kind):
    model = with_dropout(kind).train()
    ids = some_ids(model.config)
    with no_grad():
        with nn.evaluating():
            found = model(ids).logits.data
        assert (model(ids).logits.data != found).any()
        np.testing.assert_array_equal(model.eval()(ids).logits.data, found)


def test_shards_evaluate_too(monkeypatch):
    monkeypatch.setattr(threads, "LEAST_TOKENS", 1)
    model = with_dropout("gpt2").train()
    ids = some_ids(model.config, batch=4)
    with threads.limit_threads(2), nn.evaluating():
        first, second = (model(input_ids=ids, labels=ids).loss.item() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("use", ["generate", "stream", "evaluate"])
def test_generation_and_evaluation_see_no_dropout_and_leave_every_mode_alone(use, kind):
    model = mixed_modes(with_dropout(kind))
    before, ids = modes(model), some_ids(model.config, time=4)
    uses = {
        "generate": lambda: model.generate(ids, max_new_tokens=6).tolist(),
        "stream": lambda: [(tokens.tolist(), modes(model) == before) for tokens in model.stream(ids, max_new_tokens=6)],
        "evaluate": lambda: evaluate(model, ids),
    }
    found = uses[use]()
    assert modes(model) == before
    assert found == uses[use]()
    before = modes(model.eval())
    assert found == uses[use]()


@pytest.mark.parametrize("use", ["generate", "evaluate"])
def test_many_threads_that_generate_leave_a_model_in_training(use):
    model = with_dropout("gpt2").train()
    ids, stop, wrong = some_ids(model.config, time=4), threading.Event(), []

    def watch():
        while not stop.is_set():
            wrong.extend(name for name, module in model.named_modules() if not module.training)

    def work():
        return model.generate(ids, max_new_tokens=6).tolist() if use == "generate" else evaluate(model, ids)

    expected = work()
    with ThreadPoolExecutor(4) as pool:
        watching = pool.submit(watch)
        found = [pool.submit(work) for _ in range(12)]
        found = [outcome.result(60) for outcome in found]
        stop.set()
        watching.result(60)
    assert all(result == expected for result in found)
    assert not wrong
    assert all(modes(model))
