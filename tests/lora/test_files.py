"""Adapters as files: PEFT's format both ways; damaged or wrong files are refused and change nothing."""

import json
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import (
    TARGETS,
    fuzz,
    hugging_face_twin,
    load_in_peft,
    peft_model,
    peft_twin,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel
from lora_np.storage import read_safetensors, write_safetensors

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
A0 = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
B1 = "base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"
BIAS = "base_model.model.transformer.h.0.attn.c_attn.base_layer.bias"


def logits(model):
    return model(some_ids(model.config)).logits.numpy().copy()


def edit(directory, change=None, **fields):
    """Change a saved adapter: its arrays by a function, its config by fields."""
    if change:
        arrays, _ = read_safetensors(directory / WEIGHTS)
        change(arrays)
        write_safetensors(directory / WEIGHTS, arrays)
    if fields:
        config = json.loads((directory / CONFIG).read_text())
        (directory / CONFIG).write_text(json.dumps({**config, **fields}))
    return directory


@pytest.fixture
def saved(tmp_path):
    """A directory with an adapter on c_attn, r=4."""
    peft_model(["c_attn"]).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
@pytest.mark.parametrize("targets", [*TARGETS.values(), ["c_attn", "lm_head"]], ids=[*TARGETS, "lm_head"])
def test_a_saved_adapter_comes_back_bit_for_bit(tmp_path, targets, bias):
    model = peft_model(targets, bias=bias)
    rng = np.random.default_rng(4)
    for name, p in model.named_parameters():
        if name.endswith("bias") and p.requires_grad:
            p.data = rng.standard_normal(p.shape).astype(np.float32)
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "new" / "folder", is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    np.testing.assert_array_equal(logits(loaded), logits(model))


def test_what_is_in_the_files(saved):
    arrays, metadata = read_safetensors(saved / WEIGHTS)
    assert {name: array.shape for name, array in arrays.items()} == {
        f"base_model.model.transformer.h.{i}.attn.c_attn.lora_{X}.weight": (4, 16) if X == "A" else (48, 4)
        for i in (0, 1)
        for X in "AB"
    }
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert metadata == {"format": "pt"}
    fields = json.loads((saved / CONFIG).read_text())
    assert fields["peft_type"] == "LORA"
    assert (fields["r"], fields["lora_alpha"], fields["target_modules"]) == (4, 8, ["c_attn"])
    assert fields["inference_mode"] is True
    assert fields["fan_in_fan_out"] is True
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG, WEIGHTS]


def test_each_adapter_has_a_folder_of_its_own(tmp_path):
    model = peft_model(["c_attn"])
    model.add_adapter("second", LoraConfig(r=2, target_modules=["c_fc"], init_lora_weights=False))
    model.save_pretrained(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        CONFIG,
        WEIGHTS,
        f"second/{CONFIG}",
        f"second/{WEIGHTS}",
    ]
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    loaded.load_adapter(tmp_path / "second", "other_name")
    np.testing.assert_array_equal(logits(loaded), logits(model))
    loaded.set_adapter("other_name")
    model.set_adapter("second")
    np.testing.assert_array_equal(logits(loaded), logits(model))


def test_a_file_with_biases_that_is_refused_leaves_the_models_own(tmp_path):
    peft_model(["c_attn"], tiny_model(seed=1), bias="all").save_pretrained(tmp_path)
    base = tiny_model()
    expected = logits(base)
    with pytest.raises(ValueError, match="an adapter's name"):
        PeftModel.from_pretrained(base, tmp_path, adapter_name="no.name")
    np.testing.assert_array_equal(logits(base), expected)
    adapted = peft_model(["c_fc"], base)
    expected = logits(base)
    with pytest.raises(ValueError, match=r"has adapters already: .* or load_adapter\(folder, name\)"):
        PeftModel.from_pretrained(base, tmp_path)
    with pytest.raises(ValueError, match="adapters that train biases"):
        adapted.load_adapter(tmp_path, "second")
    np.testing.assert_array_equal(logits(base), expected)


def test_selected_adapters_alone_are_written(tmp_path):
    model = peft_model(["c_attn"])
    model.add_adapter("second", LoraConfig(target_modules=["c_fc"], fan_in_fan_out=True))
    model.save_pretrained(tmp_path, selected_adapters=["second"])
    assert [path.name for path in tmp_path.iterdir()] == ["second"]
    with pytest.raises(KeyError, match="no adapter 'third'"):
        model.save_pretrained(tmp_path, selected_adapters=["default", "third"])
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_a_loaded_adapter_is_frozen_unless_asked_for(saved):
    frozen = PeftModel.from_pretrained(tiny_model(), saved)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert frozen.peft_config["default"].inference_mode
    trainable = PeftModel.from_pretrained(tiny_model(), saved, is_trainable=True)
    assert all(p.requires_grad == (".lora_" in name) for name, p in trainable.named_parameters())
    assert not trainable.peft_config["default"].inference_mode


def test_loading_another_adapter_changes_nothing_about_the_first(saved):
    model = PeftModel.from_pretrained(tiny_model(), saved)
    before, expected = snapshot(model), logits(model)
    model.load_adapter(saved, "second")
    np.testing.assert_array_equal(logits(model), expected)
    after = snapshot(model)
    assert {name: after[name] for name in before} == before
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT asks Transformers for it
@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
class TestExchangeWithPeft:
    def test_pefts_directory_loads_here(self, tmp_path, targets, bias):
        import torch

        base = tiny_model()
        config = LoraConfig(
            r=3, lora_alpha=5, target_modules=targets, bias=bias, init_lora_weights=False, task_type="CAUSAL_LM"
        )
        twin = peft_twin(base, config)
        with torch.no_grad():
            for name, p in twin.named_parameters():
                if p.requires_grad and name.endswith("bias"):
                    p += 0.1
            expected = twin(torch.tensor(some_ids(base.config))).logits.numpy()
        twin.save_pretrained(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
        assert relative(logits(loaded), expected) < 2e-5
        theirs = {name: p.detach().numpy() for name, p in twin.named_parameters() if p.requires_grad}
        ours = {name: p.data for name, p in loaded.named_parameters() if p.requires_grad}
        assert set(ours) == set(theirs)
        assert all((ours[name] == theirs[name]).all() for name in ours)

    def test_our_directory_loads_in_peft(self, tmp_path, targets, bias):
        import peft
        import torch

        model = peft_model(targets, bias=bias, r=3, lora_alpha=5, task_type="CAUSAL_LM")
        for name, p in model.named_parameters():
            if p.requires_grad and name.endswith("bias"):
                p.data += np.float32(0.1)
        model.save_pretrained(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # PEFT warns about missing keys and unknown fields
            twin = peft.PeftModel.from_pretrained(hugging_face_twin(tiny_model()), tmp_path)
        assert twin.peft_config["default"].r == 3
        with torch.no_grad():
            expected = twin(torch.tensor(some_ids(model.config))).logits.numpy()
        assert relative(logits(model), expected) < 2e-5

    def test_both_write_the_same_file(self, tmp_path, targets, bias):
        """The same keys, shapes and dtypes, and a config that agrees in every field that both know."""
        config = LoraConfig(r=3, target_modules=targets, bias=bias, init_lora_weights=False, fan_in_fan_out=True)
        twin = peft_twin(tiny_model(), config)
        twin.save_pretrained(tmp_path / "theirs")
        peft_model(targets, bias=bias, r=3).save_pretrained(tmp_path / "ours")
        layouts = [
            {name: (array.shape, array.dtype) for name, array in read_safetensors(tmp_path / who / WEIGHTS)[0].items()}
            for who in ("ours", "theirs")
        ]
        assert layouts[0] == layouts[1]
        ours, theirs = (json.loads((tmp_path / who / CONFIG).read_text()) for who in ("ours", "theirs"))
        assert set(ours) <= set(theirs)
        differ = {name for name in ours if ours[name] != theirs[name]}
        assert differ <= {"target_modules", "base_model_name_or_path"}  # PEFT spells "all-linear" out
        if isinstance(targets, list):
            assert sorted(ours["target_modules"]) == sorted(theirs["target_modules"])


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:fan_in_fan_out set to")
def test_an_adapted_head_from_peft_loads_here(tmp_path):
    """Beside the adapter, PEFT stores the weight of the head itself, as `lm_head.base_layer.weight`."""
    import torch

    base = tiny_model(tie_word_embeddings=False)
    twin = peft_twin(base, LoraConfig(r=3, target_modules=["lm_head", "c_attn"], init_lora_weights=False))
    twin.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = twin(torch.tensor(some_ids(base.config))).logits.numpy()
    assert relative(logits(PeftModel.from_pretrained(base, tmp_path)), expected) < 2e-5


@pytest.mark.parametrize("name", ["lm_head", "transformer.h.0.attn.c_attn"])
def test_a_base_weight_in_the_file_must_be_the_models_own(saved, name):
    key, own = f"base_model.model.{name}.base_layer.weight", tiny_model().get_submodule(name).weight.data
    edit(saved, lambda arrays: arrays.update({key: own}))
    model = PeftModel.from_pretrained(tiny_model(), saved)
    with model.disable_adapter():
        np.testing.assert_array_equal(logits(model), logits(tiny_model()))
    for wrong in (own + 1, own[1:]):
        edit(saved, lambda arrays, wrong=wrong: arrays.update({key: wrong}))
        model = tiny_model()
        before = snapshot(model)
        message = refusal(ValueError, lambda model=model: PeftModel.from_pretrained(model, saved))
        assert f"{WEIGHTS} was trained on another base model: its {key}" in message
        assert snapshot(model) == before


def load_into_plain_model(directory):
    model = tiny_model()
    return model, lambda: PeftModel.from_pretrained(model, directory)


def load_beside_another(directory):
    model = peft_model(["c_attn", "c_fc"])
    return model, lambda: model.load_adapter(directory, "second")


def remove(name):
    return lambda directory: (directory / name).unlink()


def write(name, content):
    return lambda directory: (directory / name).write_bytes(content)


def cut(name, part):
    """Keep only this part of the file."""
    return lambda directory: (directory / name).write_bytes(
        (directory / name).read_bytes()[: int(part * (directory / name).stat().st_size)]
    )


def arrays(change):
    return lambda directory: edit(directory, change)


def fields(**changes):
    return lambda directory: edit(directory, **changes)


def zeros(*shape):
    return np.zeros(shape, np.float32)


PICKLE = b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s."

DAMAGES = {
    "no directory": (shutil.rmtree, FileNotFoundError, ["not a directory with an adapter"]),
    "no config": (remove(CONFIG), FileNotFoundError, [CONFIG, "does not exist"]),
    "no weights": (remove(WEIGHTS), FileNotFoundError, [WEIGHTS, "does not exist"]),
    "half a config": (cut(CONFIG, 0.5), ValueError, [CONFIG, "not valid JSON"]),
    "empty config": (cut(CONFIG, 0), ValueError, [CONFIG, "not valid JSON"]),
    "config is a list": (write(CONFIG, b"[1]"), ValueError, [CONFIG, "not a list"]),
    "config is no text": (write(CONFIG, b"\xff\xfe{}"), ValueError, [CONFIG, "not valid JSON"]),
    "config is a pickle": (write(CONFIG, PICKLE), ValueError, [CONFIG, "not valid JSON"]),
    "half the weights": (cut(WEIGHTS, 0.5), ValueError, [WEIGHTS, "not a readable safetensors file"]),
    "empty weights": (cut(WEIGHTS, 0), ValueError, [WEIGHTS, "not a readable safetensors file"]),
    "weights are a pickle": (write(WEIGHTS, PICKLE), ValueError, [WEIGHTS, "not a readable safetensors file"]),
    "weights are a list": (write(WEIGHTS, b"[1, 2, 3, 4]"), ValueError, [WEIGHTS]),
    "missing key": (arrays(lambda a: a.pop(A0)), ValueError, [WEIGHTS, f"missing {A0}"]),
    "unexpected key": (arrays(lambda a: a.update(x=zeros(2))), ValueError, [WEIGHTS, "unexpected x"]),
    "shape of A": (arrays(lambda a: a.update({A0: zeros(4, 17)})), ValueError, [WEIGHTS, A0, "(4, 17)", "(4, 16)"]),
    "shape of B": (arrays(lambda a: a.update({B1: zeros(4, 48)})), ValueError, [WEIGHTS, B1, "(4, 48)", "(48, 4)"]),
    "another rank": (fields(r=5), ValueError, [WEIGHTS, A0, "(4, 16) instead of (5, 16)"]),
    "another target": (fields(target_modules=["c_fc"]), ValueError, [WEIGHTS, "missing", "unexpected", "c_attn"]),
    "unknown target": (fields(target_modules=["q_proj"]), ValueError, [CONFIG, "'q_proj'", "c_proj"]),
    "unknown kind": (fields(peft_type="BOFT"), ValueError, [CONFIG, "BOFT"]),
    "unsupported": (fields(megatron_config={"a": 1}), ValueError, [CONFIG, "megatron_config = {"]),
    "rank is no number": (fields(r="4"), ValueError, [CONFIG, "'4'"]),
    "alpha is no number": (fields(lora_alpha="8"), ValueError, [CONFIG, "lora_alpha", "'8'"]),
    "alpha is null": (fields(lora_alpha=None), ValueError, [CONFIG, "lora_alpha", "None"]),
    "bias unasked for": (arrays(lambda a: a.update({BIAS: zeros(48)})), ValueError, [WEIGHTS, f"unexpected {BIAS}"]),
}


@pytest.mark.parametrize("load", [load_into_plain_model, load_beside_another])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused_with_the_files_name_and_nothing_changes(saved, damage, load):
    spoil, error, parts = DAMAGES[damage]
    spoil(saved)
    model, action = load(saved)
    before, expected = snapshot(model), logits(model)
    message = refusal(error, action)
    for part in (str(saved), *parts):
        assert part in message
    assert snapshot(model) == before
    np.testing.assert_array_equal(logits(model), expected)


BIAS_DAMAGES = {
    "bias of nothing": (lambda a: a.update({"x.bias": zeros(3)}), "unexpected x.bias"),
    "bias of another shape": (lambda a: a.update({BIAS: zeros(3)}), BIAS),
    "bias missing": (lambda a: a.pop(BIAS), f"missing {BIAS}"),
}


@pytest.mark.parametrize("damage", BIAS_DAMAGES)
def test_a_damaged_bias_is_refused_too(tmp_path, damage):
    change, part = BIAS_DAMAGES[damage]
    peft_model(["c_attn"], bias="all").save_pretrained(tmp_path)
    edit(tmp_path, change)
    model, action = load_into_plain_model(tmp_path)
    before = snapshot(model)
    message = refusal(ValueError, action)
    assert WEIGHTS in message
    assert part in message
    assert snapshot(model) == before


def test_many_problems_are_summed_up(saved):
    edit(saved, lambda a: [a.update({f"x{i}": zeros(1)}) for i in range(9)])
    with pytest.raises(ValueError, match=r"unexpected x0; .* and 4 more"):
        PeftModel.from_pretrained(tiny_model(), saved)


@pytest.mark.parametrize("name", ["a.b", "../up", "train"])
def test_a_wrong_name_changes_nothing_either(saved, name):
    model = tiny_model()
    before = snapshot(model)
    message = refusal(ValueError, lambda: PeftModel.from_pretrained(model, saved, adapter_name=name))
    assert repr(name) in message
    assert snapshot(model) == before


def test_an_adapter_that_does_nothing_is_warned_about(tmp_path):
    peft_model(["c_attn"], init_lora_weights=True).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=rf"{WEIGHTS}: B is all zero in 2 layers, so they change nothing"):
        model = PeftModel.from_pretrained(tiny_model(), tmp_path)
    np.testing.assert_array_equal(logits(model), logits(tiny_model()))


def test_the_order_of_patterns_is_kept_in_the_file(tmp_path):
    """The first match counts, so sorting the keys would give block 0 another rank."""
    model = peft_model(["c_attn"], rank_pattern={r"h\.0\.attn.c_attn": 2, "c_attn": 3})
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(logits(PeftModel.from_pretrained(tiny_model(), tmp_path)), logits(model))


@pytest.mark.parity
def test_ranks_that_peft_has_sorted_away_are_explained(tmp_path):
    """PEFT sorts the entries when it writes them, so that another one is the first; nor can it load this file."""
    base = tiny_model()
    config = LoraConfig(target_modules=["c_attn"], rank_pattern={r"h\.1\..*": 2, "c_attn": 3})
    peft_twin(base, config).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_in_peft(base, tmp_path)
    with pytest.raises(ValueError, match=r"Several entries of rank_pattern match transformer\.h\.1.*PEFT sorts them"):
        PeftModel.from_pretrained(base, tmp_path)
    edit(tmp_path, rank_pattern=config.rank_pattern)
    model = PeftModel.from_pretrained(base, tmp_path)
    assert [layer.r["default"] for _, layer in model.base_model.layers()] == [3, 2]


def test_a_doubled_rank_wins_over_a_pattern_of_the_same_name(tmp_path):
    """Saved as plain LoRA, PiSSA's rank is twice what the pattern says."""
    model = peft_model(["c_attn"], init_lora_weights="pissa", rank_pattern={r"transformer\.h\.0\.attn\.c_attn": 2})
    model.save_pretrained(tmp_path, as_plain_lora=True)
    assert relative(logits(PeftModel.from_pretrained(tiny_model(), tmp_path)), logits(model)) < 1e-5


def test_unknown_fields_are_warned_about_and_the_adapter_loads(saved):
    expected = logits(PeftModel.from_pretrained(tiny_model(), saved))
    edit(saved, from_the_future=True)
    with pytest.warns(UserWarning, match=rf"{CONFIG} has fields that are ignored: from_the_future"):
        model = PeftModel.from_pretrained(tiny_model(), saved)
    np.testing.assert_array_equal(logits(model), expected)


def very_tiny_model():
    return tiny_model(n_embd=4, n_head=1, vocab_size=5, n_positions=3)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A directory to spoil, and what its files hold when they are whole."""
    directory = tmp_path_factory.mktemp("adapter")
    peft_model(["c_attn"], very_tiny_model(), r=1).save_pretrained(directory)
    return directory, {name: (directory / name).read_bytes() for name in (CONFIG, WEIGHTS)}


class TestFuzzing:
    """Whatever is in the files, they load or are refused with a ValueError that names one of them."""

    def load(self, sound, **files):
        """The adapter's arrays, or None if it was refused as it should be; `files` are spoilt contents."""
        directory, whole = sound
        for name, content in {CONFIG: files.get("config"), WEIGHTS: files.get("weights")}.items():
            (directory / name).write_bytes(whole[name] if content is None else content)
        model = very_tiny_model()
        before = snapshot(model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                loaded = PeftModel.from_pretrained(model, directory)
        except ValueError as error:
            message = str(error)
        else:
            return {name: p.data for name, p in loaded.named_parameters() if ".lora_" in name}
        assert str(directory) in message
        assert snapshot(model) == before
        return None

    def flipped(self, content, data, end=None):
        place = data.draw(st.integers(0, (end or len(content)) - 1))
        value = content[place] ^ data.draw(st.integers(1, 255))
        return content[:place] + bytes([value]) + content[place + 1 :]

    @settings(fuzz, max_examples=60)
    @given(st.data())
    def test_truncated_weights_are_refused(self, sound, data):
        content = sound[1][WEIGHTS]
        assert self.load(sound, weights=content[: data.draw(st.integers(0, len(content) - 1))]) is None

    @settings(fuzz, max_examples=200)
    @given(st.data())
    def test_a_wrong_byte_in_the_header_is_refused_or_means_nothing(self, sound, data):
        content = sound[1][WEIGHTS]
        header = 8 + int.from_bytes(content[:8], "little")
        found, expected = self.load(sound, weights=self.flipped(content, data, header)), self.load(sound)
        assert found is None or all((found[name] == expected[name]).all() for name in expected)

    @settings(fuzz, max_examples=60)
    @given(st.data())
    def test_a_wrong_byte_anywhere_spoils_one_number_at_most(self, sound, data):
        found, expected = self.load(sound, weights=self.flipped(sound[1][WEIGHTS], data)), self.load(sound)
        if found is not None:
            assert sum((found[name] != expected[name]).sum() for name in expected) <= 1

    @settings(fuzz, max_examples=60)
    @given(st.binary(max_size=64), st.booleans())
    def test_garbage_for_weights_is_refused(self, sound, garbage, with_length):
        content = len(garbage).to_bytes(8, "little") + garbage if with_length else garbage
        assert self.load(sound, weights=content) is None

    @settings(fuzz, max_examples=40)
    @given(st.data())
    def test_a_truncated_config_is_refused(self, sound, data):
        content = sound[1][CONFIG].rstrip()
        assert self.load(sound, config=content[: data.draw(st.integers(0, len(content) - 1))]) is None

    @settings(fuzz, max_examples=150)
    @given(st.data())
    def test_a_wrong_byte_in_the_config_never_spoils_the_arrays(self, sound, data):
        found, expected = self.load(sound, config=self.flipped(sound[1][CONFIG], data)), self.load(sound)
        assert found is None or all((found[name] == expected[name]).all() for name in expected)

    @settings(fuzz, max_examples=40)
    @given(st.binary(max_size=64))
    def test_garbage_for_a_config_is_refused(self, sound, garbage):
        assert self.load(sound, config=garbage) is None

    values = st.recursive(
        st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        max_leaves=4,
    )

    @settings(fuzz, max_examples=400)
    @given(st.data())
    def test_any_value_of_any_field_is_accepted_or_refused_in_words(self, sound, data):
        fields = json.loads(sound[1][CONFIG])
        name = data.draw(st.sampled_from(sorted(fields)))
        self.load(sound, config=json.dumps({**fields, name: data.draw(self.values)}).encode())
