"""ensure_weight_tying: a tied head is adapted, or trained whole, as one with the embedding; against PEFT."""

import warnings

import numpy as np
import pytest
from lora_helpers import (
    hugging_face_twin,
    logits_of,
    perturbed,
    refusal,
    relative,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel, get_peft_model
from lora_np.lora.variants.tied import TiedLora
from lora_np.storage import read_safetensors

WHOLE = {"modules_to_save": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}
TARGETS = [
    {"target_modules": ["q_proj", *names]} for names in (["embed_tokens"], ["lm_head"], ["lm_head", "embed_tokens"])
]


def tied():
    return tiny_llama(tie_word_embeddings=True)


def config(**options):
    given = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, "target_modules": ["q_proj"], **options}
    return LoraConfig(**given, ensure_weight_tying=True)


def adapted(**options):
    return perturbed(get_peft_model(tied(), config(**options)))


@pytest.mark.parametrize("options", TARGETS, ids=str)
def test_embedding_and_head_have_one_update(options):
    model = adapted(**options)
    head, embedding = (model.base_model.adapted[name] for name in ("lm_head", "model.embed_tokens"))
    assert isinstance(head.adapters["default"], TiedLora)
    np.testing.assert_allclose(head.get_delta_weight("default"), embedding.get_delta_weight("default"), rtol=1e-5)
    assert not any("lm_head" in name and "lora" in name for name, _ in model.named_parameters())
    plain = tied()
    delta = model.base_model.adapted["model.layers.0.self_attn.q_proj"].get_delta_weight("default")
    plain.model.layers[0].self_attn.q_proj.weight.data += delta
    delta = model.base_model.adapted["model.layers.1.self_attn.q_proj"].get_delta_weight("default")
    plain.model.layers[1].self_attn.q_proj.weight.data += delta
    plain.model.embed_tokens.weight.data += embedding.get_delta_weight("default")
    assert relative(logits_of(model), logits_of(plain)) < 1e-6


@pytest.mark.parametrize("options", WHOLE, ids=str)
def test_embedding_and_head_are_trained_as_one(options):
    model = adapted(**options)
    base = model.get_base_model()
    copies = [module.modules_to_save["default"].weight for module in (base.lm_head, base.model.embed_tokens)]
    assert copies[0] is copies[1]
    assert copies[0] is not base.lm_head.original_module.weight
    expected = logits_of(model)
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), logits_of(tied()))
    plain = model.merge_and_unload()
    assert relative(logits_of(plain), expected) < 1e-6
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    assert plain.config.tie_word_embeddings


def test_with_names_that_peft_does_not_know_nothing_is_tied_and_a_warning_says_so():
    with pytest.warns(UserWarning, match="target_modules and modules_to_save name none of embed_tokens, lm_head"):
        model = get_peft_model(
            tiny_model(), LoraConfig(target_modules=["wte", "c_attn"], ensure_weight_tying=True, fan_in_fan_out=True)
        )
    assert "lm_head" not in model.base_model.adapted


def test_a_model_without_a_tied_head_is_told_so():
    with pytest.warns(UserWarning, match="ensure_weight_tying: this model has no head that is tied"):
        model = get_peft_model(tiny_llama(), config(target_modules=["q_proj", "embed_tokens"]))
    assert "lm_head" not in model.base_model.adapted


@pytest.mark.parametrize("name", ["use_dora", "lora_bias"])
def test_what_cannot_be_tied_is_refused(name):
    message = refusal(ValueError, lambda: adapted(**TARGETS[0], **{name: True}))
    assert message.startswith((f"{name} does not go with ensure_weight_tying", "lora_bias is for linear layers"))


def test_merging_needs_untied_weights():
    model = adapted(**TARGETS[0])
    assert "untie_weights" in refusal(ValueError, model.merge_adapter)
    expected = logits_of(model)
    model.untie_weights()
    model.merge_adapter()
    assert relative(logits_of(model), expected) < 1e-6


@pytest.mark.parametrize("options", [*TARGETS, *WHOLE], ids=str)
def test_a_file_brings_them_back_tied(options, tmp_path):
    model = adapted(**options)
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings(action="error"):
        loaded = PeftModel.from_pretrained(tied(), tmp_path)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    assert loaded.num_parameters() == model.num_parameters()
    assert loaded.peft_config["default"].ensure_weight_tying


def twins(**options):
    """PEFT's model and ours, with the same weights."""
    import peft
    import torch

    own = config(**options)
    fields = {name: value for name, value in own.to_dict().items() if name != "peft_type"}
    ours = perturbed(get_peft_model(tied(), own))
    theirs = peft.get_peft_model(hugging_face_twin(tied()), peft.LoraConfig(**fields)).eval()
    values = dict(ours.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name in values:
                p.copy_(torch.tensor(values[name].data))
    return theirs, ours


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [*TARGETS, *WHOLE], ids=str)
def test_logits_gradients_and_files_are_pefts(options, tmp_path):
    import peft
    import torch

    theirs, ours = twins(**options)
    ids = some_ids(ours.config)
    expected = theirs(input_ids=torch.tensor(ids), labels=torch.tensor(ids))
    expected.loss.backward()
    out = ours(ids, labels=ids)
    out.loss.backward()
    assert relative(out.logits.data, expected.logits.detach()) < 2e-5
    wanted = {name: p.grad.numpy().copy() for name, p in theirs.named_parameters() if p.grad is not None}
    for letter, other in (("A", "B"), ("B", "A")):  # PEFT's are two parameters in one memory, each with its gradient
        head = wanted.pop(f"base_model.model.lm_head.lora_{other}.default.weight", None)
        if head is not None:
            wanted[f"base_model.model.model.embed_tokens.lora_embedding_{letter}.default"] += head.T
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert relative(gradient, wanted[name]) < 2e-5, name
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    files = [read_safetensors(tmp_path / who / "adapter_model.safetensors")[0] for who in ("ours", "theirs")]
    assert {k: a.shape for k, a in files[0].items()} == {k: a.shape for k, a in files[1].items()}
    assert relative(logits_of(PeftModel.from_pretrained(tied(), tmp_path / "theirs")), logits_of(ours)) < 2e-5
    loaded = peft.PeftModel.from_pretrained(hugging_face_twin(tied()), tmp_path / "ours").eval()
    with torch.no_grad():
        assert relative(logits_of(ours), loaded(torch.tensor(ids)).logits) < 2e-5
