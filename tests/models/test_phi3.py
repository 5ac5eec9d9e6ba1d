"""Phi-3: joint projections, adapted whole and by part; positions on a part of each head, stretched by LongRoPE."""

import json
import warnings

import numpy as np
import pytest
from lora_helpers import gradients, hugging_face_twin, logits_of, perturbed, relative, some_ids
from relative_helpers import SMALL, RelativeOfLlama

from lora_np import LoraConfig, PeftModel, Phi3Config, get_peft_model
from lora_np.costs import adapter_sizes, memory
from lora_np.costs.parameters import dimensions
from lora_np.models.loading.checkpoints import load_pretrained
from lora_np.storage import read_safetensors

LONG = {"rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}
PARTIAL = {"partial_rotary_factor": 0.5, "rope_theta": 100.0, "rope_type": "default"}


class TestPhi3(RelativeOfLlama):
    kind = "phi3"
    targets = (["qkv_proj"], "all-linear", ["o_proj", "gate_up_proj", "embed_tokens"])
    slopes = "window"
    configs = {
        "usual": {},
        "multi-head": {"num_key_value_heads": None},
        "multi-query": {"num_key_value_heads": 1, "hidden_act": "gelu"},
        "window": {"sliding_window": 3},
        "tied, wide heads": {"tie_word_embeddings": True, "head_dim": 6},
        "part of each head": {"rope_parameters": PARTIAL, "head_dim": 8},
        "longrope, short": {"rope_parameters": LONG, "original_max_position_embeddings": 12},
        "longrope, stretched": {
            "rope_parameters": {**LONG, "partial_rotary_factor": 0.5},
            "hidden_size": 32,
            "max_position_embeddings": 48,
            "original_max_position_embeddings": 24,
        },
    }


@pytest.mark.parity
def test_a_text_longer_than_the_original_context_turns_otherwise():
    """Generation too: what was read before is read again, with the long factors."""
    import torch

    model = TestPhi3().tiny(rope_parameters=LONG, original_max_position_embeddings=8)
    twin, ids = hugging_face_twin(model), some_ids(model.config, time=9)
    for length in (8, 9):
        with torch.no_grad():
            expected = twin(torch.tensor(ids[:, :length])).logits
        assert relative(logits_of(model, ids[:, :length]), expected) < 2e-5
    options, start = {"max_new_tokens": 6, "do_sample": False}, torch.tensor(ids[:, :6])
    theirs = twin.generate(start, attention_mask=torch.ones_like(start), pad_token_id=0, **options)
    for use_cache in (True, False):
        np.testing.assert_array_equal(model.generate(ids[:, :6], use_cache=use_cache, **options), theirs.numpy())


OLDER = {
    "nothing said": {},
    "theta": {"rope_theta": 333.0, "rope_scaling": None},
    "longrope": {"rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}},
    "new": {"rope_parameters": {**LONG, "original_max_position_embeddings": 3}},
    "partial": {"partial_rotary_factor": 0.5, "rope_theta": 50.0},
    "original beside": {"rope_scaling": {**LONG}, "original_max_position_embeddings": 5},
}


@pytest.mark.parity
@pytest.mark.parametrize("more", OLDER.values(), ids=OLDER)
def test_files_of_any_age_are_read_as_by_transformers(tmp_path, more):
    import torch
    import transformers

    model = TestPhi3().tiny()
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields.pop("rope_parameters")
    (tmp_path / "config.json").write_text(json.dumps({**fields, "original_max_position_embeddings": 6, **more}))
    loaded = load_pretrained(tmp_path)
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = some_ids(model.config)
    with torch.no_grad():
        assert relative(logits_of(loaded, ids), twin(torch.tensor(ids)).logits) < 2e-5
    loaded.save_pretrained(tmp_path / "again")
    assert relative(logits_of(load_pretrained(tmp_path / "again"), ids), logits_of(loaded, ids)) == 0


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_longrope_had_other_names(kind):
    """Transformers means them too, and stumbles over "su"."""
    factors = {name: LONG[name] for name in ("short_factor", "long_factor")}
    fields = {**SMALL, "original_max_position_embeddings": 6}
    found, expected = (
        Phi3Config.from_dict({**fields, "rope_scaling": {"type": name, **factors}}) for name in (kind, "longrope")
    )
    assert found == expected
    assert found.rope_parameters["rope_type"] == "longrope"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "is 'default' or 'longrope', got 'linear'"),
        ({"rope_parameters": {**LONG, "long_factor": [1.0]}}, "long_factor must have 2 numbers"),
        ({"rope_parameters": 3}, "rope_parameters must be an object"),
        ({"sliding_window": 0}, "sliding_window must be a positive integer, got 0"),
        ({"resid_pdrop": 1.0}, r"resid_pdrop must be a probability in \[0, 1\), got 1.0"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Phi3Config.from_dict({**SMALL, **changes})


def test_dropout_of_what_is_added_works_in_training_only():
    model = TestPhi3().tiny(resid_pdrop=0.5)
    ids = some_ids(model.config)
    expected = TestPhi3().tiny()(ids).logits.data
    np.testing.assert_array_equal(model(ids).logits.data, expected)
    first, second = (model.train()(ids).logits.data for _ in range(2))
    assert relative(first, expected) > 1e-3
    assert relative(first, second) > 1e-3


PARTS = {
    "q": ["qkv_proj.q"],
    "k": ["qkv_proj.k"],
    "q and v": ["qkv_proj.q", "qkv_proj.v"],
    "up": ["gate_up_proj.up"],
    "q, up and more": ["qkv_proj.q", "gate_up_proj.up", "o_proj"],
    "gate, in the other order": ["gate_up_proj.up", "gate_up_proj.gate", "qkv_proj.v", "qkv_proj.k", "qkv_proj.q"],
}
WIDTHS = {"qkv_proj": {"q": 16, "k": 8, "v": 8}, "gate_up_proj": {"gate": 24, "up": 24}}


def adapted(targets, model=None, **options):
    config = LoraConfig(r=2, lora_alpha=5, target_modules=targets, **{"init_lora_weights": False, **options})
    return get_peft_model(TestPhi3().tiny() if model is None else model, config)


@pytest.mark.parametrize("targets", PARTS.values(), ids=PARTS)
class TestParts:
    def test_only_the_chosen_parts_change(self, targets):
        model = adapted(targets)
        block = model.get_base_model().model.layers[1]
        for name, widths in WIDTHS.items():
            layer = getattr(block.self_attn if name == "qkv_proj" else block.mlp, name)
            x, start = np.random.default_rng(3).standard_normal((5, 16)).astype(np.float32), 0
            chosen = [target.rpartition(".")[2] for target in targets if target.startswith(name)]
            change = layer(x).data - layer.base_layer(x).data if chosen else np.zeros((5, 48))
            for part, width in widths.items():
                moved = abs(change[:, start : start + width]).max() > 1e-3
                assert moved == (part in chosen), part
                start += width

    def test_it_starts_at_the_base_model_and_gradients_are_slopes(self, targets):
        np.testing.assert_array_equal(logits_of(adapted(targets, init_lora_weights=True)), logits_of(TestPhi3().tiny()))
        model = adapted(targets, TestPhi3().tiny().to(dtype=np.float64))
        ids, rng = some_ids(model.config), np.random.default_rng(0)
        found = gradients(model)
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            index = tuple(int(rng.integers(n)) for n in p.shape)
            before, values = p.data[index], []
            for step in (1e-6, -1e-6):
                p.data[index] = before + step
                values.append(model(ids, labels=ids).loss.item())
            p.data[index] = before
            assert abs(found[name][index] - (values[0] - values[1]) / 2e-6) < 1e-7, name

    def test_counts_follow_from_the_config(self, targets):
        model = adapted(targets)
        sizes = adapter_sizes(model.config.to_dict(), 2, targets)
        assert sum(sizes.values()) == model.get_nb_trainable_parameters()[0]
        for name, size in sizes.items():
            layer, _, part = name.rpartition(".")
            widths = WIDTHS.get(layer.rpartition(".")[2])
            assert widths is None or size == 2 * (16 + widths[part])

    @pytest.mark.parity
    def test_peft_reads_what_is_saved(self, targets, tmp_path):
        import peft
        import torch

        model = perturbed(adapted(targets))
        model.save_pretrained(tmp_path)
        expected, ids = logits_of(model), some_ids(model.config)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            theirs = peft.PeftModel.from_pretrained(hugging_face_twin(TestPhi3().tiny()), tmp_path).eval()
        with torch.no_grad():
            assert relative(theirs(torch.tensor(ids)).logits, expected) < 2e-5
        again = PeftModel.from_pretrained(TestPhi3().tiny(), tmp_path)
        assert relative(logits_of(again), expected) < 1e-6
        assert set(read_safetensors(tmp_path / "adapter_model.safetensors")[0])
        merged = model.merge_and_unload()
        assert relative(logits_of(merged), expected) < 1e-5


def test_dimensions_are_seen_through_joint_projections():
    found = dimensions(TestPhi3().tiny(head_dim=6).config.to_dict())
    assert (found["q"], found["kv"], found["inner"], found["heads"]) == (24, 12, 24, 4)


def test_the_forecast_sees_the_two_inputs_of_a_joint_gated_mlp():
    """As many activations as a Mistral of the same sizes has: what differs is how many products compute them."""
    phi3, mistral = ({**SMALL, "model_type": kind, "sliding_window": None} for kind in ("phi3", "mistral"))
    found, expected = (memory(fields, method="full", length=8)["activations"] for fields in (phi3, mistral))
    assert found == expected
