"""MiCA: B is frozen along W's minor directions, and A begins with zeros."""

import numpy as np
import pytest
from lora_helpers import (
    assert_exchanged_with_peft,
    assert_merges,
    gradients,
    logits_of,
    perturbed,
    refusal,
    relative,
    snapshot,
    tiny_llama,
    tiny_model,
)
from start_helpers import MAKE, TARGETS, losses_of, start_config

from lora_np import PeftModel, get_peft_model, nn

each_base = pytest.mark.parametrize("base", MAKE)
EMBEDDING = {"gpt2": "wte", "llama": "embed_tokens"}


def mica_model(base="gpt2", model=None, **options):
    return get_peft_model(model or MAKE[base](), start_config(base, init_lora_weights="MiCA", **options))


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    model = mica_model(base, target_modules=[*TARGETS[base], EMBEDDING[base]])
    np.testing.assert_array_equal(logits_of(model), logits_of(MAKE[base]()))


@each_base
def test_b_has_the_directions_that_w_uses_least(base):
    for name, layer in mica_model(base, target_modules=[*TARGETS[base], EMBEDDING[base]]).base_model.layers():
        A, B = layer.adapters["default"].matrices()
        U, S, _ = np.linalg.svd(layer.oriented(MAKE[base]().get_submodule(name).weight.data), full_matrices=False)
        assert not A.data.any()
        np.testing.assert_allclose(B.data.T @ B.data, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(B.data @ B.data.T, U[:, -3:] @ U[:, -3:].T, atol=1e-4)
        assert S[-1] == S.min()


def test_only_a_is_trained():
    model = mica_model(target_modules=["c_attn", "wte"])
    assert {name.split(".")[-3] for name in gradients(model) if "c_attn" in name} == {"lora_A"}
    model.set_requires_grad("default", True)
    assert not [name for name, p in model.named_parameters() if p.requires_grad and "_B" in name]
    before = snapshot(model)
    losses = losses_of(model, rate=0.05)
    assert losses[-1] < 0.8 * losses[0]
    changed = {name for name, bits in snapshot(model).items() if bits != before[name]}
    assert {name.split("default")[0].split(".")[-2] for name in changed} == {"lora_A", "lora_embedding_A"}


@each_base
def test_merging_and_files(base, tmp_path):
    model = perturbed(mica_model(base, target_modules=[*TARGETS[base], EMBEDDING[base]]), scale=0.5)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(MAKE[base](), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    if base == "llama":  # its head is not tied to the embedding
        assert_merges(model, 1e-5)


def test_a_head_that_follows_the_embedding():
    tied = tiny_llama(tie_word_embeddings=True)
    model = mica_model("llama", tied, target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_llama(tie_word_embeddings=True)))
    assert not [name for name in gradients(perturbed(model)) if "_A." not in name]


def test_a_base_in_four_bits():
    model = mica_model(model=nn.quantize_model(tiny_model()))
    np.testing.assert_array_equal(logits_of(model), logits_of(nn.quantize_model(tiny_model())))


def test_a_file_with_a_of_zeros_is_warned_about(tmp_path):
    mica_model().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="all zero"):
        PeftModel.from_pretrained(tiny_model(), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 17}, "allows 16 at most"),
        ({"target_modules": ["wte"], "r": 17}, "allows 16 at most"),
        ({"target_modules": ["c_attn.q"]}, "parts of a projection"),
        ({"use_dora": True}, "does not go with use_dora"),
        ({"lora_bias": True}, "lora_bias goes with"),
    ],
)
def test_what_is_refused(options, message):
    assert message in refusal(ValueError, lambda: mica_model(**options))


@pytest.mark.parity
@each_base
class TestAgainstPeft:
    def test_it_begins_and_counts_as_in_peft(self, base):
        import peft
        from start_helpers import fresh_twin, start_fields

        targets = [*TARGETS[base], EMBEDDING[base]]
        fields = start_fields(base, init_lora_weights="mica", target_modules=targets)
        twin, ours = (
            peft.get_peft_model(fresh_twin(base), peft.LoraConfig(**fields)),
            mica_model(base, target_modules=targets),
        )
        assert ours.get_nb_trainable_parameters() == twin.get_nb_trainable_parameters()
        own = dict(ours.named_parameters())
        for name, p in twin.named_parameters():
            assert own[name].requires_grad == p.requires_grad
            if "_B" in name:
                assert relative(own[name].data @ own[name].data.T, (p @ p.T).detach()) < 1e-4

    def test_files_both_ways(self, base, tmp_path):
        assert_exchanged_with_peft(start_config(base, init_lora_weights="mica"), MAKE[base](), tmp_path)
