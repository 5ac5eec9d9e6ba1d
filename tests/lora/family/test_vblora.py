"""VB-LoRA: A and B are mixtures of a few vectors from a bank that all layers share."""

import numpy as np
import pytest
from family_checks import (
    adapted,
    assert_comes_back,
    assert_fields_are_peft_s,
    assert_gradients_are_slopes,
    assert_loss_falls,
    assert_peft_computes_the_same,
    assert_reads_peft,
    assert_switched,
    assert_two_are_peft_s,
    base_model,
    layout,
    new,
    peft_model_of,
    peft_reads,
    quietly,
    their_logits,
)
from lora_helpers import assert_merges, logits_of, perturbed, refusal, relative, some_ids, tiny_llama, tiny_model

from lora_np import PeftModel, get_peft_model, nn
from lora_np.lora import VBLoRAConfig, inject_adapter_in_model, load_peft_weights, set_peft_model_state_dict
from lora_np.storage import read_json, read_safetensors, write_json, write_safetensors

TARGETS = {"gpt2": ["c_attn", "mlp.c_proj"], "llama": ["q_proj", "down_proj"]}
each_base = pytest.mark.parametrize("base", TARGETS)
WEIGHTS = "adapter_model.safetensors"


def config(base="llama", **options):
    sizes = {"r": 3, "num_vectors": 10, "vector_length": 8, "topk": 2}
    return VBLoRAConfig(**{**sizes, "target_modules": TARGETS[base], "fan_in_fan_out": base == "gpt2", **options})


@each_base
def test_training_starts_near_the_base_model(base):
    expected = logits_of(base_model(base))
    far, near = (relative(logits_of(new(config(base, init_vector_bank_bound=b), base)), expected) for b in (2.0, 0.02))
    assert 0 < near < 1e-2 < far
    np.testing.assert_array_equal(logits_of(new(config(base, init_vector_bank_bound=0), base)), expected)


def test_what_is_trained_and_where_it_begins():
    model = new(config(init_vector_bank_bound=0.5, init_logits_std=3.0, num_vectors=100), "llama")
    assert model.get_nb_trainable_parameters()[0] == 100 * 8 + 2 * 100 * 3 * (16 + 16 + 24 + 16) // 8
    trained = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
    bank = trained.pop("base_model.vblora_vector_bank.default")
    assert 0.48 < np.abs(bank).max() <= 0.5
    logits = np.concatenate([p.reshape(-1) for p in trained.values()])
    assert abs(logits.std() - 3) < 0.1
    assert {layer.vblora_vector_bank["default"].data is bank for _, layer in model.base_model.layers()} == {True}


@pytest.mark.parametrize("topk", [1, 3])
def test_the_update_by_loops(topk):
    """A and B as the paper writes them down, number by number."""
    model = adapted(config(topk=topk), "llama", np.float64)
    for _, layer in model.base_model.layers():
        adapter = layer.adapters["default"]
        bank = adapter.vblora_vector_bank.data

        def stretch(logits, bank=bank):
            largest = sorted(range(len(logits)), key=lambda i: -logits[i])[:topk]
            total = sum(np.exp(logits[i]) for i in largest)
            return sum(np.exp(logits[i]) / total * bank[i] for i in largest)

        A = np.array([np.concatenate([stretch(part) for part in row]) for row in adapter.vblora_logits_A.data])
        columns = adapter.vblora_logits_B.data.swapaxes(0, 1)  # (r, out/length, h)
        B = np.array([np.concatenate([stretch(part) for part in column]) for column in columns]).T
        assert relative(layer.get_delta_weight("default"), B @ A) < 1e-12


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging(base, dtype, tolerance):
    assert_merges(adapted(config(base), base, dtype), tolerance)


@each_base
def test_an_adapter_comes_back_bit_for_bit(base, tmp_path):
    assert_comes_back(adapted(config(base, bias="vblora_only"), base), base, tmp_path)


@pytest.mark.parametrize(
    ("num_vectors", "topk", "dtype"), [(10, 2, np.uint8), (255, 1, np.uint8), (256, 3, np.int16), (2**15, 2, np.int32)]
)
def test_only_what_is_used_is_saved(num_vectors, topk, dtype, tmp_path):
    where = {"target_modules": ["q_proj"], "layers_to_transform": [1]}
    sizes = {"r": 1, "vector_length": 16, "num_vectors": num_vectors, "topk": topk, **where}
    model = adapted(config(**sizes, save_only_topk_weights=True), "llama")
    model.save_pretrained(tmp_path)
    found = layout(tmp_path)
    layer = "base_model.model.model.layers.1.self_attn.q_proj.vblora_logits"
    assert found[f"{layer}_A_topk_indices"] == ((1, 1, topk), np.dtype(dtype))
    assert found[f"{layer}_B_topk_weights"] == ((1, 1, topk - 1), np.dtype(np.float32))
    assert f"{layer}_A" not in found
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert relative(logits_of(loaded), logits_of(model)) < 1e-6
    loaded.save_pretrained(tmp_path / "again")
    assert layout(tmp_path / "again") == found
    other = new(config(**sizes), "llama")
    result = set_peft_model_state_dict(other, load_peft_weights(tmp_path))
    assert result == ([], [])
    assert relative(logits_of(other), logits_of(model)) < 1e-6


def test_training_does_not_go_on_from_what_is_used_alone(tmp_path):
    adapted(config(save_only_topk_weights=True), "llama").save_pretrained(tmp_path)
    ids = some_ids(tiny_llama().config)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True)
    loaded(ids)
    assert "saved with save_only_topk_weights=True" in refusal(RuntimeError, lambda: loaded.train()(ids))
    PeftModel.from_pretrained(tiny_llama(), tmp_path).train()(ids)  # frozen, beside something else that is trained


def test_weights_that_add_up_to_a_little_more_than_one(tmp_path):
    """As rounding has it: the last weight is none, and no NaN."""
    model = adapted(config(topk=3, save_only_topk_weights=True), "llama")
    for _, layer in model.base_model.layers():
        layer.vblora_logits_A["default"].data *= 100
    model.save_pretrained(tmp_path)
    arrays, _ = read_safetensors(tmp_path / WEIGHTS)
    more = {n: a * np.float32(1 + 1e-6) if n.endswith("_A_topk_weights") else a for n, a in arrays.items()}
    write_safetensors(tmp_path / WEIGHTS, more)
    assert relative(logits_of(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits_of(model)) < 1e-4


@pytest.mark.parametrize(
    ("ending", "change", "message"),
    [
        ("A_topk_indices", lambda a: a + 9, ", and there are 10"),
        ("A_topk_indices", lambda a: a.astype(np.int16) - 10, "has -10, and there are 10"),
        ("A_topk_indices", lambda a: a[..., :1], "do not belong together"),
        ("A_topk_indices", lambda a: a.astype(np.float32), "do not belong together"),
        ("B_topk_weights", lambda a: a * np.nan, "has numbers that are no weights"),
        ("B_topk_weights", lambda a: a + 1, "has numbers that are no weights"),
        ("B_topk_weights", lambda a: a[:1], "do not belong together"),
        ("vector_bank", lambda a: a[:5], "has other than num_vectors = 10 vectors"),
    ],
)
def test_places_and_weights_that_make_no_sense(ending, change, message, tmp_path):
    adapted(config(save_only_topk_weights=True), "llama").save_pretrained(tmp_path)
    arrays, _ = read_safetensors(tmp_path / WEIGHTS)
    write_safetensors(tmp_path / WEIGHTS, {n: change(a) if n.endswith(ending) else a for n, a in arrays.items()})
    found = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), tmp_path))
    assert str(tmp_path / WEIGHTS) in found
    assert message in found


def test_beside_four_bits():
    model = perturbed(get_peft_model(nn.quantize_model(tiny_llama()), config()))
    with model.disable_adapter():
        base = logits_of(model)
    assert relative(logits_of(model), base) > 1e-3


def test_two_adapters():
    assert_switched(config(), "llama")


@each_base
def test_gradients(base):
    assert_gradients_are_slopes(adapted(config(base, topk=3), base, np.float64), step=1e-6)


def test_the_loss_falls():
    assert_loss_falls(new(config(init_vector_bank_bound=0.1), "llama"), lr=0.1)


def test_dropout_is_on_the_input_in_training_only():
    model = adapted(config(vblora_dropout=0.5), "llama")
    assert relative(logits_of(model), logits_of(adapted(config(), "llama"))) == 0
    assert relative(logits_of(model.train()), logits_of(model)) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be an integer of at least 1"),
        ({"num_vectors": -1}, "num_vectors must be an integer of at least 1"),
        ({"vector_length": 2.0}, "vector_length must be an integer of at least 1"),
        ({"topk": 0}, "topk must be an integer of at least 1"),
        ({"topk": 11}, "topk = 11 is more than num_vectors = 10"),
        ({"vector_length": 12}, "vector_length = 12 must divide the 16 inputs of model.layers.0.self_attn.q_proj"),
        ({"num_vectors": 2**31 - 1, "vector_length": 16}, "must divide the 24 inputs"),
        ({"init_vector_bank_bound": -1}, "init_vector_bank_bound must be at least 0"),
        ({"init_logits_std": "0.1"}, "init_logits_std must be a number"),
        ({"save_only_topk_weights": 1}, "save_only_topk_weights must be True or False"),
        ({"vblora_dropout": 2}, "vblora_dropout must be in [0, 1)"),
        ({"bias": "lora_only"}, "'vblora_only'"),
    ],
)
def test_wrong_settings_are_refused_by_name(options, message, tmp_path):
    assert message in refusal(ValueError, lambda: get_peft_model(tiny_llama(), config(**options)))
    adapted(config(), "llama").save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    write_json(file, {**read_json(file), **options})
    found = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), tmp_path))
    assert found.startswith(f"{file}: ")
    assert message in found


@pytest.mark.parametrize("only", [False, True])
def test_a_bank_that_no_memory_holds(only, tmp_path):
    adapted(config(save_only_topk_weights=only), "llama").save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    write_json(file, {**read_json(file), "num_vectors": 2**31 - 1})
    found = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), tmp_path))
    assert str(tmp_path / WEIGHTS) in found


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target_modules": ["wte"]}, "wte is an Embedding"), ({"target_modules": ["c_attn.q"]}, "adapts whole layers")],
)
def test_layers_that_it_does_not_adapt(options, message):
    assert message in refusal(ValueError, lambda: get_peft_model(tiny_model(), config(**options)))


def test_without_a_peft_model_there_is_no_place_for_what_is_shared():
    found = refusal(ValueError, lambda: inject_adapter_in_model(config(), tiny_llama()))
    assert "train tensors together" in found


@pytest.mark.parity
class TestAgainstPeft:
    def test_fields(self):
        import peft

        assert_fields_are_peft_s(VBLoRAConfig, peft.VBLoRAConfig)

    @pytest.mark.parametrize(("base", "dtype"), [("gpt2", np.float32), ("gpt2", np.float64), ("llama", np.float64)])
    def test_our_files_there(self, base, dtype, tmp_path):
        ours = adapted(config(base, vblora_dropout=0.1, topk=3), base, dtype)
        assert_peft_computes_the_same(ours, base, tmp_path, dtype)

    @each_base
    def test_their_files_here(self, base, tmp_path):
        assert_reads_peft(config(base, layers_to_transform=[1]), base, tmp_path)

    @each_base
    def test_only_what_is_used(self, base, tmp_path):
        """Such files in both directions, of one layout."""
        settings = config(base, save_only_topk_weights=True, topk=3)
        theirs, ids = peft_model_of(settings, base), some_ids(base_model(base).config)
        quietly(lambda: theirs.save_pretrained(tmp_path / "theirs"))
        ours = PeftModel.from_pretrained(base_model(base), tmp_path / "theirs")
        assert relative(logits_of(ours), their_logits(theirs, ids)) < 2e-5
        model = adapted(settings, base)
        model.save_pretrained(tmp_path / "ours")
        assert relative(their_logits(peft_reads(tmp_path / "ours", base), ids), logits_of(model)) < 2e-5
        assert layout(tmp_path / "ours") == layout(tmp_path / "theirs")

    def test_two_adapters(self, tmp_path):
        assert_two_are_peft_s([config(), config(r=2, num_vectors=12, topk=1)], "llama", tmp_path)
