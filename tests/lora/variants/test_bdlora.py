"""BD-LoRA: A or B in blocks on the diagonal."""

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    assert_loss_falls,
    assert_merges,
    logits_of,
    peft_model,
    perturbed,
    refusal,
    relative,
    snapshot,
    tiny_llama,
    tiny_model,
)

from lora_np import BdLoraConfig, LoraConfig, PeftModel, Tensor, get_peft_model, gradcheck, nn
from lora_np.lora import LoraLinear
from lora_np.lora.adapter import Target
from lora_np.lora.variants.bdlora import BlockDiagonal

BASES = {
    "gpt2": (tiny_model, {"target_modules_bd_a": ["mlp.c_proj"], "target_modules_bd_b": ["c_attn"]}),
    "llama": (tiny_llama, {"target_modules_bd_a": ["down_proj"], "target_modules_bd_b": ["q_proj"]}),
}
each_base = pytest.mark.parametrize("base", BASES)


def config_of(base="llama", blocks=2, bd=(), **options):
    names = BASES[base][1]
    given = BdLoraConfig(**{**names, "nblocks": blocks, **dict(bd)})
    options = {"r": 4, "lora_alpha": 5, "fan_in_fan_out": base == "gpt2", **options}
    return LoraConfig(
        **{"target_modules": [n for found in names.values() for n in found], "use_bdlora": given, **options}
    )


def bdlora(base="llama", dtype=np.float32, **options):
    return perturbed(get_peft_model(BASES[base][0]().to(dtype=dtype), config_of(base, **options)), scale=0.3)


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    model = get_peft_model(BASES[base][0](), config_of(base))
    assert np.array_equal(logits_of(model), logits_of(BASES[base][0]()))
    assert model.get_nb_trainable_parameters()[0] == {"gpt2": 2 * 4 * (32 + 16 + 16 + 24), "llama": 2 * 4 * 52}[base]


def test_it_is_lora_with_the_blocks_on_the_diagonal():
    ours, plain = bdlora(), peft_model(["q_proj", "down_proj"], tiny_llama(), r=4, lora_alpha=5)
    for (_, found), (_, layer) in zip(ours.base_model.layers(), plain.base_model.layers(), strict=True):
        for name in ("lora_A", "lora_B"):
            stored = getattr(found, name)["default"].weight.data
            dense = getattr(layer, name)["default"].weight
            if stored.shape != dense.shape:
                blocks, whole = np.split(stored, 2), np.zeros(dense.shape)
                rows, columns = blocks[0].shape
                whole[:rows, :columns], whole[rows:, columns:] = blocks
                stored = whole
            dense.data = stored.astype(np.float32)
    assert relative(logits_of(ours), logits_of(plain)) < 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging(base, dtype, tolerance):
    assert_merges(bdlora(base, dtype), tolerance)


@pytest.mark.parametrize("name", ["q_proj", "down_proj"])
def test_gradients_in_float64(name):
    base = nn.Linear(6, 8).to(dtype=np.float64).requires_grad_(False)
    adapter = perturbed(BlockDiagonal(config_of(), Target(name, base, 4, 5)).to(dtype=np.float64))
    layer = LoraLinear(base)
    layer.set_adapters({"default": adapter}, ["default"])
    x = Tensor(np.random.default_rng(0).standard_normal((3, 6)), requires_grad=True)
    gradcheck(lambda x, *_: layer(x), [x, adapter.lora_A.weight, adapter.lora_B.weight])


@each_base
def test_it_comes_back_from_a_file_bit_for_bit(base, tmp_path):
    model = bdlora(base)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(BASES[base][0](), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    assert np.array_equal(logits_of(loaded), logits_of(model))
    assert loaded.peft_config["default"].use_bdlora == model.peft_config["default"].use_bdlora


def test_beside_other_adapters_and_with_other_layers():
    model = bdlora(bd={"match_strict": False}, target_modules=["q_proj", "down_proj", "up_proj"])
    assert model.base_model.adapted["model.layers.0.mlp.up_proj"].lora_B["default"].weight.shape == (24, 4)
    model.add_adapter("plain", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    one = logits_of(model)
    model.set_adapter(["default", "plain"])
    assert relative(logits_of(model), one) > 1e-3
    assert_merges(model, 1e-5)


def test_the_loss_falls():
    assert_loss_falls(get_peft_model(tiny_llama(), config_of()).train())


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: BdLoraConfig(nblocks=0), "nblocks must be an integer of at least 1"),
        (lambda: BdLoraConfig(nblocks=2.0), "nblocks must be an integer"),
        (lambda: BdLoraConfig(match_strict=1), "match_strict must be True or False"),
        (lambda: BdLoraConfig(target_modules_bd_a="q_proj"), "target_modules_bd_a must be a list"),
        (lambda: BdLoraConfig(target_modules_bd_b=[3]), "target_modules_bd_b has 3 in a list"),
        (lambda: BdLoraConfig(["q"], ["q"]), "both have q"),
        (lambda: LoraConfig(use_bdlora=True), "use_bdlora must be a BdLoraConfig"),
        (lambda: LoraConfig(use_bdlora={"blocks": 2}), "use_bdlora has a field 'blocks'"),
        (lambda: config_of(use_dora=True), "use_bdlora and use_dora do not go together"),
        (lambda: bdlora(r=3), "of width 16 and rank 3 has no 2 equal blocks"),
        (lambda: bdlora(blocks=3, r=3), "of width 16 and rank 3 has no 3 equal blocks"),
        (lambda: bdlora(target_modules=["o_proj"]), "in neither target_modules_bd_a nor target_modules_bd_b"),
        (lambda: bdlora(bd={"target_modules_bd_a": ["self_attn"]}), "in both target_modules_bd_a and"),
        (lambda: bdlora(init_lora_weights="pissa"), "does not go with init_lora_weights='pissa'"),
        (lambda: bdlora(target_modules=["embed_tokens"]), "embed_tokens is an Embedding"),
        (lambda: bdlora().add_weighted_adapter(["default"], [1.0], "sum"), "only plain LoRA"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


@pytest.mark.parity
class TestAgainstPeft:
    def test_names_logits_and_gradients(self):
        assert_equal_to_peft(config_of(), tiny_llama())

    def test_files(self, tmp_path):
        layout = assert_exchanged_with_peft(config_of(), tiny_llama(), tmp_path)
        assert layout["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"] == (4, 12)
