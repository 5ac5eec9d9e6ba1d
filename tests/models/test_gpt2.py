"""GPT-2 as a whole: logits, loss and every gradient against Transformers; what it refuses; what it does not keep."""

import tracemalloc

import numpy as np
import pytest
from lora_helpers import relative, some_ids, tiny_config, tiny_model
from model_helpers import (
    assert_a_position_sees_only_what_stands_before,
    assert_gradients_are_slopes,
    assert_is_transformers,
    assert_loads_in_transformers,
    loss_and_gradients,
    some_labels,
)

from lora_np import GPT2Config, GPT2LMHeadModel
from lora_np.models.activations import ACTIVATIONS

CONFIGS = {
    "usual": {},
    "n_inner": {"n_inner": 40},
    "exact gelu": {"activation_function": "gelu"},
    **{f"activation {name}": {"activation_function": name} for name in ACTIVATIONS if name not in ("gelu", "gelu_new")},
    "unscaled": {"scale_attn_weights": False},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "both scales": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "untied": {"tie_word_embeddings": False},
    "large epsilon": {"layer_norm_epsilon": 0.1},
    "odd sizes": {"vocab_size": 61, "n_positions": 13, "n_embd": 21, "n_head": 3, "n_layer": 3},
    "one of each": {"n_layer": 1, "n_head": 1, "n_embd": 5},
}


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_logits_loss_and_every_gradient_are_transformers(changes, dtype):
    assert_is_transformers(tiny_model(**changes).to(dtype=dtype))


@pytest.mark.parity
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_our_directory_loads_in_transformers(tmp_path, tied):
    assert_loads_in_transformers(tiny_model(tie_word_embeddings=tied, n_inner=24), tmp_path)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_gradients_are_those_of_finite_differences(tied):
    assert_gradients_are_slopes(tiny_model(n_embd=4, n_layer=1, vocab_size=7, tie_word_embeddings=tied))


def test_a_position_sees_only_what_stands_before_it():
    assert_a_position_sees_only_what_stands_before(tiny_model())


def test_the_loss_is_the_mean_over_labels_that_count():
    model = tiny_model()
    ids = some_ids(model.config)
    labels = some_labels(ids)
    logits = model(ids).logits.data.astype(np.float64)[:, :-1]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = labels[:, 1:]
    counted = target != -100
    picked = np.take_along_axis(log_p, np.where(counted, target, 0)[..., None], -1)[..., 0]
    assert abs(model(ids, labels=labels).loss.item() + picked[counted].mean()) < 1e-5


def test_a_loss_alone_never_makes_the_logits():
    config = tiny_config(vocab_size=50_000, n_positions=512, n_embd=4, n_layer=1, n_head=1)
    model, ids = GPT2LMHeadModel(config).requires_grad_(False), some_ids(config, batch=1, time=512)
    model.transformer.ln_f.requires_grad_(True)
    logits_bytes = ids.size * config.vocab_size * 4
    tracemalloc.start()
    try:
        model(ids, labels=ids).loss.backward()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * logits_bytes


def test_logits_are_the_same_with_labels_and_without():
    model = tiny_model()
    ids = some_ids(model.config)
    out = model(ids, labels=ids)
    loss = out.loss.item()
    np.testing.assert_array_equal(out.logits.data, model(ids).logits.data)
    assert out.logits is out.logits
    assert out.logits.shape == (*ids.shape, model.config.vocab_size)
    assert out.loss.item() == loss
    assert model(ids).loss is None


def test_lists_tensors_and_small_integers_are_ids_too():
    model = tiny_model()
    ids = some_ids(model.config)
    expected = model(ids).logits.data
    for other in (ids.tolist(), ids.astype(np.uint8), ids.astype(np.int32)):
        np.testing.assert_array_equal(model(other).logits.data, expected)


def test_a_list_of_ids_is_one_row_with_its_labels_and_mask():
    model, row = tiny_model(), [1, 2, 3, 4]
    one, batch = model(input_ids=row, labels=row, attention_mask=[1] * 4), model(np.array([row]), np.array([row]))
    assert one.loss.item() == batch.loss.item()
    np.testing.assert_array_equal(one.logits.data, batch.logits.data)
    assert model.generate(input_ids=row, attention_mask=[1] * 4, max_new_tokens=2).shape == (1, 6)


GOOD = [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("ids", "labels", "error", "message"),
    [
        ([[0] * 13], None, ValueError, "13 tokens are more than the model's context of 12"),
        (np.zeros((1, 0), int), None, ValueError, r"at least one token, got shape \(1, 0\)"),
        (np.zeros((0, 3), int), None, ValueError, r"at least one token, got shape \(0, 3\)"),
        (np.array([1, 2, 3]), None, ValueError, r"\(batch, time\).*got shape \(3,\)"),
        ([[[1, 2]]], None, ValueError, r"\(batch, time\).*got shape \(1, 1, 2\)"),
        ([[1, 31]], None, IndexError, "token id 31 is out of range: there are 31, numbered 0 to 30"),
        ([[1, -1]], None, IndexError, "token id -1 is out of range"),
        ([[1.0, 2.0]], None, TypeError, "token ids must be integers, not float"),
        (GOOD, [[1, 2, 3]], ValueError, r"labels of shape \(1, 3\) do not fit input_ids of shape \(2, 3\)"),
        (GOOD, [1, 2, 3], ValueError, r"labels of shape \(3,\)"),
        (GOOD, np.full((2, 3), -100), ValueError, "nothing to average: every target is -100"),
        (GOOD, [[7, -100, -100], [7, -100, -100]], ValueError, "nothing to average"),  # the first is never judged
        (GOOD, [[1, 2, 31], [4, 5, 6]], IndexError, "target 31 is out of range"),
        (GOOD, [[1, 2, -1], [4, 5, 6]], IndexError, "target -1 is out of range"),
        ([[1], [2]], [[1], [2]], ValueError, "at least two tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(ids, labels, error, message):
    with pytest.raises(error, match=message):
        tiny_model()(ids, labels=labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 10, "n_head": 3}, "n_embd = 10 cannot be shared equally by n_head = 3"),
        ({"n_layer": 0}, "n_layer must be a positive integer, got 0"),
        ({"vocab_size": -5}, "vocab_size must be a positive integer, got -5"),
        ({"n_positions": 2.5}, "n_positions must be a positive integer, got 2.5"),
        ({"n_head": None}, "n_head must be a positive integer, got None"),
        ({"activation_function": "prelu"}, "activation_function 'prelu' is not known; known are gelu, "),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GPT2Config(**changes)


def test_a_config_comes_back_from_its_dictionary():
    config = tiny_config(n_inner=7, tie_word_embeddings=False, scale_attn_weights=False)
    fields = config.to_dict()
    assert fields["model_type"] == "gpt2"
    assert fields["architectures"] == ["GPT2LMHeadModel"]
    assert GPT2Config.from_dict({**fields, "summary_type": "cls_index", "use_cache": True}) == config


def test_the_start_is_gpt2s():
    model = GPT2LMHeadModel(tiny_config(n_embd=64, n_layer=8, initializer_range=0.1))
    block = model.transformer.h[3]
    assert model.lm_head.weight is model.transformer.wte.weight
    for p, std in [
        (block.attn.c_attn.weight, 0.1),
        (block.mlp.c_fc.weight, 0.1),
        (block.attn.c_proj.weight, 0.1 / 4),  # 1/√(2·8): two writes to the residual stream in each of 8 blocks
        (block.mlp.c_proj.weight, 0.1 / 4),
        (model.transformer.wte.weight, 0.1),
    ]:
        assert abs(p.data.std() / std - 1) < 0.1
    assert not block.attn.c_attn.bias.data.any()
    assert (block.ln_1.weight.data == 1).all()
    assert GPT2LMHeadModel(tiny_config(tie_word_embeddings=False)).lm_head.weight is not model.transformer.wte.weight


@pytest.mark.parametrize("place", ["resid_pdrop", "embd_pdrop", "attn_pdrop"])
def test_dropout_works_in_training_only(place):
    model = tiny_model(**{place: 0.5})
    plain = tiny_model()
    ids = some_ids(model.config)
    expected = plain(ids).logits.data
    np.testing.assert_array_equal(model(ids).logits.data, expected)
    first, second = (model.train()(ids).logits.data for _ in range(2))
    assert relative(first, expected) > 1e-3
    assert relative(first, second) > 1e-3
    np.testing.assert_array_equal(model.eval()(ids).logits.data, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_gpu_gives_the_same_logits_loss_and_gradients(changes):
    model = tiny_model(**changes)
    ids = some_ids(model.config, batch=3)
    labels = some_labels(ids)
    logits = model(ids).logits.numpy()
    loss, gradients = loss_and_gradients(model, ids, labels)
    model.zero_grad()
    model.to("cuda")
    assert model(ids).logits.device == "cuda:0"
    assert relative(model(ids).logits.numpy(), logits) < 1e-4
    on_gpu, gpu_gradients = loss_and_gradients(model, ids, labels)
    assert relative(on_gpu, loss) < 1e-4
    for name, gradient in gradients.items():
        assert relative(gpu_gradients[name].get(), gradient) < 1e-4, name


@pytest.mark.gpu
def test_ids_out_of_range_are_refused_on_the_gpu_too():
    model = tiny_model().to("cuda")
    with pytest.raises(IndexError, match="token id 31 is out of range"):
        model([[1, 31]])
    with pytest.raises(IndexError, match="target 31 is out of range"):
        model(GOOD, labels=[[1, 2, 31], [4, 5, 6]])
