"""CorDA: A and B from W times the covariance of its inputs, in both modes."""

import numpy as np
import pytest
from lora_helpers import (
    load_in_peft,
    logits_of,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)
from start_helpers import MAKE, fresh_twin, losses_of, no_layer_listens, some_batches, start_config, start_fields

from lora_np import CordaConfig, PeftModel, get_peft_model, nn, preprocess_corda

each_base = pytest.mark.parametrize("base", MAKE)
each_method = pytest.mark.parametrize("method", ["ipm", "kpm"])
ROWS = [row[None] for batch in some_batches() for row in batch["input_ids"]]


def corda_config(base="gpt2", method="ipm", corda=None, **options):
    corda = CordaConfig(corda_method=method, **(corda or {}))
    return start_config(base, init_lora_weights="corda", corda_config=corda, **options)


def runs(model):
    return lambda: [model(row) for row in ROWS]


def prepared(base="gpt2", method="ipm", **options):
    """(a base that has been prepared, the config)."""
    model, config = MAKE[base](), corda_config(base, method, **options)
    preprocess_corda(model, config, runs(model))
    return model, config


def corda_model(*args, **options):
    return get_peft_model(*prepared(*args, **options))


@each_method
@each_base
def test_training_starts_at_the_base_model(base, method):
    model = corda_model(base, method)
    assert relative(logits_of(model), logits_of(MAKE[base]())) < 2e-6
    for name, layer in model.base_model.layers():
        assert relative(layer.base_layer.weight.data, MAKE[base]().get_submodule(name).weight.data) > 1e-2
        assert not hasattr(layer.base_layer, "prepared")  # it has been used
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), logits_of(MAKE[base]()))
    assert snapshot(perturbed(model).unload().requires_grad_(True)) == snapshot(MAKE[base]())


@each_method
def test_the_components_are_those_of_the_covariance(method):
    """With all inputs alike in all directions, this is PiSSA, or its opposite."""
    from lora_np.lora.starts.corda import decomposed

    W = np.random.default_rng(0).standard_normal((6, 5))
    U, S, V = decomposed(W, np.eye(5), 2, method)
    expected = np.linalg.svd(W, full_matrices=False)
    kept = slice(0, 2) if method == "ipm" else slice(3, 5)
    np.testing.assert_allclose(
        (U * S) @ V.T, (expected[0][:, kept] * expected[1][kept]) @ expected[2][kept], atol=1e-12
    )
    C = np.diag([4.0, 3.0, 2.0, 1.0, 0.5])
    U, S, V = decomposed(W, C, 5, method)
    np.testing.assert_allclose((U * S) @ V.T, W, atol=1e-10)
    np.testing.assert_allclose(np.linalg.svd(W @ (C + np.eye(5) * 0.021))[1], S, rtol=1e-10)


def test_preparing_changes_nothing():
    model = tiny_model().train()
    before = snapshot(model)
    preprocess_corda(model, corda_config(), runs(model))
    assert snapshot(model) == before
    assert no_layer_listens(model)


class BrokenError(Exception):
    pass


def test_an_error_while_data_is_run_changes_nothing():
    model = tiny_model()
    before = snapshot(model)

    def run():
        model(ROWS[0])
        raise BrokenError

    with pytest.raises(BrokenError):
        preprocess_corda(model, corda_config(), run)
    assert snapshot(model) == before
    assert no_layer_listens(model)
    assert not any(hasattr(module, "prepared") for module in model.modules())


def test_files_of_what_was_found(tmp_path, capsys):
    kept = {"cache_file": str(tmp_path / "cache.safetensors"), "covariance_file": str(tmp_path / "c.safetensors")}
    expected = snapshot(corda_model(corda={**kept, "verbose": True}))
    assert "decomposing transformer.h.0.attn.c_attn" in capsys.readouterr().out
    for left in kept:
        model, config = tiny_model(), corda_config(corda={left: kept[left]})
        preprocess_corda(model, config)  # nothing is run
        assert snapshot(get_peft_model(model, config)) == expected
    other = corda_config(corda={"cache_file": kept["cache_file"]}, r=2)
    assert "was made for another model or rank" in refusal(ValueError, lambda: preprocess_corda(tiny_model(), other))
    (tmp_path / "c.safetensors").write_bytes(b"PK\x03\x04 a pickle of torch's")
    with pytest.raises(ValueError, match=r"c\.safetensors"):
        preprocess_corda(tiny_model(), corda_config(corda={"covariance_file": kept["covariance_file"]}))


def test_another_model_may_be_the_one_that_is_run():
    model, other, config = tiny_model(), tiny_model(), corda_config()
    preprocess_corda(model, config, runs(other), hooked_model=other)
    assert snapshot(get_peft_model(model, config)) == snapshot(corda_model())


def test_batches_of_several_rows():
    model, config = tiny_model(), corda_config()
    preprocess_corda(model, config, lambda: [model(batch["input_ids"]) for batch in some_batches()])
    assert relative(logits_of(get_peft_model(model, config)), logits_of(tiny_model())) < 2e-6


def test_float64_and_float16():
    model, config = tiny_model().to(dtype=np.float64), corda_config()
    preprocess_corda(model, config, runs(model))
    assert relative(logits_of(get_peft_model(model, config)), logits_of(tiny_model().to(dtype=np.float64))) < 1e-13
    half, config = tiny_model().half(), corda_config(corda={"use_float16_for_covariance": True})
    preprocess_corda(half, config, runs(half))
    assert relative(logits_of(get_peft_model(half, config)), logits_of(tiny_model())) < 1e-2


@each_method
def test_files(tmp_path, method):
    model = perturbed(corda_model(method=method))
    message = refusal(ValueError, lambda: model.save_pretrained(tmp_path))
    assert "as_plain_lora=True" in message
    model.save_pretrained(tmp_path, path_initial_model_for_weight_conversion="anything")
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert relative(logits_of(loaded), logits_of(model)) < 1e-5
    assert loaded.peft_config["default"].corda_config is None


def test_a_file_that_does_not_say_what_was_taken_out(tmp_path):
    """PEFT writes such ones, and cannot read them."""
    get_peft_model(tiny_model(), start_config()).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"init_lora_weights": true', '"init_lora_weights": "corda"'))
    message = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_model(), tmp_path))
    assert str(path) in message
    assert "path_initial_model_for_weight_conversion" in message


def test_beside_an_adapter_on_other_layers():
    model = get_peft_model(tiny_model(), start_config(target_modules=["c_attn"]))
    config = corda_config(target_modules=["c_fc"])
    preprocess_corda(model, config, runs(model))
    with pytest.warns(UserWarning, match="is inactive"):
        model.add_adapter("second", config)
    model.set_adapter(["default", "second"])
    assert relative(logits_of(model), logits_of(tiny_model())) < 2e-6


def test_a_short_training_run_and_dora():
    losses = losses_of(corda_model())
    assert losses[-1] < 0.8 * losses[0]
    assert relative(logits_of(corda_model(use_dora=True)), logits_of(tiny_model())) < 2e-6


def test_an_embedding_beside_is_left_whole():
    model, config = tiny_llama(), corda_config("llama", target_modules=["q_proj", "embed_tokens"])
    preprocess_corda(model, config, runs(model))
    made = get_peft_model(model, config)
    embedding = dict(made.base_model.layers())["model.embed_tokens"].base_layer
    np.testing.assert_array_equal(embedding.weight.data, tiny_llama().model.embed_tokens.weight.data)


def test_a_head_that_is_called_for_its_loss():
    model, config = tiny_llama(), corda_config("llama", target_modules=["lm_head"])
    preprocess_corda(model, config, lambda: [model(row, labels=row) for row in ROWS])
    assert relative(logits_of(get_peft_model(model, config)), logits_of(tiny_llama())) < 2e-6


def zero_inputs():
    model = tiny_model()
    model.transformer.h[0].ln_1.weight.data = np.zeros(16, np.float32)
    model.transformer.h[0].ln_1.bias.data = np.zeros(16, np.float32)
    preprocess_corda(model, corda_config(), runs(model))


def prepared_for(**options):
    model, _ = prepared()
    return get_peft_model(model, corda_config(**options))


def beside(first, second):
    model, _ = prepared()
    made = get_peft_model(model, first)
    made.add_adapter("second", second)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: get_peft_model(tiny_model(), corda_config()), "call preprocess_corda(model, config, run_model) first"),
        (lambda: prepared_for(r=2), "was prepared for r = 3, and is to get 2"),
        (lambda: prepared(r=17), "allows 16 at most"),
        (lambda: prepared_for(target_modules=["c_attn.q"]), "parts of a projection"),
        (lambda: preprocess_corda(tiny_model(), start_config(), None), "corda_config"),
        (lambda: preprocess_corda(tiny_model(), corda_config()), "needs run_model"),
        (lambda: preprocess_corda(tiny_model(), corda_config(), runs(tiny_model())), "was never called"),
        (lambda: preprocess_corda(nn.quantize_model(tiny_model()), corda_config(), None), "in 4 bits"),
        (lambda: preprocess_corda(tiny_model(), corda_config(target_modules=["lm_head"]), None), "shares its weight"),
        (lambda: preprocess_corda(tiny_model(), corda_config(target_modules=["wte"]), None), "for linear layers"),
        (zero_inputs, "inputs are all zero"),
        (lambda: beside(start_config(), corda_config()), "must be alone on its layers"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


@pytest.mark.parity
@each_base
class TestAgainstPeft:
    @each_method
    def test_a_b_base_and_logits(self, base, method, tmp_path):
        import peft
        import torch
        from peft.tuners.lora.config import CordaConfig as Theirs
        from peft.tuners.lora.corda import preprocess_corda as prepare

        twin = fresh_twin(base)
        options = {"init_lora_weights": "corda", "corda_config": Theirs(corda_method=method)}
        config = peft.LoraConfig(**start_fields(base, **options))
        prepare(twin, config, lambda: [twin(torch.tensor(row)) for row in ROWS])
        theirs = dict(peft.get_peft_model(twin, config).named_parameters())
        ours = corda_model(base, method)
        own = dict(ours.named_parameters())
        for name, p in own.items():
            if "lora_A" in name:
                B = name.replace("lora_A", "lora_B")
                assert relative(own[B].data @ p.data, (theirs[B] @ theirs[name]).detach()) < 2e-3, name
            elif "base_layer.weight" in name:
                assert relative(p.data, theirs[name].detach()) < 1e-3, name
        perturbed(ours).save_pretrained(tmp_path, as_plain_lora=True)
        back = load_in_peft(MAKE[base](), tmp_path)
        assert relative(logits_of(back, some_ids(ours.config)), logits_of(ours)) < 2e-5
