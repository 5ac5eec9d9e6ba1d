"""VeRA: two trained vectors in each layer, beside frozen matrices that all layers share."""

import json

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

import lora_np
from lora_np import LoraConfig, PeftModel, get_peft_model, nn
from lora_np.lora import VeraConfig
from lora_np.storage import read_safetensors, write_safetensors

BASES = {"gpt2": (tiny_model, ["c_attn", "mlp.c_proj"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}
each_base = pytest.mark.parametrize("base", BASES)


def vera_config(base="gpt2", **options):
    return VeraConfig(target_modules=BASES[base][1], fan_in_fan_out=base == "gpt2", **{"r": 5, **options})


def vera(base="gpt2", **options):
    """A model with a VeRA adapter whose vectors have moved away from where they began."""
    return perturbed(get_peft_model(BASES[base][0](), vera_config(base, **options)), scale=0.5)


def test_training_starts_at_the_base_model_bit_for_bit():
    model = get_peft_model(tiny_model(), vera_config())
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    assert relative(logits_of(vera()), logits_of(tiny_model())) > 1e-2


def test_two_vectors_a_layer_are_trained_and_nothing_else():
    model = get_peft_model(tiny_model(), vera_config())
    assert model.get_nb_trainable_parameters()[0] == 2 * (5 + 48 + 5 + 16)
    assert set(gradients(vera())) == {
        f"base_model.model.transformer.h.{i}.{layer}.vera_lambda_{vector}.default"
        for i in (0, 1)
        for layer in ("attn.c_attn", "mlp.c_proj")
        for vector in "db"
    }


def test_all_layers_share_one_pair_of_matrices_made_from_the_key():
    model, again, other = vera(), vera(), vera(projection_prng_key=1)
    layers = [layer.adapters["default"] for _, layer in model.base_model.layers()]
    assert all(layer.shared_matrices is layers[0].shared_matrices for layer in layers)
    shared = {name: buffer.data for name, buffer in model.named_buffers()}
    assert {name: array.shape for name, array in shared.items()} == {
        "base_model.vera_A.default": (5, 64),
        "base_model.vera_B.default": (48, 5),
    }
    for name, buffer in again.named_buffers():
        np.testing.assert_array_equal(buffer.data, shared[name])
    for name, buffer in other.named_buffers():
        assert (buffer.data != shared[name]).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging(base, dtype, tolerance):
    make, _ = BASES[base]
    model = perturbed(get_peft_model(make().to(dtype=dtype), vera_config(base)), scale=0.5)
    assert_merges(model, tolerance)


@each_base
def test_an_adapter_comes_back_bit_for_bit(base, tmp_path):
    model = vera(base, projection_prng_key=7)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(BASES[base][0](), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


class Wrapped(nn.Module):
    """A model with a child whose name is one that PEFT's prefix has, and one of its parts."""

    def __init__(self):
        self.base_model = tiny_model()

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)


def test_a_model_with_a_child_called_base_model(tmp_path):
    model = perturbed(get_peft_model(Wrapped(), vera_config()))
    model.save_pretrained(tmp_path)
    ids = some_ids(tiny_model().config)
    assert np.array_equal(PeftModel.from_pretrained(Wrapped(), tmp_path)(ids).logits.data, model(ids).logits.data)


def test_renaming_deleting_and_switching_off():
    model = vera()
    expected = logits_of(model)
    model.rename_adapter("default", "other")
    assert [name for name, _ in model.named_buffers()] == ["base_model.vera_A.other", "base_model.vera_B.other"]
    np.testing.assert_array_equal(logits_of(model), expected)
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    model.delete_adapter("other")
    assert not list(model.named_buffers())
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: vera_config(save_projection=False), "save_projection=False"),
        (lambda: vera_config(r=0), "r must be an integer"),
        (lambda: vera_config(vera_dropout=1.0), r"vera_dropout must be in [0, 1)"),
        (lambda: vera_config(bias="lora_only"), "'vera_only'"),
        (lambda: get_peft_model(tiny_model(), VeraConfig(r=2, target_modules=["wte"])), "wte is an Embedding"),
        (lambda: get_peft_model(tiny_model(), VeraConfig(r=2, target_modules=["c_attn.q"])), "adapts whole layers"),
        (lambda: vera().add_adapter("b", LoraConfig(target_modules=["c_attn"])), "adapters of one kind"),
        (lambda: vera().set_scale("default", 2), "no scaling"),
        (lambda: vera().add_weighted_adapter(["default"], [1.0], "sum"), "only plain LoRA"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


@pytest.mark.parity
@each_base
class TestAgainstPeft:
    def twins(self, base, tmp_path, **options):
        """Our model, and PEFT's that read our files."""
        import peft

        ours = vera(base, **options).eval()
        ours.save_pretrained(tmp_path)
        theirs = peft.PeftModel.from_pretrained(hugging_face_twin(BASES[base][0]()), tmp_path, is_trainable=True)
        return ours, theirs.eval()

    def test_logits_and_gradients_of_our_files_there(self, base, tmp_path):
        import torch

        ours, theirs = self.twins(base, tmp_path)
        ids = some_ids(ours.config)
        out = theirs(input_ids=torch.tensor(ids), labels=torch.tensor(ids))
        out.loss.backward()
        assert relative(logits_of(ours), out.logits.detach()) < 2e-5
        expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
        found = gradients(ours)
        assert set(found) == set(expected)
        for name, gradient in found.items():
            assert relative(gradient, expected[name]) < 2e-5, name

    def test_their_files_here(self, base, tmp_path):
        import peft
        import torch

        torch.manual_seed(3)
        make, targets = BASES[base]
        config = peft.VeraConfig(r=5, target_modules=targets, fan_in_fan_out=base == "gpt2", init_weights=False)
        theirs = peft.get_peft_model(hugging_face_twin(make()), config).eval()
        theirs.save_pretrained(tmp_path)
        ours = PeftModel.from_pretrained(make(), tmp_path)
        ids = torch.tensor(some_ids(ours.config))
        assert relative(logits_of(ours), theirs(ids).logits.detach()) < 2e-5

    def test_the_files_have_one_layout(self, base, tmp_path):
        _, theirs = self.twins(base, tmp_path / "ours")
        theirs.save_pretrained(tmp_path / "theirs")
        layouts = [
            {
                name: array.shape
                for name, array in read_safetensors(tmp_path / who / "adapter_model.safetensors")[0].items()
            }
            for who in ("ours", "theirs")
        ]
        assert layouts[0] == layouts[1]
        config, expected = (json.loads((tmp_path / w / "adapter_config.json").read_text()) for w in ("ours", "theirs"))
        assert not set(config) - set(expected)
        assert config["peft_type"] == expected["peft_type"] == "VERA"


WIDER = {  # how many more there are of each dimension: a second adapter of PEFT has the first one's matrices
    "VeraConfig": {"vera_A": (0, 3), "vera_B": (5, 0)},
    "RandLoraConfig": {"randlora_A": (0, 0, 3), "randlora_B": (5, 2, 0)},
}
each_kind = pytest.mark.parametrize("kind", WIDER)


@each_kind
def test_of_larger_matrices_the_part_that_is_used_is_read(kind, tmp_path):
    config = getattr(lora_np.lora, kind)(r=4, target_modules=["q_proj"])
    model = perturbed(get_peft_model(tiny_llama(), config))
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    arrays = read_safetensors(path)[0]
    for name, more in WIDER[kind].items():
        array = arrays[f"base_model.{name}"]
        arrays[f"base_model.{name}"] = np.pad(array, [(0, n) for n in more], constant_values=9)
    write_safetensors(path, arrays)
    np.testing.assert_array_equal(logits_of(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits_of(model))
    for name in WIDER[kind]:
        smaller = arrays | {f"base_model.{name}": arrays[f"base_model.{name}"][:2]}
        write_safetensors(path, smaller)
        base = tiny_llama()
        before = snapshot(base)
        assert f"{name} has shape" in refusal(ValueError, lambda b=base: PeftModel.from_pretrained(b, tmp_path))
        assert snapshot(base) == before


@pytest.mark.parity
@each_kind
def test_a_second_adapter_of_peft_is_read(kind, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    of = getattr(peft, kind)
    theirs = peft.get_peft_model(hugging_face_twin(tiny_llama()), of(r=4, target_modules=["q_proj", "down_proj"]))
    theirs.add_adapter("second", of(r=4, target_modules=["q_proj"]))
    for name, p in theirs.named_parameters():
        if "lambda" in name or "gamma" in name:
            p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)))
    theirs.save_pretrained(tmp_path)
    ours = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    ours.load_adapter(tmp_path / "second", "second")
    for name in ("default", "second"):
        theirs.set_adapter(name)
        ours.set_adapter(name)
        expected = theirs.eval()(input_ids=torch.tensor(some_ids(ours.config))).logits.detach()
        assert relative(logits_of(ours), expected) < 2e-5
