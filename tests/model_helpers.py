"""What the tests of both architectures share: a whole model against Transformers, and against its own slopes."""

import numpy as np
from lora_helpers import hugging_face_twin, relative, some_ids

from lora_np import no_grad

# How far norms of results may lie apart, relative to the norm itself.
MODEL_TOLERANCE = {np.float32: 2e-5, np.float64: 1e-10}
LENGTHS = (9, 4, 1)  # tokens in each padded row that are not padding


def some_labels(ids):
    """Labels that differ from the ids, a third of them -100."""
    rng = np.random.default_rng(2)
    labels = rng.permutation(ids.reshape(-1)).reshape(ids.shape)
    return np.where(rng.random(ids.shape) < 0.33, -100, labels)


def loss_and_gradients(model, ids, labels, **options):
    """The loss as a number, and {name: gradient as a NumPy array}."""
    model.zero_grad()
    loss = model(input_ids=ids, labels=labels, **options).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


def padded(side, lengths=LENGTHS):
    """A mask (B, T) for rows of these lengths, and positions as `generate` counts them."""
    T = max(lengths)
    mask = np.array([[1] * n + [0] * (T - n) for n in lengths])
    mask = mask if side == "right" else mask[:, ::-1].copy()
    return mask, np.maximum(mask.cumsum(1) - 1, 0)


def assert_is_transformers(model, batch=3, ours=None, **inputs):
    """Logits, loss and every gradient of `model` are those of its twin. inputs: masks and positions for both, or for
    the twin alone where `ours` has others."""
    import torch

    dtype = model.lm_head.weight.dtype.type
    twin, tolerance = hugging_face_twin(model), MODEL_TOLERANCE[dtype]
    ids = some_ids(model.config, batch)
    labels = some_labels(ids)
    tensors = {name: array if isinstance(array, bool) else torch.tensor(array) for name, array in inputs.items()}
    inputs = inputs if ours is None else ours
    expected = twin(input_ids=torch.tensor(ids), labels=torch.tensor(labels), **tensors)
    if dtype == np.float64:  # Transformers rounds the logits to float32 before its loss
        rows, targets = expected.logits[:, :-1].flatten(0, 1), torch.tensor(labels)[:, 1:].flatten()
        expected.loss = torch.nn.functional.cross_entropy(rows, targets)
    expected.loss.backward()
    loss, gradients = loss_and_gradients(model, ids, labels, **inputs)
    assert relative(model(ids, **inputs).logits.data, expected.logits.detach()) < tolerance
    assert relative(loss, expected.loss.item()) < tolerance
    theirs = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    assert list(gradients) == list(theirs)
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        assert relative(gradient, theirs[name]) < tolerance, name


def assert_gradients_are_slopes(model, labels=None, step=1e-6, **inputs):
    """Three entries of each parameter's gradient, in float64, against central differences: needs no other library."""
    model.to(dtype=np.float64)
    ids, rng = some_ids(model.config), np.random.default_rng(0)
    labels = some_labels(ids) if labels is None else labels
    _, gradients = loss_and_gradients(model, ids, labels, **inputs)
    for name, p in model.named_parameters():
        for index in {tuple(int(rng.integers(n)) for n in p.shape) for _ in range(3)}:
            before, values = p.data[index], []
            for value in (before + step, before - step):
                p.data[index] = value
                with no_grad():
                    values.append(model(ids, labels=labels, **inputs).loss.item())
            p.data[index] = before
            slope = (values[0] - values[1]) / (2 * step)
            assert abs(gradients[name][index] - slope) < 1e-8 + 1e-6 * abs(slope), (name, index)


def assert_loads_in_transformers(model, directory):
    """Transformers loads what `model` saves, with nothing missing or too much, and gives the same logits."""
    import torch
    import transformers

    model.save_pretrained(directory)
    twin, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    assert type(twin).__name__ == type(model).__name__
    assert twin.dtype == torch.float32
    ids = some_ids(model.config)
    with torch.no_grad():
        assert relative(model(ids).logits.data, twin.eval()(torch.tensor(ids)).logits) < 2e-5


def assert_a_position_sees_only_what_stands_before(model):
    """Other tokens from position 5 on change the logits there and not before."""
    ids = some_ids(model.config)
    changed = ids.copy()
    changed[:, 5:] = (ids[:, 5:] + 1) % model.config.vocab_size
    before, after = model(ids).logits.data, model(changed).logits.data
    assert relative(after[:, :5], before[:, :5]) < 1e-6
    assert relative(after[:, 5:], before[:, 5:]) > 1e-3
