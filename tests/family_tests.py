"""What is tested alike of IA3, FourierFT, OFT and HRA: one class, from which the tests of each kind are derived."""

import copy
import dataclasses
import inspect
import json
import warnings

import numpy as np
import pytest
from lora_helpers import (
    assert_merges,
    gradients,
    hugging_face_twin,
    logits_of,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import AdamW, PeftModel, Tensor, get_peft_model, lora, manual_seed, nn
from lora_np.autograd.gradcheck import gradcheck
from lora_np.lora.layer import LoraLinear
from lora_np.storage import read_safetensors

MODELS = {"gpt2": tiny_model, "llama": tiny_llama}
BASES = list(MODELS)
LAYERS = {"linear": lambda: nn.Linear(6, 4), "conv1d": lambda: nn.Conv1D(4, 6)}


class FamilyTests:
    """Derive from it, and say what the kind is.

    name      of the class of its configurations, here and in PEFT
    targets   {"gpt2" or "llama": target_modules}
    options   settings with which it is tested, small enough for tiny models
    variants  further settings, each tried beside PEFT
    in_peft   which of the models PEFT can adapt
    exact     the float64 tolerance beside PEFT; None where PEFT computes in float32
    starts    how near to the base model it starts, relatively; None where it does not
    fewer     settings for a layer of 6 inputs and 4 outputs
    """

    targets = {"gpt2": ["c_attn", "mlp.c_proj"], "llama": ["q_proj", "down_proj"]}
    options, variants, fewer = {}, [], {}
    in_peft = BASES
    exact = 1e-10
    starts = 0.0

    def config(self, base="gpt2", **options):
        kind = getattr(lora, self.name)
        options = {"target_modules": self.targets[base], **self.options, **options}
        if "fan_in_fan_out" in kind.__dataclass_fields__:
            options.setdefault("fan_in_fan_out", base == "gpt2")
        return kind(**options)

    def model(self, base="gpt2", dtype=np.float32, **options):
        """A model with an adapter whose tensors have moved away from where they began."""
        return perturbed(get_peft_model(MODELS[base]().to(dtype=dtype), self.config(base, **options)), scale=0.3)

    def layer(self, kind, **options):
        """One adapted layer in float64, its adapter moved, and that adapter's one Parameter."""
        layer = LoraLinear(LAYERS[kind]().to(dtype=np.float64))
        layer.add_adapter("a", self.config("gpt2" if kind == "conv1d" else "llama", **{**self.fewer, **options}))
        layer.active_adapters = ["a"]
        (p,) = perturbed(layer.adapters["a"], scale=0.3).parameters()
        return layer, p

    @pytest.mark.parametrize("base", BASES)
    def test_training_starts_at_the_base_model(self, base):
        model = get_peft_model(MODELS[base](), self.config(base, **self.at_rest))
        assert relative(logits_of(model), logits_of(MODELS[base]())) <= self.starts
        assert relative(logits_of(self.model(base)), logits_of(MODELS[base]())) > 1e-2

    at_rest = {}

    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
    @pytest.mark.parametrize("base", BASES)
    def test_merging(self, base, dtype, tolerance):
        assert_merges(self.model(base, dtype), tolerance)

    def test_what_is_merged_is_the_weight_and_its_change(self):
        layer, _ = self.layer("conv1d")
        weight = layer.base_layer.weight.data
        merged = layer.merged_parameters()[0]
        np.testing.assert_allclose(weight + layer.get_delta_weight("a"), merged, rtol=0, atol=1e-12)
        x = np.eye(6)
        found = layer.adapters["a"].update(layer.base_layer, Tensor(x), layer.base_layer(Tensor(x))).data
        np.testing.assert_allclose(found, layer(Tensor(x)).data - layer.base_layer(Tensor(x)).data, atol=1e-12)

    @pytest.mark.parametrize("base", BASES)
    def test_an_adapter_comes_back_bit_for_bit(self, base, tmp_path):
        model = self.model(base)
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(MODELS[base](), tmp_path, is_trainable=True)
        assert snapshot(loaded) == snapshot(model)
        np.testing.assert_array_equal(logits_of(loaded), logits_of(model))

    @pytest.mark.parametrize("kind", LAYERS)
    def test_the_gradients_are_those_of_finite_differences(self, kind):
        rng = np.random.default_rng(0)
        for options in ({}, *(self.variants if kind == "linear" else ())):
            layer, p = self.layer(kind, **options)
            p.requires_grad = True
            x = Tensor(rng.standard_normal((2, 3, 6)), requires_grad=True)
            gradcheck(lambda p, x, layer=layer: layer(x), [p, x])

    def test_the_loss_falls(self):
        model = get_peft_model(tiny_model(), self.config(**self.at_rest)).train()
        ids = some_ids(model.config)
        optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=0.03)
        losses = []
        for _ in range(12):
            loss = model(ids, labels=ids).loss
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[-1] < losses[0] - 0.3

    def test_two_of_them_switched_off_and_deleted(self):
        model = self.model()
        model.add_adapter("b", self.config())
        model.set_adapter(["default", "b"])
        perturbed(model)
        both = logits_of(model)
        model.merge_adapter()
        assert relative(logits_of(model), both) < 1e-5
        model.unmerge_adapter()
        with model.disable_adapter():
            np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
        model.delete_adapter("default")
        assert relative(logits_of(model), both) > 1e-3
        model.delete_adapter("b")
        np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))

    def test_recomputed_in_the_backward_pass(self):
        for options in ({}, *self.variants, *self.untestable_by_differences):
            model, found = self.model(**options).train(), []
            for _ in range(2):
                manual_seed(1)
                found.append(gradients(model))
                model.gradient_checkpointing_enable()
            assert set(found[0]) == set(found[1])
            for name, gradient in found[0].items():
                assert relative(found[1][name], gradient) < 1e-5, name

    untestable_by_differences = []

    def test_on_a_base_in_four_bits(self):
        base = tiny_llama(hidden_size=64, intermediate_size=64)
        nn.quantize_model(base)
        plain = logits_of(base)
        model = perturbed(get_peft_model(base, self.config("llama")), scale=0.3)
        assert relative(logits_of(model), plain) > 1e-3
        assert all((gradient != 0).any() for gradient in gradients(model).values())
        before = logits_of(model)
        with pytest.warns(UserWarning, match="merging into 4 bits rounds"):
            model.merge_adapter()
        model.unmerge_adapter()
        np.testing.assert_array_equal(logits_of(model), before)

    def test_a_copy_is_one_of_its_own(self):
        model = self.model()
        twin = copy.deepcopy(model)
        expected = logits_of(model)
        perturbed(model.requires_grad_(True))
        np.testing.assert_array_equal(logits_of(twin), expected)
        layer = twin.base_model.layers()[0][1]
        merged = layer.merged_parameters()[0] - layer.base_layer.weight.data
        np.testing.assert_allclose(layer.get_delta_weight("default"), merged, atol=1e-5)

    def test_beside_a_base_in_16_bits(self):
        model = self.model(dtype=np.float16)
        assert all(p.dtype == np.float32 for p in model.parameters() if p.requires_grad)
        assert model(some_ids(model.config)).logits.dtype == np.float16

    def test_layers_that_it_does_not_take(self):
        embedding = [] if self.embeds else [("wte", "wte is an Embedding")]
        for name, message in (*embedding, ("c_attn.q", "adapts whole layers")):
            config = self.config(target_modules=[name], **self.without_names)
            assert message in refusal(ValueError, lambda config=config: get_peft_model(tiny_model(), config))

    without_names = {}
    embeds = False  # does it take embeddings?

    @pytest.mark.parity
    def test_the_settings_are_pefts(self):
        import peft

        ours, theirs = getattr(lora, self.name), getattr(peft, self.name)
        assert [f.name for f in dataclasses.fields(ours)] == [f.name for f in dataclasses.fields(theirs)]
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
        ours, theirs = ours().to_dict(), theirs().to_dict()
        ours["peft_version"] = theirs["peft_version"]
        assert ours == theirs

    def twin(self, ours, base, folder):
        """PEFT's model that has read our files."""
        import peft

        ours.save_pretrained(folder)
        plain = hugging_face_twin(MODELS[base]().to(dtype=next(ours.parameters()).dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # PEFT warns about missing keys and unknown fields
            return peft.PeftModel.from_pretrained(plain, folder, is_trainable=True).eval()

    @pytest.mark.parity
    def test_logits_and_gradients_of_our_files_in_peft(self, tmp_path):
        for base in self.in_peft:
            for options in ({}, *self.variants):
                ours = self.model(base, **options).eval()
                self.compare(ours, self.twin(ours, base, tmp_path), 2e-5)
            if self.exact:
                ours = self.model(base, np.float64).eval()
                self.compare(ours, self.twin(ours, base, tmp_path), self.exact)

    def compare(self, ours, theirs, tolerance):
        """Logits, and gradients from a random one of the logits (Transformers' loss is in float32)."""
        import torch

        ids = some_ids(ours.config)
        logits, expected = ours(ids).logits, theirs(input_ids=torch.tensor(ids)).logits
        assert relative(logits.data, expected.detach()) < tolerance
        dlogits = np.random.default_rng(5).standard_normal(logits.shape).astype(logits.dtype)
        logits.backward(dlogits)
        expected.backward(torch.tensor(dlogits))
        expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
        found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
        assert set(found) == set(expected)
        for name, gradient in found.items():
            assert relative(gradient, expected[name]) < tolerance, name
        assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()

    @pytest.mark.parity
    def test_files_of_peft_here(self, tmp_path):
        import peft
        import torch

        for base in self.in_peft:
            torch.manual_seed(3)
            fields = {**self.config(base).to_dict(), "peft_version": None}
            config = getattr(peft, self.name)(**fields)
            theirs = peft.get_peft_model(hugging_face_twin(MODELS[base]()), config).eval()
            with torch.no_grad():
                for p in theirs.parameters():
                    p += 0.3 * torch.randn_like(p) if p.requires_grad else 0
            theirs.save_pretrained(tmp_path / "theirs")
            ours = PeftModel.from_pretrained(MODELS[base](), tmp_path / "theirs", is_trainable=True)
            ids = torch.tensor(some_ids(ours.config))
            assert relative(logits_of(ours), theirs(ids).logits.detach()) < 2e-5
            ours.save_pretrained(tmp_path / "ours")
            files = [read_safetensors(tmp_path / who / "adapter_model.safetensors")[0] for who in ("ours", "theirs")]
            assert set(files[0]) == set(files[1])
            for name, array in files[0].items():
                np.testing.assert_array_equal(array, files[1][name])
            configs = [json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs")]
            assert not set(configs[0]) - set(configs[1])

    @pytest.mark.parity
    def test_two_at_once_as_in_peft(self, tmp_path):
        import torch

        base = self.in_peft[-1]
        ours = self.model(base).eval()
        ours.add_adapter("b", self.config(base))
        ours.set_adapter(["default", "b"])
        perturbed(ours, scale=0.3)
        theirs = self.twin(ours, base, tmp_path)
        theirs.load_adapter(tmp_path / "b", "b")
        theirs.base_model.set_adapter(["default", "b"])
        ids = torch.tensor(some_ids(ours.config))
        assert relative(logits_of(ours), theirs(ids).logits.detach()) < 2e-5
