"""Classifiers: logits, losses and gradients against Transformers and finite differences; which token counts."""

import numpy as np
import pytest
from classifier_helpers import IDS, LAST, MASK, PAD, tiny_classifier, twin_of
from lora_helpers import relative

from lora_np import no_grad
from lora_np.autograd import threads
from lora_np.models import classification
from lora_np.models.architectures import ARCHITECTURES
from lora_np.models.classification import CLASSIFIERS, SequenceClassifier, classifier_of
from lora_np.models.output import ShardedOutput

PROBLEMS = {
    "single_label_classification": (3, np.array([0, 2, 1, -100, 2])),
    "multi_label_classification": (3, np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0.5, 0, 1], [0, 1, 0]], np.float32)),
    "regression": (1, np.array([0.5, -1, 2, 0, 3], np.float32)),
    "regression of several": (2, np.arange(10, dtype=np.float32).reshape(5, 2)),
}
each_problem = pytest.mark.parametrize("problem", PROBLEMS)


def of_problem(kind, problem):
    labels, stated = PROBLEMS[problem], problem.partition(" ")[0]
    return tiny_classifier(kind, num_labels=labels[0], problem_type=stated), labels[1]


@pytest.mark.parity
@each_problem
def test_in_float16_the_loss_is_in_float32_and_as_near_as_transformers(problem):
    import torch

    model, labels = of_problem("llama", problem)
    wide, narrow, tensors = twin_of(model), twin_of(model).half(), torch.tensor(labels)
    given = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor(MASK)}
    exact = wide(**given, labels=tensors).loss.item()
    theirs = narrow(**given, labels=tensors.half() if tensors.is_floating_point() else tensors).loss.item()
    loss = model.half()(IDS, attention_mask=MASK, labels=labels).loss
    assert loss.dtype == np.float32
    assert abs(loss.item() - exact) < 2 * abs(theirs - exact) + 5e-3 * exact
    loss.backward()
    assert {p.grad.dtype.name for p in model.parameters()} == {"float16"}


@pytest.mark.parity
@pytest.mark.parametrize("kind", ARCHITECTURES)
@each_problem
def test_logits_loss_and_every_gradient_are_transformers(kind, problem):
    import torch

    model, labels = of_problem(kind, problem)
    twin = twin_of(model)
    expected = twin(torch.tensor(IDS), attention_mask=torch.tensor(MASK), labels=torch.tensor(labels))
    expected.loss.backward()
    out = model(IDS, attention_mask=MASK, labels=labels)
    out.loss.backward()
    assert relative(out.logits.data, expected.logits.detach()) < 2e-5
    assert relative(out.loss.item(), expected.loss.item()) < 2e-5
    theirs = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    assert [name for name, _ in model.named_parameters()] == list(theirs)
    for name, p in model.named_parameters():
        gradient = p.grad.copy()
        if p is model.get_input_embeddings().weight:  # Transformers never trains a Llama's pad token
            gradient[PAD] = theirs[name][PAD]
        assert relative(gradient, theirs[name]) < 2e-5, name


@pytest.mark.parity
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_class_has_transformers_name(kind):
    import transformers

    assert hasattr(transformers, CLASSIFIERS[kind].__name__)
    assert getattr(classification, CLASSIFIERS[kind].__name__) is CLASSIFIERS[kind]
    assert classifier_of(ARCHITECTURES[kind][1]) is CLASSIFIERS[kind]


@each_problem
def test_gradients_are_those_of_finite_differences(problem):
    model, labels = of_problem("gpt2", problem)
    model.to(dtype=np.float64)
    model(IDS, labels=labels).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    rng, step = np.random.default_rng(0), 1e-6
    for name, p in model.named_parameters():
        index, values = tuple(int(rng.integers(n)) for n in p.shape), []
        before = p.data[index]
        for value in (before + step, before - step):
            p.data[index] = value
            with no_grad():
                values.append(model(IDS, labels=labels).loss.item())
        p.data[index] = before
        slope = (values[0] - values[1]) / (2 * step)
        assert abs(gradients[name][index] - slope) < 1e-8 + 1e-6 * abs(slope), name


def test_the_last_token_that_is_no_padding_is_scored():
    model = tiny_classifier()
    np.testing.assert_array_equal(model.last_tokens(IDS), LAST)
    hidden = model.hidden_states(IDS, "cpu").data
    expected = hidden[np.arange(5), LAST] @ model.score.weight.data.T
    assert relative(model(IDS).logits.data, expected) < 1e-6


def test_without_a_pad_token_one_row_is_read_to_its_end_and_several_are_refused():
    model = tiny_classifier(pad_token_id=None)
    np.testing.assert_array_equal(model.last_tokens(IDS[:1]), [5])
    assert model(IDS[0].tolist()).logits.shape == (1, 2)
    with pytest.raises(ValueError, match=r"5 rows, and the model's config has no pad_token_id.*tokenizer.pad_token_id"):
        model(IDS)


def test_the_labels_say_which_loss_is_meant_where_the_config_does_not():
    three, one = tiny_classifier(num_labels=3), tiny_classifier(num_labels=1)
    logits = three(IDS).logits.data
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    whole = [0, 1, 2, 1, 0]
    assert three(IDS, labels=whole).loss.item() == pytest.approx(-np.log(p[np.arange(5), whole]).mean(), rel=1e-5)
    hot = np.eye(3, dtype=np.float32)[whole]
    sigmoid = 1 / (1 + np.exp(-logits))
    expected = -(hot * np.log(sigmoid) + (1 - hot) * np.log(1 - sigmoid)).mean()
    assert three(IDS, labels=hot).loss.item() == pytest.approx(expected, rel=1e-5)
    for labels in (whole, np.array(whole)[:, None]):
        expected = ((one(IDS).logits.data[:, 0] - whole) ** 2).mean()
        assert one(IDS, labels=labels).loss.item() == pytest.approx(expected, rel=1e-5)
    assert three.config.problem_type is None  # a call does not decide for those that follow
    assert three(IDS[:1], labels=1).loss.item() == pytest.approx(-np.log(p[0, 1]), rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "fields", "error", "message"),
    [
        ([0, 1, 3, 0, 0], {}, IndexError, "target 3 is out of range: there are 3"),
        ([0, 1], {}, ValueError, r"one integer for each of 5 rows, got \(2,\)"),
        (np.eye(5, 3, dtype=int), {}, ValueError, "multi_label_classification"),
        (np.ones((5, 2), np.float32), {}, ValueError, r"should be \(5, 3\), got \(5, 2\)"),
        ([0.5] * 5, {"problem_type": "single_label_classification"}, TypeError, "integers, not float"),
        ([0.5] * 4, {"num_labels": 1}, ValueError, r"labels for regression should be \(5, 1\), got \(4,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, fields, error, message):
    with pytest.raises(error, match=message):
        tiny_classifier(**{"num_labels": 3, **fields})(IDS, labels=labels)


@each_problem
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_in_shards_loss_logits_and_gradients_are_the_same(kind, problem, monkeypatch):
    monkeypatch.setattr(threads, "LEAST_TOKENS", 1)
    results = []
    for count in (1, 2):
        model, labels = of_problem(kind, problem)
        with threads.limit_threads(count):
            out = model(IDS, attention_mask=MASK, labels=labels)
            out.loss.backward()
        results.append((out, {name: p.grad for name, p in model.named_parameters()}))
    (one, expected), (two, found) = results
    assert type(two) is ShardedOutput
    assert relative(two.loss.item(), one.loss.item()) < 1e-6
    assert relative(two.logits.data, one.logits.data) < 1e-6
    for name, gradient in found.items():
        assert relative(gradient, expected[name]) < 1e-5, name


def test_checkpointed_gradients_are_the_same():
    model = tiny_classifier(num_labels=3)
    model(IDS, labels=[0, 1, 2, 1, 0]).loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(IDS, labels=[0, 1, 2, 1, 0]).loss.backward()
    for name, p in model.named_parameters():
        assert relative(p.grad, expected[name]) < 1e-6, name


def test_the_abstract_class_is_said_by_its_parts():
    model = tiny_classifier("llama")
    assert isinstance(model, SequenceClassifier)
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is None
    assert not hasattr(model, "generate")
