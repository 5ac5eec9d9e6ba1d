"""What a recorded step makes of a batch: checked, without masks that hide nothing, filled up."""

import numpy as np
import pytest
from lora_helpers import tiny_llama, tiny_llama_config, tiny_model

from lora_np import Tensor
from lora_np.models import MistralConfig, MistralForCausalLM
from lora_np.training.parallel.batches import checked, length_in_steps, of_few_lengths

IDS = np.arange(16).reshape(2, 8)


def masked(*rows, **changes):
    """Ids with this mask, and labels where it is 1."""
    mask = np.array(rows)
    return {"input_ids": IDS, "labels": np.where(mask, IDS, -100), "attention_mask": mask, **changes}


ALL, RIGHT, LEFT, HOLE = [1] * 8, [1] * 5 + [0] * 3, [0] * 3 + [1] * 5, [1, 1, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("rows", "stays"), [((ALL, ALL), False), ((ALL, RIGHT), False), ((RIGHT, LEFT), True), ((HOLE, ALL), True)]
)
def test_a_mask_stays_where_it_hides_something_from_a_target(rows, stays):
    batch = checked(masked(*rows), tiny_model())
    assert ("attention_mask" in batch) == stays
    assert not stays or batch["attention_mask"].dtype == bool


def test_it_stays_where_padding_on_the_right_has_labels():
    """The model judges these places too, and what they see counts."""
    assert "attention_mask" in checked(masked(ALL, RIGHT, labels=IDS), tiny_model())


@pytest.mark.parametrize("kind", [np.asarray, Tensor, lambda x: x.tolist(), lambda x: x.astype(np.int16)])
def test_ids_and_labels_become_integers_of_64_bits(kind):
    batch = checked({"input_ids": kind(IDS), "labels": kind(IDS)}, tiny_model())
    assert {name: x.dtype for name, x in batch.items()} == {"input_ids": np.int64, "labels": np.int64}
    assert all((x == IDS).all() for x in batch.values())


def test_other_masks_are_errors():
    with pytest.raises(ValueError, match="attention_mask holds 1 for a token and 0 for padding"):
        checked(masked(ALL, [2] * 8), tiny_model())


@pytest.mark.parametrize(
    ("length", "longer"),
    [(1, 16), (16, 16), (17, 32), (100, 112), (128, 128), (129, 144), (256, 256), (257, 288), (437, 448), (1000, 1024)],
)
def test_lengths_are_rounded_up(length, longer):
    assert length_in_steps(length) == longer


def test_there_are_few_lengths_and_little_is_filled_up():
    found = {length: length_in_steps(length) for length in range(1, 2049)}
    assert len(set(found.values())) == 8 + 8 + 8 + 8 + 8
    assert all(length <= longer < length + max(16, length / 8) for length, longer in found.items())


@pytest.mark.parametrize("length", [9, 12])
def test_no_length_is_beyond_the_context(length):
    ids = np.ones((2, length), np.int64)
    config = tiny_llama_config(max_position_embeddings=12)
    assert of_few_lengths({"input_ids": ids, "labels": ids}, config)["input_ids"].shape == (2, 12)


def test_lengths_that_matter_stay():
    batch = {"input_ids": IDS, "labels": IDS}
    stretched = {"rope_type": "dynamic", "factor": 2.0}
    assert of_few_lengths(batch, tiny_llama_config(rope_parameters=stretched)) is batch


def test_where_a_learnt_token_sees_nothing_the_length_stays():
    """The label of the first token behind padding on the left: it is predicted from the padding."""
    model = tiny_model(n_positions=32)
    batch = checked(masked(ALL, LEFT), model)
    assert of_few_lengths(batch, model.config) is batch
    batch["labels"][1, 3] = -100
    assert of_few_lengths(batch, model.config)["input_ids"].shape == (2, 16)


def window():
    """A model whose tokens see three keys."""
    sizes = tiny_llama_config(max_position_embeddings=32).to_dict()
    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return MistralForCausalLM(MistralConfig(**{name: sizes[name] for name in fields}, **heads, sliding_window=3))


MODELS = {
    "gpt2": lambda: tiny_model(n_positions=32),
    "llama": lambda: tiny_llama(max_position_embeddings=32),
    "window": window,
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rows", [(ALL, ALL), (LEFT, HOLE)])
def test_a_batch_that_is_filled_up_has_the_same_loss_and_gradients(kind, rows):
    model = MODELS[kind]().to(dtype=np.float64)
    batch = checked(masked(*rows), model)
    batch["labels"][:, 1:][~np.array(rows, bool)[:, :-1]] = -100
    found = []
    for given in (batch, of_few_lengths(batch, model.config)):
        loss = model(**given).loss
        loss.backward()
        found.append((loss.item(), [p.grad for p in model.parameters()]))
        model.zero_grad()
    assert given["input_ids"].shape == (2, 16)
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-12)
    for a, b in zip(found[1][1], found[0][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
