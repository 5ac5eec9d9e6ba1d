"""Adapters of any kind, and models that were tuned whole, as LoRA: against NumPy's SVD and PEFT."""

import json
import warnings

import numpy as np
import pytest
from lora_helpers import (
    load_in_peft,
    logits_of,
    peft_model,
    perturbed,
    refusal,
    relative,
    tiny_llama,
    tiny_model,
)

from lora_np import IA3Config, LoraConfig, PeftModel, VeraConfig, get_peft_model
from lora_np.lora.conversion import convert_to_lora, extract_lora, nearest_lora, save_as_lora, write_lora

BASES = {"gpt2": (tiny_model, ["c_attn", "mlp.c_proj"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}
each_base = pytest.mark.parametrize("base", BASES)
quietly = pytest.mark.filterwarnings("ignore::UserWarning")


def best(delta, rank):
    U, S, Vt = np.linalg.svd(np.asarray(delta, np.float64), full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vt[:rank]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(9, 14), (14, 9)], ids=str)
def test_the_nearest_of_a_rank(rng, xp, shape, dtype):
    delta = rng.standard_normal(shape).astype(dtype)
    for rank in (1, 4, 9):
        A, B = nearest_lora(xp.asarray(delta), rank)
        assert (A.shape, B.shape, A.dtype) == ((rank, shape[1]), (shape[0], rank), dtype)
        assert relative((B @ A).tolist(), best(delta, rank)) < (1e-12 if dtype == np.float64 else 1e-5)


def test_the_smallest_rank_with_so_much_of_the_energy(rng):
    values = np.array([4.0, 2.0, 1.0, 0.5])
    U, V = (np.linalg.qr(rng.standard_normal((6, 4)))[0] for _ in range(2))
    delta = (U * values) @ V.T
    energy = np.cumsum(values**2) / np.sum(values**2)
    for part in (1e-9, 0.5, 0.76, 0.9, 0.95, 0.99, 1.0):
        wanted = next(r for r in range(1, 5) if energy[r - 1] >= part - 1e-12)
        assert len(nearest_lora(delta, part)[0]) == wanted
    assert len(nearest_lora(np.zeros((3, 5)), 0.9)[0]) == 1


@pytest.mark.parametrize(
    ("rank", "error", "message"),
    [
        (0, ValueError, "rank must be at least 1, got 0"),
        (-2, ValueError, "rank must be at least 1"),
        (0.0, ValueError, r"part of the energy, in \(0, 1\]; got 0.0"),
        (1.5, ValueError, r"part of the energy, in \(0, 1\]; got 1.5"),
        (float("nan"), ValueError, "part of the energy"),
        (True, TypeError, "rank should be a whole number, or a float"),
        ("8", TypeError, "rank should be a whole number, or a float"),
        (6, ValueError, r"rank=6 is more than a layer of shape \(5, 7\) has: at most 5"),
    ],
    ids=str,
)
def test_a_rank_that_is_none_is_refused(rank, error, message):
    with pytest.raises(error, match=message):
        nearest_lora(np.ones((5, 7)), rank)
    if rank != 6:
        with pytest.raises(error, match=message):
            convert_to_lora(peft_model(), rank)


@each_base
def test_vera_and_dora_become_lora_and_compute_the_same(tmp_path, base):
    make, targets = BASES[base]
    conv1d = base == "gpt2"
    kinds = [
        VeraConfig(r=5, target_modules=targets, fan_in_fan_out=conv1d),
        LoraConfig(r=2, target_modules=targets, use_dora=True, fan_in_fan_out=conv1d),
        LoraConfig(r=2, target_modules=targets, init_lora_weights="olora", fan_in_fan_out=conv1d),
    ]
    for i, config in enumerate(kinds):
        model = perturbed(get_peft_model(make(), config), scale=0.3)
        expected = logits_of(model)
        folder = tmp_path / str(i)
        save_as_lora(folder, model, 16)  # the smaller side of every layer: nothing is lost
        np.testing.assert_array_equal(logits_of(model), expected)
        back = PeftModel.from_pretrained(make(), folder)
        assert relative(logits_of(back), expected) < 1e-5
        assert {layer.scaling["default"] for _, layer in back.base_model.layers()} == {1.0}


def test_a_smaller_rank_is_the_nearest(tmp_path):
    model = perturbed(get_peft_model(tiny_llama(), VeraConfig(r=6, target_modules=["q_proj"])), scale=0.3)
    config, state = convert_to_lora(model, 2)
    assert (config.r, config.lora_alpha, config.rank_pattern) == (2, 2, {})
    write_lora(tmp_path, config, state)
    back = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    for name, layer in model.base_model.layers():
        found = back.base_model.adapted[name].delta_weight("default")
        assert relative(found, best(layer.delta_weight("default"), 2)) < 1e-5


@quietly
def test_modules_that_are_trained_whole_come_along(tmp_path):
    model = peft_model(modules_to_save=["lm_head"])
    head = model.base_model.saved["lm_head"].modules_to_save["default"].weight
    head.data = head.data + 1
    save_as_lora(tmp_path, model, 4)
    assert relative(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path)), logits_of(model)) < 1e-5


@pytest.mark.parity
@quietly
@pytest.mark.parametrize("rank", [2, 0.6, 1.0])
@each_base
def test_pefts_ranks_and_products(tmp_path, base, rank):
    import peft

    make, targets = BASES[base]
    model = peft_model(targets, make(), r=4)
    for _, layer in model.base_model.layers():  # singular values of different sizes
        layer.adapters["default"].matrices()[1].data *= np.array([4, 2, 1, 0.5], np.float32)
    model.save_pretrained(tmp_path / "lora")
    config, state = convert_to_lora(model, rank)
    _, expected = peft.convert_to_lora(load_in_peft(make(), tmp_path / "lora"), rank)
    assert state.keys() == expected.keys()
    for name in state:
        assert state[name].shape == tuple(expected[name].shape)
        if ".lora_A." in name:
            (A, B), (a, b) = (
                [np.asarray(one[key].data) for key in (name, name.replace("lora_A", "lora_B"))]
                for one in (state, expected)
            )
            assert relative(B @ A, b @ a) < 1e-5
    ranks = {name: config.rank_and_alpha(name) for name, _ in model.base_model.layers()}
    shapes = {n.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): len(x.data) for n, x in state.items()}
    assert ranks == {name: (shapes[name], shapes[name]) for name in ranks}
    save_as_lora(tmp_path / "ours", model, rank)
    peft.save_as_lora(tmp_path / "theirs", load_in_peft(make(), tmp_path / "lora"), rank)
    logits = [
        logits_of(load_in_peft(make(), tmp_path / "ours")),
        logits_of(load_in_peft(make(), tmp_path / "theirs")),
        logits_of(PeftModel.from_pretrained(make(), tmp_path / "ours")),
        logits_of(PeftModel.from_pretrained(make(), tmp_path / "theirs")),
    ]
    for found in logits:
        assert relative(found, logits[0]) < 2e-5


def tuned(make=tiny_model, layers=("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"), rank=2):
    """A model whose layers of these names have changed, by an update of that rank."""
    model, rng = make(), np.random.default_rng(5)
    for name in layers:
        weight = model.get_submodule(name).weight
        change = rng.standard_normal((weight.shape[0], rank)) @ rng.standard_normal((rank, weight.shape[1]))
        weight.data = (weight.data + 0.1 * change).astype(np.float32)
    return model


def test_the_difference_of_two_models(tmp_path):
    model = tuned()
    config, state = extract_lora(tiny_model(), model, 0.999999)
    assert (config.r, config.fan_in_fan_out) == (2, True)
    assert sorted(config.target_modules) == ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"]
    write_lora(tmp_path, config, state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert relative(logits_of(back), logits_of(model)) < 1e-5
    plain = back.merge_and_unload()
    assert relative(logits_of(plain), logits_of(model)) < 1e-5


def test_of_two_llamas_too_and_of_some_layers_alone():
    model = tuned(tiny_llama, ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"])
    config, state = extract_lora(tiny_llama(), model, 2)
    assert len(state) == 4
    assert not config.fan_in_fan_out
    with pytest.warns(UserWarning, match=r"1 other weights have changed, .*: model.layers.1.mlp.up_proj.weight"):
        _, state = extract_lora(tiny_llama(), model, 2, ["q_proj"])
    assert list(state) == [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight" for x in "AB"]


def test_what_can_not_be_extracted_is_refused():
    with pytest.raises(ValueError, match="none of the layers of target_modules has changed; what has: nothing"):
        extract_lora(tiny_model(), tiny_model(), 2)
    with pytest.raises(ValueError, match="the models do not have the same parameters"):
        extract_lora(tiny_model(), tiny_llama(), 2)
    with pytest.raises(TypeError, match="tuned should be a model"):
        extract_lora(tiny_model(), "model", 2)
    with pytest.raises(ValueError, match=r"transformer.h.0.attn.c_attn: rank=17 is more than"):
        extract_lora(tiny_model(), tuned(), 17)


@quietly
def test_what_can_not_be_converted_is_refused(tmp_path):
    assert "nothing to convert" in refusal(TypeError, lambda: convert_to_lora(tiny_model(), 2))
    assert "'other'" in refusal(KeyError, lambda: convert_to_lora(peft_model(), 2, "other"))
    assert "no linear layer" in refusal(TypeError, lambda: convert_to_lora(peft_model(["wte", "c_attn"]), 2))
    for options in ({"bias": "all"}, {"lora_bias": True, "init_lora_weights": True}):
        assert "trains biases" in refusal(ValueError, lambda o=options: convert_to_lora(peft_model(**o), 2))
    merged = peft_model()
    merged.merge_adapter()
    assert "unmerge_adapter() first" in refusal(RuntimeError, lambda: convert_to_lora(merged, 2))
    with pytest.raises(ValueError, match="rank=17"):
        save_as_lora(tmp_path / "new", peft_model(), 17)
    assert not (tmp_path / "new").exists()


def test_an_adapter_that_changes_biases_is_refused():
    config = IA3Config(target_modules=["c_attn"], feedforward_modules=[], init_ia3_weights=False, fan_in_fan_out=True)
    model = get_peft_model(tiny_model(), config)
    assert "changes the bias of transformer.h.0.attn.c_attn" in refusal(ValueError, lambda: convert_to_lora(model, 16))


def test_ia3_becomes_lora_where_there_is_no_bias_to_change(tmp_path):
    config = IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])
    model = perturbed(get_peft_model(tiny_llama(), config))
    save_as_lora(tmp_path, model, 16)
    assert relative(logits_of(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits_of(model)) < 1e-5


@quietly
def test_blocks_that_are_there_twice_are_so_in_the_file(tmp_path):
    model = peft_model(["c_attn"], layer_replication=[(0, 2), (1, 2)])
    save_as_lora(tmp_path, model, 4)
    assert relative(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path)), logits_of(model)) < 1e-5


def test_plain_lora_is_warned_of_and_the_file_says_what_it_is(tmp_path):
    with pytest.warns(UserWarning, match="default is plain LoRA already"):
        save_as_lora(tmp_path, peft_model(), 2)
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (fields["peft_type"], fields["r"], fields["lora_alpha"]) == ("LORA", 2, 2)
    assert fields["inference_mode"] is True
