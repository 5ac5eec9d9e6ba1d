"""load_adapter under the name of an adapter that is there: the file's numbers, and nothing else, take their places."""

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, peft_model, refusal, snapshot, some_ids, tiny_model

from lora_np import AdaLoraConfig, LoHaConfig, get_peft_model
from lora_np.training.optim import SGD

KINDS = {
    "plain": {},
    "patterns": {"rank_pattern": {"h.0.attn.c_attn": 2}, "alpha_pattern": {"h.1.*": 3}, "use_rslora": True},
    "dora, and a head": {"use_dora": True, "modules_to_save": ["lm_head"]},
    "biases": {"bias": "all"},
    "tokens": {"trainable_token_indices": [1, 3]},
    "pissa": {"init_lora_weights": "pissa"},
    "all-linear": {"targets": "all-linear"},
}


def step(model):
    """A training step, so that all that is trained changes."""
    ids = some_ids(model.config)
    model(ids, labels=ids).loss.backward()
    SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    model.zero_grad()


def logits(model):
    return model(some_ids(model.config)).logits.numpy().copy()


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_step_comes_back(kind, tmp_path):
    options = dict(KINDS[kind])
    model = peft_model(options.pop("targets", ["c_attn"]), **options)
    before, expected = snapshot(model), logits(model)
    parameters = dict(model.named_parameters())
    model.save_pretrained(tmp_path)
    step(model)
    assert not np.allclose(logits(model), expected)
    result = model.load_adapter(tmp_path, "default")
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    np.testing.assert_array_equal(logits(model), expected)
    assert snapshot(model) == before
    assert all(p is parameters[name] for name, p in model.named_parameters())  # those that an optimizer knows


def test_a_relative_of_lora(tmp_path):
    model = get_peft_model(tiny_model(), LoHaConfig(r=2, target_modules=["c_attn"], init_weights=False))
    model.save_pretrained(tmp_path)
    expected = logits(model)
    step(model)
    model.load_adapter(tmp_path, "default")
    np.testing.assert_array_equal(logits(model), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": 3}, r"lora_A.weight has shape \(4, 16\) instead of \(3, 16\)"),
        ({"lora_alpha": 16}, "lora_alpha=8 in the place of 16"),
        ({"alpha_pattern": {"h.1.attn.c_attn": 5}}, "lora_alpha=8 in the place of 5 at transformer.h.1.attn.c_attn"),
        ({"use_dora": True}, "use_dora=False in the place of True"),
        ({"use_rslora": True}, "use_rslora=False in the place of True"),
        ({"lora_dropout": 0.5}, "lora_dropout=0.0 in the place of 0.5"),
        ({"targets": ["c_attn", "c_fc"]}, "does not fit the model: missing .*"),
        ({"modules_to_save": ["lm_head"]}, "does not fit the model: missing .*"),
    ],
)
def test_another_adapter_is_refused_and_nothing_changes(change, words, tmp_path):
    peft_model(["c_attn"]).save_pretrained(tmp_path)
    options = dict(change)
    model = peft_model(options.pop("targets", ["c_attn"]), **options)
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"({words}).*: this is not 'default' at another time; delete_adapter"):
        model.load_adapter(tmp_path, "default")
    assert snapshot(model) == before


def test_another_kind_is_refused(tmp_path):
    peft_model(["c_attn"]).save_pretrained(tmp_path)
    for config in (LoHaConfig, AdaLoraConfig):
        more = {"total_step": 10} if config is AdaLoraConfig else {}
        model = get_peft_model(tiny_model(), config(target_modules=["c_attn"], **more))
        assert "a LORA adapter in the place of" in refusal(
            ValueError, lambda m=model: m.load_adapter(tmp_path, "default")
        )


def test_what_is_no_adapters_folder_is_refused(tmp_path):
    model = peft_model(["c_attn"])
    with pytest.raises(FileNotFoundError, match="nothing"):
        model.load_adapter(tmp_path / "nothing", "default")
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors"):
        model.load_adapter(tmp_path, "default")


@pytest.mark.parity
def test_as_in_peft(tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    model = peft_model(["c_attn"], task_type="CAUSAL_LM")
    model.save_pretrained(tmp_path)
    twin = peft.get_peft_model(hugging_face_twin(tiny_model()), peft.LoraConfig(r=4, target_modules=["c_attn"]))
    step(model)
    twin.load_adapter(tmp_path, "default")
    model.load_adapter(tmp_path, "default")
    ids = some_ids(model.config)
    np.testing.assert_allclose(logits(model), twin(torch.tensor(ids)).logits.detach(), rtol=1e-4, atol=1e-5)
