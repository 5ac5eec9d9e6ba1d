"""The notebooks' experiment: one task, many methods."""

import numpy as np
import pytest

from lora_course import Adaptation
from lora_course.adaptation import PROSE, SOURCE, spread_of
from lora_np import LoraConfig, evaluate
from lora_np.training import prose_documents
from lora_np.training.data import split_documents

LORA = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", fan_in_fan_out=True)


@pytest.fixture(scope="module")
def task():
    return Adaptation(steps=2, batch_size=2, window=64, evaluations=2)


def test_the_same_seed_gives_the_same_outcome_and_another_seed_another(task):
    first, again, other = (task.run(LORA, seed=seed) for seed in (0, 0, 1))
    assert first.history == again.history
    assert (first.prose, first.source) == (again.prose, again.source)
    for (name, p), q in zip(first.model.named_parameters(), again.model.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data, err_msg=name)
    assert other.history["loss"][0] != first.history["loss"][0]
    assert other.prose != first.prose


@pytest.mark.parametrize("method", [LORA, "full", "head"])
def test_every_method_starts_at_the_base(task, method):
    base = task.base()
    outcome = task.run(method, learning_rate=1e-3)
    before, after = outcome.history["evaluation"]
    for name in (PROSE, SOURCE):
        assert before[name] == pytest.approx(evaluate(base, task.evaluation[name]), rel=1e-6)
    assert (after[PROSE], after[SOURCE]) == (outcome.prose, outcome.source)
    assert (before["step"], after["step"]) == (0, 2)
    assert outcome.prose != before[PROSE]


def changed(task, outcome):
    """The names of the base's parameters that a run has changed."""
    before = task.base().state_dict()
    after = {name.replace(".base_layer", "").removeprefix("base_model.model."): p for name, p in parameters(outcome)}
    return {name for name, p in after.items() if name in before and not np.array_equal(p, before[name])}


def parameters(outcome):
    return [(name, p.data) for name, p in outcome.model.named_parameters()]


def test_the_head_is_trained_alone_and_the_embedding_stays(task):
    outcome = task.run("head")
    trained = {name for name, p in outcome.model.named_parameters() if p.requires_grad}
    state, base = dict(parameters(outcome)), task.base().state_dict()
    assert trained == {"lm_head.weight"}
    assert changed(task, outcome) <= {"lm_head.weight"}  # a tied head is not among the base's parameters
    assert not np.array_equal(state["lm_head.weight"], base["transformer.wte.weight"])
    np.testing.assert_array_equal(state["transformer.wte.weight"], base["transformer.wte.weight"])
    assert outcome.trainable == base["transformer.wte.weight"].size
    assert outcome.bytes == 4 * outcome.trainable


def test_lora_leaves_the_base_and_full_training_does_not(task):
    adapted, full = task.run(LORA), task.run("full", learning_rate=1e-3)
    assert changed(task, adapted) == set()
    assert changed(task, full) == {name for name, _ in parameters(full)}
    assert adapted.trainable == 2 * 8192  # r (in + out) of all linear layers
    assert full.trainable == 858_880


def test_another_method_is_refused(task):
    with pytest.raises(ValueError, match='method must be a LoraConfig, "full" or "head", got \'lora\''):
        task.prepare("lora")


def test_nothing_that_is_measured_is_learnt():
    parts = split_documents(prose_documents())
    tasks = {part: Adaptation(steps=1, window=64, evaluations=10**6, held_out=part) for part in ("test", "validation")}
    assert tasks["test"].train.tokens.astype(np.uint8).tobytes() == joined(parts["train"])
    for part, task in tasks.items():
        windows = task.evaluation[PROSE].astype(np.uint8)
        assert windows.tobytes() == joined(parts[part])[: windows.size]


def joined(documents):
    """The documents as the byte tokenizer has them: UTF-8, with the end token after each."""
    return b"".join(text.encode() + b"\0" for text in documents.values())


def test_further_arguments_reach_the_training(task):
    plain, faster = task.run(LORA, max_grad_norm=0), task.run(LORA, max_grad_norm=0, loraplus_lr_ratio=4.0)
    assert plain.history["loss"][0] == faster.history["loss"][0]
    assert plain.history["loss"][1] != faster.history["loss"][1]


def test_a_spread_has_the_deviation_of_a_sample():
    assert spread_of([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))  # (4 + 1 + 9) / 2
    assert spread_of([5.0]) == (5.0, 0.0)
