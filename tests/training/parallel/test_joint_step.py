"""Several batches, or the rows of several processes, give the step of one batch. Processes: test_processes.py."""

import numpy as np
import pytest
from training_helpers import Batches, partly_labelled, text_data, tiny, weights

from lora_np import (
    TrainingArguments,
    train,
)


@pytest.mark.parametrize("accumulation", [2, 3])
@pytest.mark.parametrize("all_count", [True, False], ids=["all-count", "some-count"])
def test_accumulated_batches_are_one_large_batch(accumulation, all_count):
    """Also where one batch has many more targets than the next: each target weighs the same."""

    def joined(batches):
        return [np.concatenate(batches[i : i + accumulation]) for i in range(0, len(batches), accumulation)]

    ids = [text_data(2).batch(0, i)["input_ids"] for i in range(4 * accumulation)]
    labels = ids if all_count else list(partly_labelled(np.stack(ids).reshape(len(ids), -1)).reshape(len(ids), 2, -1))
    parts, whole = tiny().to(dtype=np.float64), tiny().to(dtype=np.float64)
    args = {"steps": 4, "learning_rate": 0.01, "max_grad_norm": 0.5}
    a = train(parts, Batches(ids, labels), TrainingArguments(**args, accumulation=accumulation), progress=False)
    b = train(whole, Batches(joined(ids), joined(labels)), TrainingArguments(**args), progress=False)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-12)
    for (name, p), q in zip(parts.named_parameters(), whole.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("empty", [[0], [1], [2], [0, 2], [1, 2]])
def test_a_batch_without_a_target_counts_nothing(empty):
    """The step is that of the batches that have some."""
    accumulation = 3
    ids = [text_data(2).batch(0, i)["input_ids"] for i in range(accumulation)]
    labels = [np.full_like(x, -100) if i in empty else x for i, x in enumerate(ids)]
    labels[empty[0]][:, 0] = 7  # the first label of a row is no target: nothing precedes it
    kept = [i for i in range(accumulation) if i not in empty]
    joined = np.concatenate([ids[i] for i in kept])
    parts, whole = tiny().to(dtype=np.float64), tiny().to(dtype=np.float64)
    args = {"steps": 1, "learning_rate": 0.01}
    a = train(parts, Batches(ids, labels), TrainingArguments(**args, accumulation=accumulation), progress=False)
    b = train(whole, Batches([joined]), TrainingArguments(**args), progress=False)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-12)
    for (name, p), q in zip(parts.named_parameters(), whole.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_without_any_target_is_an_error(accumulation):
    ids = [text_data(2).batch(0, i)["input_ids"] for i in range(accumulation)]
    model = tiny()
    before = weights(model)
    args = TrainingArguments(steps=1, accumulation=accumulation)
    with pytest.raises(ValueError, match=r"nothing to average.*-100"):
        train(model, Batches(ids, [np.full_like(x, -100) for x in ids]), args, progress=False)
    assert weights(model) == before
