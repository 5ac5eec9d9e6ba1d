"""The tests that every relative of Llama passes: a class to derive from, with the configs that are to be tried."""

import json

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    hugging_face_twin,
    logits_of,
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

from lora_np import AutoModelForCausalLM, KVCache, LoraConfig, no_grad
from lora_np.autograd import threads
from lora_np.cli import main
from lora_np.costs import count, estimate_step_memory, flops, memory, weight_shapes
from lora_np.models.architectures import ARCHITECTURES

SMALL = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 12}
SMALL |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
SLIDING, FULL = "sliding_attention", "full_attention"
WINDOWS = {
    "windows from layer 1": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "windows everywhere": {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 0},
    "windows nowhere": {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 3},
    "windows not used": {"use_sliding_window": False, "sliding_window": 2, "max_window_layers": 0},
    "layer_types": {"use_sliding_window": True, "sliding_window": 4, "layer_types": [SLIDING, FULL, SLIDING]},
}
PARTS = [(4, 5), (1, 1, 1, 1, 1, 1, 1, 1, 1), (5, 1, 1, 2), (3, 3, 3)]  # lengths that a text of 9 is read in


def tiny_relative(kind, seed=0, norms_around=1.0, **changes):
    """A tiny model with random weights, in evaluation mode. norms_around: what the weights of norms lie around."""
    config_class, model_class = ARCHITECTURES[kind]
    model = randomize(model_class(config_class(**{**SMALL, **changes})), seed).eval()
    for name, p in model.named_parameters():
        if name.endswith("norm.weight"):
            p.data += np.float32(norms_around - 1)
    return model


class RelativeOfLlama:
    """kind: its model_type. configs: {name: fields that differ from SMALL}. targets: what its adapters are tried on."""

    kind = ""
    configs = {"usual": {}}
    targets = (None, "all-linear")
    slopes = "usual"  # the name of the config whose gradients are compared with finite differences
    norms_around = 1.0  # what the random weights of norms lie around: Gemma stores them less 1

    def pytest_generate_tests(self, metafunc):
        if "changes" in metafunc.fixturenames:
            metafunc.parametrize("changes", self.configs.values(), ids=self.configs.keys())
        if "targets" in metafunc.fixturenames:
            metafunc.parametrize("targets", self.targets, ids=str)

    def tiny(self, seed=0, **changes):
        """A tiny model with random weights, in evaluation mode."""
        return tiny_relative(self.kind, seed, self.norms_around, **changes)

    @pytest.mark.parity
    @pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
    def test_logits_loss_and_every_gradient_are_transformers(self, changes, dtype):
        assert_is_transformers(self.tiny(**changes).to(dtype=dtype))

    @pytest.mark.parity
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_so_they_are_with_padding(self, changes, side):
        """Compared where there is no padding: what stands there is nobody's concern."""
        import torch

        model = self.tiny(**changes)
        mask, positions = padded(side)
        ids = some_ids(model.config, batch=3)
        labels = np.where(mask == 1, ids, -100)
        labels[np.arange(3), mask.argmax(1)] = -100  # the first token is no padding's continuation
        twin = hugging_face_twin(model)
        inputs = {"attention_mask": mask, "position_ids": positions}
        tensors = {name: torch.tensor(array) for name, array in inputs.items()}
        expected = twin(input_ids=torch.tensor(ids), labels=torch.tensor(labels), **tensors)
        expected.loss.backward()
        loss, gradients = loss_and_gradients(model, ids, labels, **inputs)
        assert relative(loss, expected.loss.item()) < 2e-5
        logits = model(ids, **inputs).logits.data
        assert relative(logits[mask == 1], expected.logits.detach().numpy()[mask == 1]) < 2e-5
        for name, p in twin.named_parameters():
            assert relative(gradients[name], p.grad.numpy()) < 2e-5, name

    def test_gradients_are_those_of_finite_differences(self):
        """In one config: it takes seconds, and needs no other library."""
        assert_gradients_are_slopes(self.tiny(**self.configs[self.slopes]))

    def test_a_position_sees_only_what_stands_before(self, changes):
        assert_a_position_sees_only_what_stands_before(self.tiny(**changes))

    @pytest.mark.parametrize("parts", PARTS, ids=str)
    def test_read_part_by_part_the_logits_are_those_of_one_pass(self, changes, parts):
        model = self.tiny(**changes)
        ids = some_ids(model.config)
        for padding in (False, True):
            mask, positions = padded("left", (9, 5)) if padding else (None, None)
            found, cache, start = [], KVCache(9), 0
            for length in parts:
                end = start + length
                options = (
                    {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
                    if mask is not None
                    else {}
                )
                with no_grad():
                    found.append(model(ids[:, start:end], past_key_values=cache, **options).logits.data)
                start = end
            expected = model(ids, attention_mask=mask, position_ids=positions).logits.data
            rows = mask == 1 if padding else np.ones(ids.shape, bool)
            assert relative(np.concatenate(found, axis=1)[rows], expected[rows]) < 2e-6

    @pytest.mark.parity
    def test_text_is_continued_as_by_transformers(self, changes):
        import torch

        model = self.tiny(**changes)
        twin, ids = hugging_face_twin(model), some_ids(model.config, time=6)
        mask = np.array([[1] * 6, [0, 0, 1, 1, 1, 1]])
        options = {"max_new_tokens": 6, "do_sample": False}
        theirs = twin.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), pad_token_id=0, **options)
        for use_cache in (True, False):
            ours = model.generate(ids, attention_mask=mask, use_cache=use_cache, **options)
            np.testing.assert_array_equal(ours, theirs.numpy())

    def test_checkpointed_and_in_shards_gradients_are_the_same(self, changes, monkeypatch):
        model = self.tiny(**changes).to(dtype=np.float64)
        ids = some_ids(model.config, batch=4)
        _, expected = loss_and_gradients(model, ids, some_labels(ids))
        model.gradient_checkpointing_enable()
        _, found = loss_and_gradients(model, ids, some_labels(ids))
        model.gradient_checkpointing_disable()
        monkeypatch.setattr(threads, "LEAST_TOKENS", 1)
        with threads.limit_threads(2):
            _, sharded = loss_and_gradients(model, ids, some_labels(ids))
        for name, gradient in expected.items():
            assert relative(found[name], gradient) < 1e-10, name
            assert relative(sharded[name], gradient) < 1e-10, name

    @pytest.mark.parity
    def test_transformers_loads_what_is_saved(self, changes, tmp_path):
        assert_loads_in_transformers(self.tiny(**changes), tmp_path)

    @pytest.mark.parity
    def test_what_transformers_saves_is_loaded(self, changes, tmp_path):
        model = self.tiny(**changes)
        hugging_face_twin(model).save_pretrained(tmp_path, max_shard_size="8KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(loaded) is type(model)
        assert relative(logits_of(loaded), logits_of(model)) < 1e-6

    @pytest.mark.parity
    def test_the_counts_are_transformers(self, changes, tmp_path, capsys):
        model = self.tiny(**changes)
        model.save_pretrained(tmp_path)
        fields = json.loads((tmp_path / "config.json").read_text())
        twin = hugging_face_twin(model)
        assert weight_shapes(fields) == {name: tuple(p.shape) for name, p in twin.named_parameters()}
        assert count(fields, 2, ["o_proj"])[1] - count(fields, 2, ["o_proj"])[0] == twin.num_parameters()
        assert main(["params", "--base", str(tmp_path / "config.json"), "--target-modules", "o_proj"]) == 0
        assert f"{twin.num_parameters():,}" in capsys.readouterr().out
        for cost in (memory, flops, estimate_step_memory):
            assert cost(fields, 2, ["o_proj"], batch=2, length=8)["total"] > 0

    @pytest.mark.parity
    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
    def test_adapters_are_pefts(self, targets, tmp_path):
        config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, target_modules=targets)
        assert_equal_to_peft(config, self.tiny())
        untied = {"tie_word_embeddings": False} if "embed_tokens" in (targets or ()) else {}  # else PEFT warns
        assert_exchanged_with_peft(config, self.tiny(**untied), tmp_path)

    @pytest.mark.gpu
    def test_the_gpu_gives_the_same_logits_loss_and_gradients(self, changes):
        model = self.tiny(**changes)
        ids = some_ids(model.config, batch=3)
        logits = model(ids).logits.numpy()
        loss, gradients = loss_and_gradients(model, ids, some_labels(ids))
        model.zero_grad()
        model.to("cuda")
        assert relative(model(ids).logits.numpy(), logits) < 1e-4
        on_gpu, gpu_gradients = loss_and_gradients(model, ids, some_labels(ids))
        assert relative(on_gpu, loss) < 1e-4
        for name, gradient in gradients.items():
            assert relative(gpu_gradients[name].get(), gradient) < 1e-4, name
