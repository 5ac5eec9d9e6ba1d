"""GPT-NeoX: logits, loss and every gradient against Transformers, LoRA against PEFT, files of all ages."""

import json

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    assert_merges,
    gradients,
    hugging_face_twin,
    load_in_peft,
    logits_of,
    perturbed,
    randomize,
    relative,
    some_ids,
)
from model_helpers import (
    assert_a_position_sees_only_what_stands_before,
    assert_gradients_are_slopes,
    assert_is_transformers,
    assert_loads_in_transformers,
    loss_and_gradients,
    padded,
    some_labels,
)

from lora_np import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    KVCache,
    LoraConfig,
    PeftModel,
    get_peft_model,
    no_grad,
)
from lora_np.autograd import threads
from lora_np.cli import main
from lora_np.costs import estimate_step_memory, flops
from lora_np.costs.parameters import model_size
from lora_np.lora.targets import find_targets
from lora_np.models.activations import ACTIVATIONS
from lora_np.storage import read_safetensors, write_safetensors

PART = "partial_rotary_factor"
CONFIGS = {
    "usual": {},
    "one after the other": {"use_parallel_residual": False},
    "no attention_bias": {"attention_bias": False},
    "tied": {"tie_word_embeddings": True},
    "one head": {"num_attention_heads": 1, "num_hidden_layers": 1},
    "heads turned as a whole": {"rope_parameters": {PART: 1.0}},
    "half of each head": {"rope_parameters": {PART: 0.5, "rope_theta": 50.0}},
    "an odd part": {"rope_parameters": {PART: 0.4}},
    "odd heads": {"hidden_size": 10, "num_attention_heads": 2, "rope_parameters": {PART: 0.8}},
    "nothing turned": {"rope_parameters": {PART: 0.0}},
    "older names": {"rotary_pct": 0.75, "rotary_emb_base": 77.0},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, PART: 0.5}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0, PART: 0.5}, "max_position_embeddings": 5},
    "large epsilon": {"layer_norm_eps": 0.1},
    **{f"activation {name}": {"hidden_act": name} for name in ACTIVATIONS if name != "gelu"},
}
each_config = pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
TYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def tiny_neox(**changes):
    """A tiny GPT-NeoX with random weights, in evaluation mode."""
    small = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    rest = {"num_attention_heads": 2, "max_position_embeddings": 12, "eos_token_id": None}
    return randomize(GPTNeoXForCausalLM(GPTNeoXConfig(**{**small, **rest, **changes}))).eval()


@pytest.mark.parity
@TYPES
@each_config
def test_logits_loss_and_every_gradient_are_transformers(changes, dtype):
    assert_is_transformers(tiny_neox(**changes).to(dtype=dtype))


@pytest.mark.parity
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("parallel", [True, False])
def test_so_they_are_with_padding(side, parallel):
    """Compared where there is no padding: what stands there is nobody's concern."""
    import torch

    model = tiny_neox(use_parallel_residual=parallel)
    mask, positions = padded(side)
    ids = some_ids(model.config, batch=3)
    labels = np.where(mask == 1, ids, -100)
    labels[np.arange(3), mask.argmax(1)] = -100  # the first token is no padding's continuation
    inputs = {"attention_mask": mask, "position_ids": positions}
    twin, tensors = hugging_face_twin(model), {name: torch.tensor(array) for name, array in inputs.items()}
    expected = twin(input_ids=torch.tensor(ids), labels=torch.tensor(labels), **tensors)
    expected.loss.backward()
    loss, gradients = loss_and_gradients(model, ids, labels, **inputs)
    assert relative(loss, expected.loss.item()) < 2e-5
    logits = model(ids, **inputs).logits.data
    assert relative(logits[mask == 1], expected.logits.detach().numpy()[mask == 1]) < 2e-5
    for name, p in twin.named_parameters():
        assert relative(gradients[name], p.grad.numpy()) < 2e-5, name


@pytest.mark.parametrize("changes", [{}, {"use_parallel_residual": False, "attention_bias": False}], ids=str)
def test_gradients_are_those_of_finite_differences(changes):
    assert_gradients_are_slopes(tiny_neox(**changes))


def test_a_position_sees_only_what_stands_before():
    assert_a_position_sees_only_what_stands_before(tiny_neox())


@pytest.mark.parametrize("parts", [((0, 4), (4, 5), (5, 9)), [(i, i + 1) for i in range(9)]], ids=["parts", "tokens"])
def test_read_part_by_part_the_logits_are_those_of_one_pass(parts):
    model, cache = tiny_neox(), KVCache(9)
    ids = some_ids(model.config)
    with no_grad():
        found = [model(ids[:, i:j], past_key_values=cache).logits.data for i, j in parts]
    assert relative(np.concatenate(found, axis=1), model(ids).logits.data) < 2e-6


@pytest.mark.parity
@pytest.mark.parametrize("name", ["usual", "one after the other", "dynamic"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_text_is_continued_as_by_transformers(name, use_cache):
    import torch

    model = tiny_neox(**CONFIGS[name])
    ids, mask = some_ids(model.config, time=5), np.array([[1] * 5, [0, 0, 1, 1, 1]])
    options = {"max_new_tokens": 7, "do_sample": False, "use_cache": use_cache}
    given = {"attention_mask": torch.tensor(mask), "pad_token_id": 0}
    expected = hugging_face_twin(model).generate(torch.tensor(ids), **given, **options)
    np.testing.assert_array_equal(model.generate(ids, attention_mask=mask, **options), expected.numpy())


def test_checkpointed_and_in_shards_gradients_are_the_same(monkeypatch):
    model = tiny_neox()
    ids = some_ids(model.config, batch=4)
    _, expected = loss_and_gradients(model, ids, some_labels(ids))
    model.gradient_checkpointing_enable()
    _, found = loss_and_gradients(model, ids, some_labels(ids))
    model.gradient_checkpointing_disable()
    monkeypatch.setattr(threads, "LEAST_TOKENS", 1)
    with threads.limit_threads(2):
        _, sharded = loss_and_gradients(model, ids, some_labels(ids))
    for name, gradient in expected.items():
        assert relative(found[name], gradient) < 1e-6, name
        assert relative(sharded[name], gradient) < 2e-6, name


def test_dropout_falls_on_embeddings_attention_and_what_is_added():
    model = tiny_neox(hidden_dropout=0.5)
    evaluated = logits_of(model)
    assert relative(logits_of(model.train()), evaluated) > 1e-2
    assert relative(logits_of(model.eval()), evaluated) == 0
    assert relative(logits_of(tiny_neox(attention_dropout=0.5).train()), evaluated) > 1e-3


class TestFiles:
    @pytest.mark.parity
    @each_config
    def test_transformers_loads_what_is_saved(self, changes, tmp_path):
        assert_loads_in_transformers(tiny_neox(**changes), tmp_path)

    @pytest.mark.parity
    @each_config
    def test_what_transformers_saves_is_loaded(self, changes, tmp_path):
        model = tiny_neox(**changes)
        hugging_face_twin(model).save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(loaded) is GPTNeoXForCausalLM
        assert relative(logits_of(loaded), logits_of(model)) < 1e-6

    @pytest.mark.parity
    def test_tensors_have_the_names_that_transformers_gives_them(self, tmp_path):
        model = tiny_neox()
        model.save_pretrained(tmp_path / "ours")
        hugging_face_twin(model).save_pretrained(tmp_path / "theirs")
        ours, theirs = (read_safetensors(tmp_path / who / "model.safetensors")[0] for who in ("ours", "theirs"))
        assert "embed_out.weight" in ours
        assert {name: array.shape for name, array in ours.items()} == {n: array.shape for n, array in theirs.items()}

    @pytest.mark.parametrize("head", ["embed_out.weight", "lm_head.weight", None])
    def test_files_of_all_ages_are_loaded(self, head, tmp_path):
        """With masks and frequencies beside the weights; with either name of the head; the transformer alone."""
        model = tiny_neox(tie_word_embeddings=head is None)
        model.save_pretrained(tmp_path)
        arrays, _ = read_safetensors(tmp_path / "model.safetensors")
        if head:
            arrays[head] = arrays.pop("embed_out.weight")
        arrays = {name if head else name.removeprefix("gpt_neox."): array for name, array in arrays.items()}
        if not head:
            arrays.pop("embed_out.weight", None)
        for layer in range(2):
            place = f"{'gpt_neox.' if head else ''}layers.{layer}.attention"
            arrays |= {f"{place}.bias": np.ones((1, 1, 12, 12), bool), f"{place}.masked_bias": np.array(-1e9)}
            arrays[f"{place}.rotary_emb.inv_freq"] = np.ones(1, np.float32)
        write_safetensors(tmp_path / "model.safetensors", arrays)
        np.testing.assert_array_equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path)), logits_of(model))

    def test_a_missing_head_is_named(self, tmp_path):
        tiny_neox().save_pretrained(tmp_path)
        arrays, _ = read_safetensors(tmp_path / "model.safetensors")
        arrays.pop("embed_out.weight")
        write_safetensors(tmp_path / "model.safetensors", arrays)
        with pytest.raises(ValueError, match=r"model\.safetensors.*lm_head\.weight|lm_head\.weight"):
            AutoModelForCausalLM.from_pretrained(tmp_path)


OLDER = {
    "nothing": {},
    "older": {"rotary_pct": 0.5, "rotary_emb_base": 500},
    "newer": {"rope_parameters": {"rope_type": "default", "rope_theta": 700.0, PART: 0.75}},
    "both": {"rotary_pct": 0.5, "rotary_emb_base": 500, "rope_parameters": {"rope_theta": 700.0, PART: 0.75}},
    "older, stretched": {"rotary_pct": 0.5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rotary_emb_base": 500, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "other models' names": {"rope_theta": 123.0, PART: 0.5},
}


@pytest.mark.parity
@pytest.mark.parametrize("given", OLDER.values(), ids=OLDER)
def test_configs_of_all_ages_turn_as_in_transformers(given, tmp_path):
    import transformers
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding

    fields = {"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 2, **given}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    expected = GPTNeoXRotaryEmbedding(transformers.AutoConfig.from_pretrained(tmp_path)).inv_freq.numpy()
    config = GPTNeoXConfig.from_dict(fields)
    model = GPTNeoXForCausalLM(GPTNeoXConfig.from_dict({**config.to_dict(), "vocab_size": 3, "num_hidden_layers": 1}))
    np.testing.assert_allclose(model.gpt_neox.rotary_emb.frequencies, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 15}, "hidden_size = 15 cannot be shared equally by 2 heads"),
        ({"hidden_size": 10, "rotary_pct": 1.0}, "a head of 5 cannot turn as a whole"),
        ({"hidden_size": 2**30}, "a head of 536870912 channels is too wide"),
        ({"rotary_pct": "1"}, f"{PART}, .* must be from 0 to 1, got '1'"),
        ({"rotary_emb_base": -1}, "needs a positive number rope_theta, got -1"),
        ({"hidden_act": "prelu"}, "hidden_act 'prelu' is not known"),
        ({"use_parallel_residual": 1}, "use_parallel_residual must be true or false, got 1"),
        ({"layer_norm_eps": "1e-5"}, "layer_norm_eps must be a number from 0 to 1, got '1e-5'"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_neox(**changes)


@pytest.mark.parity
def test_the_defaults_are_transformers():
    import transformers

    ours, theirs = GPTNeoXConfig().to_dict(), transformers.GPTNeoXConfig().to_dict()
    assert {name for name, value in ours.items() if theirs[name] != value} <= {"architectures"}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("targets", [["query_key_value"], "all-linear", ["dense", "embed_in"]], ids=str)
class TestLora:
    def config(self, targets):
        return LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, target_modules=targets)

    def test_names_logits_loss_and_gradients_are_pefts(self, targets):
        assert_equal_to_peft(self.config(targets), tiny_neox())

    def test_files_are_exchanged_with_peft(self, targets, tmp_path):
        assert_exchanged_with_peft(self.config(targets), tiny_neox(), tmp_path)


PARTS = [["query_key_value.q"], ["query_key_value.q", "query_key_value.v"], ["query_key_value.k", "dense"]]


class TestParts:
    """q, k or v alone, though each head has all three."""

    def adapted(self, targets, model=None):
        config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, target_modules=targets)
        return perturbed(get_peft_model(model or tiny_neox(), config))

    @pytest.mark.parametrize("part", "qkv")
    def test_it_changes_the_rows_of_that_part_of_each_head(self, part):
        layer = self.adapted([f"query_key_value.{part}"]).get_base_model().gpt_neox.layers[0].attention.query_key_value
        x = np.random.default_rng(3).standard_normal((5, 16)).astype(np.float32)
        change = (layer(x).data - layer.base_layer(x).data).reshape(5, 2, 3, 8)  # (N, H, 3, D)
        chosen = "qkv".index(part)
        assert (change[:, :, chosen] != 0).all()
        np.testing.assert_array_equal(np.delete(change, chosen, axis=2), 0)

    @pytest.mark.parametrize("targets", PARTS, ids=str)
    def test_it_merges(self, targets):
        assert_merges(self.adapted(targets), 2e-6)

    @pytest.mark.parity
    @pytest.mark.parametrize("targets", PARTS, ids=str)
    def test_a_saved_adapter_loads_here_and_in_peft(self, targets, tmp_path):
        model = self.adapted(targets)
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(tiny_neox(), tmp_path)
        assert relative(logits_of(again), logits_of(model)) < 1e-6
        assert relative(logits_of(load_in_peft(tiny_neox(), tmp_path), some_ids(model.config)), logits_of(model)) < 2e-5

    def test_gradients_are_those_of_the_whole(self, tmp_path):
        model = self.adapted(["query_key_value.q", "query_key_value.v"])
        model.save_pretrained(tmp_path)
        whole = PeftModel.from_pretrained(tiny_neox(), tmp_path, is_trainable=True)
        found, expected = gradients(model), gradients(whole)
        for name, gradient in found.items():
            if "lora_A" in name:
                assert relative(gradient, expected[name]) < 2e-6, name
                continue
            rows = expected[name].reshape(2, 3, 8, 6).swapaxes(0, 1).reshape(3, 16, 6)  # (3, H·D, 2r)
            blocks = [rows[0, :, :3], rows[2, :, 3:]]
            assert relative(gradient, np.concatenate(blocks)) < 2e-6, name


@pytest.mark.parity
def test_what_is_adapted_unless_told_is_pefts_choice():
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOICE

    model = tiny_neox()
    assert find_targets(model) == find_targets(model, CHOICE["gpt_neox"])


class TestCosts:
    @pytest.mark.parity
    @each_config
    def test_parameters_are_counted_as_transformers_counts_them(self, changes, capsys, tmp_path):
        model = tiny_neox(**changes)
        expected = hugging_face_twin(model).num_parameters()
        assert model_size(model.config.to_dict()) == expected
        (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
        assert main(["params", "--base", str(tmp_path / "config.json")]) == 0
        assert f"{expected:,}" in capsys.readouterr().out

    def test_a_step_takes_what_it_takes(self):
        config = tiny_neox().config.to_dict()
        assert estimate_step_memory(config, r=2, batch=2, length=8)["total"] > 0
        assert flops(config, r=2, length=8)["total"] > 0
