"""target_parameters: LoRA on a weight as its layer stores it, which is PEFT's wrapper of a parameter for a matrix."""

import numpy as np
import pytest
from lora_helpers import (
    TwoLayers,
    assert_merges,
    gradients,
    logits_of,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel, Tensor, get_peft_model, gradcheck, nn
from lora_np.lora import LoraLinear
from lora_np.lora.adapter import Target
from lora_np.lora.variants.parameter import OnParameter
from lora_np.training import SGD

BASES = {
    "gpt2": (tiny_model, ["c_attn.weight", "mlp.c_proj.weight"]),
    "gpt2's embeddings": (tiny_model, ["wte.weight", "wpe.weight", "c_fc.weight"]),
    "llama": (tiny_llama, ["q_proj.weight", "model.layers.1.mlp.down_proj.weight"]),
}
each_base = pytest.mark.parametrize("base", BASES)


def config_of(base="gpt2", **options):
    options = {"target_modules": [], "target_parameters": BASES[base][1], "r": 3, "lora_alpha": 5, **options}
    return LoraConfig(**options)


def adapted(base="gpt2", dtype=np.float32, **options):
    return perturbed(get_peft_model(BASES[base][0]().to(dtype=dtype), config_of(base, **options)), scale=0.3)


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    model = get_peft_model(BASES[base][0](), config_of(base))
    assert np.array_equal(logits_of(model), logits_of(BASES[base][0]()))
    assert relative(logits_of(adapted(base)), logits_of(model)) > 1e-2


@each_base
def test_the_shapes_are_those_of_the_parameter(base):
    for name, layer in get_peft_model(BASES[base][0](), config_of(base)).base_model.layers():
        A, B = layer.matrices("default")
        assert (B.shape[0], A.shape[1]) == layer.base_layer.weight.shape, name
        assert layer.get_delta_weight("default").shape == layer.base_layer.weight.shape


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("base", ["gpt2", "llama"])
def test_merging(base, dtype, tolerance):
    assert_merges(adapted(base, dtype), tolerance)


def test_an_embedding_merges_where_its_weight_is_its_own():
    model = perturbed(get_peft_model(tiny_model(tie_word_embeddings=False), config_of("gpt2's embeddings")), scale=0.3)
    assert_merges(model, 1e-5)


def test_gradients_in_float64():
    for base in (nn.Linear(6, 5), nn.Conv1D(5, 6)):
        base.to(dtype=np.float64).requires_grad_(False)
        adapter = OnParameter(config_of(init_lora_weights=False), Target("first", base, 2, 3)).to(dtype=np.float64)
        layer = LoraLinear(base)
        layer.set_adapters({"default": adapter}, ["default"])
        x = Tensor(np.random.default_rng(0).standard_normal((4, 6)), requires_grad=True)
        A, B = layer.matrices("default")
        gradcheck(lambda x, A, B, layer=layer: layer(x), [x, A, B])
        weight = base.weight.data + layer.get_delta_weight("default")
        expected = x.data @ (weight if base.fan_in_fan_out else weight.T) + base.bias.data
        assert relative(layer(x).data, expected) < 1e-12


@each_base
def test_it_comes_back_from_a_file_bit_for_bit(base, tmp_path):
    model = adapted(base)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(BASES[base][0](), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    assert np.array_equal(logits_of(loaded), logits_of(model))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out set to True")
def test_beside_modules_and_other_adapters(tmp_path):
    options = {"target_modules": None, "target_parameters": ["mlp.c_fc.weight"]}  # None: GPT-2's c_attn, as in PEFT
    model = adapted(**options)
    assert {name.rpartition(".")[2] for name, _ in model.base_model.layers()} == {"c_attn", "c_fc"}
    model.save_pretrained(tmp_path)
    assert np.array_equal(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path)), logits_of(model))
    model.add_adapter("other", LoraConfig(r=2, target_modules=["c_fc"], init_lora_weights=False, fan_in_fan_out=True))
    one = logits_of(model)
    model.set_adapter(["default", "other"])
    assert relative(logits_of(model), one) > 1e-3
    assert_merges(model, 1e-5)


def test_ranks_go_by_the_parameters_name():
    model = adapted(rank_pattern={"c_attn.weight": 2})
    assert {layer.adapters["default"].r for _, layer in model.base_model.layers()} == {2, 3}


def test_a_config_that_says_fan_in_fan_out_is_put_right():
    with pytest.warns(UserWarning, match="fan_in_fan_out set to False, as target_parameters"):
        model = adapted(fan_in_fan_out=True)
    assert model.peft_config["default"].fan_in_fan_out is False  # PEFT does not read the file otherwise


def test_a_network_without_usual_targets_needs_no_target_modules():
    model = get_peft_model(TwoLayers(), LoraConfig(target_parameters=["first.weight"]))
    assert [name for name, _ in model.base_model.layers()] == ["first"]


def test_the_loss_falls():
    model = get_peft_model(tiny_model(), config_of("gpt2's embeddings")).train()
    ids, losses = some_ids(model.config), []
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_dropout": 0.1}, "without lora_dropout=0.1"),
        ({"use_dora": True}, "without use_dora=True"),
        ({"lora_bias": True}, "without lora_bias=True"),
        ({"init_lora_weights": "pissa"}, "without init_lora_weights='pissa'"),
        ({"alora_invocation_tokens": [3]}, "without alora_invocation_tokens=[3]"),
        ({"target_parameters": ["c_attn.bias"]}, "c_attn.bias, of a Conv1D, has shape (48,)"),
        ({"target_parameters": ["ln_f.weight"]}, "ln_f.weight, of a LayerNorm, has shape (16,)"),
        ({"target_parameters": ["q_proj.weight"]}, "no parameter matches 'q_proj.weight'"),
        ({"target_modules": ["c_attn"]}, "target_modules names transformer.h.0.attn.c_attn, and target_parameters"),
        ({"target_parameters": "c_attn.weight"}, "must be a list of parameters' names"),
        ({"target_parameters": 3}, "must be a list of parameters' names"),
        ({"target_parameters": ["c_.*"]}, "target_parameters has 'c_.*' in a list"),
        ({"target_parameters": []}, "target_modules is empty"),
    ],
)
def test_what_is_refused(options, message):
    model = tiny_model()
    before = snapshot(model)
    assert message in refusal(ValueError, lambda: get_peft_model(model, config_of(**options)))
    assert snapshot(model) == before


@pytest.mark.parity
@each_base
class TestAgainstPeft:
    def test_names_logits_and_gradients(self, base):
        import torch

        twin = peft_twin_without_orientation(BASES[base][0](), config_of(base))
        ours = adapted(base)
        values = dict(ours.named_parameters())
        assert {name: p.shape for name, p in values.items()} == {n: tuple(p.shape) for n, p in twin.named_parameters()}
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p.copy_(torch.tensor(values[name].data))
        ids = torch.tensor(some_ids(ours.config))
        out = twin(input_ids=ids, labels=ids)
        out.loss.backward()
        assert relative(logits_of(ours), out.logits.detach()) < 2e-5
        theirs = {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
        found = gradients(ours)
        assert set(found) == set(theirs)
        for name, gradient in found.items():
            assert relative(gradient, theirs[name]) < 2e-5, name

    def test_files_both_ways(self, base, tmp_path):
        import peft
        import torch
        from lora_helpers import hugging_face_twin

        ours = adapted(base)
        ours.save_pretrained(tmp_path / "ours")
        ids = torch.tensor(some_ids(ours.config))
        theirs = peft.PeftModel.from_pretrained(hugging_face_twin(BASES[base][0]()), tmp_path / "ours")
        assert relative(logits_of(ours), theirs(ids).logits.detach()) < 2e-5
        theirs.save_pretrained(tmp_path / "theirs")
        back = PeftModel.from_pretrained(BASES[base][0](), tmp_path / "theirs")
        assert np.array_equal(logits_of(back), logits_of(ours))


def peft_twin_without_orientation(model, config):
    """PEFT's model; its config must not say fan_in_fan_out."""
    import peft
    from lora_helpers import hugging_face_twin

    fields = {name: value for name, value in config.to_dict().items() if name != "peft_type"}
    return peft.get_peft_model(hugging_face_twin(model), peft.LoraConfig(**fields)).eval()
