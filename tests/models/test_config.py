"""Configurations from files: each field of each architecture takes what its type says, and refuses the rest by name."""

import copy
import dataclasses
import json
import math
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

import lora_np
from lora_np import GPT2Config, nn
from lora_np.cli import main
from lora_np.models.architectures import ARCHITECTURES
from lora_np.models.loading.checkpoints import load_pretrained
from lora_np.storage import write_safetensors

FIELDS = [(kind, field) for kind, (cls, _) in ARCHITECTURES.items() for field in dataclasses.fields(cls)]
NEVER = ("1e-5", [["x"]], {"a": 1}, math.nan, math.inf, -math.inf, -7, 10**400, -0.5)
NO_SHAPE = ("max_position_embeddings", "original_max_position_embeddings", "sliding_window", "max_window_layers")
NO_SHAPE += ("no_rope_layer_interval", "query_pre_attn_scalar")
ids = [f"{kind}, {field.name}" for kind, field in FIELDS]


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=ids)
def test_every_field_refuses_what_it_cannot_be(kind, field):
    config_class = ARCHITECTURES[kind][0]
    for value in NEVER:
        if field.name == "rope_parameters" and isinstance(value, dict):
            continue
        with pytest.raises(ValueError, match=field.name):
            config_class.from_dict({field.name: value})


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=ids)
def test_none_and_booleans_stand_only_where_they_may(kind, field):
    config_class = ARCHITECTURES[kind][0]
    hint = get_type_hints(config_class, include_extras=True)[field.name]
    allowed = {None: field.default is None or type(None) in get_args(hint), True: hint is bool}
    for value, may in allowed.items():
        if may:
            config_class.from_dict({field.name: value})
        else:
            with pytest.raises(ValueError, match=field.name):
                config_class.from_dict({field.name: value})


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=ids)
def test_numbers_have_bounds(kind, field):
    """So a new field cannot be any number at all."""
    hint = get_type_hints(ARCHITECTURES[kind][0], include_extras=True)[field.name]
    assert hint not in (int, float)
    assert get_origin(hint) is Annotated or hint in (bool, str) or get_args(hint)


@pytest.mark.parity
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_defaults_are_transformers(name):
    import transformers

    theirs = transformers.AutoConfig.for_model(name)
    ours = ARCHITECTURES[name][0]()
    for field in dataclasses.fields(ours):
        value = getattr(ours, field.name)
        if field.name == "head_dim" and not hasattr(theirs, "head_dim"):
            assert value == theirs.hidden_size // theirs.num_attention_heads  # read by Transformers where a file has it
            continue
        assert getattr(theirs, field.name) == value, field.name


@pytest.fixture
def saved(tmp_path, request):
    """A model of a few numbers in a directory."""
    small = {"n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 4}
    llama = {"hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 4, "num_attention_heads": 2, "head_dim": 2}
    llama |= {"num_key_value_heads": 2}
    config_class, model_class = ARCHITECTURES[request.param]
    llama = {name: value for name, value in llama.items() if name in config_class.kinds()}
    with nn.weightless():
        model = model_class(config_class(vocab_size=5, **(small if request.param == "gpt2" else llama)))
    model.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("saved", ARCHITECTURES, indirect=True)
@pytest.mark.parametrize("value", [2**31 - 2, 10**12, 10**30])
def test_sizes_are_compared_with_the_file_before_anything_is_made(saved, value, monkeypatch):
    """Else these would take terabytes, or years."""
    fields = json.loads((saved / "config.json").read_text())
    monkeypatch.setattr("lora_np.models.loading.checkpoints.nn.uninitialized", pytest.fail)
    names = [name for name, given in fields.items() if type(given) is int and not name.endswith("token_id")]
    assert len(names) >= 5
    for name in names:
        if name in NO_SHAPE and value < 2**31:
            continue  # nothing has this size
        (saved / "config.json").write_text(json.dumps({**fields, name: value}))
        with pytest.raises(ValueError, match=str(saved)):
            load_pretrained(saved)


@pytest.mark.parametrize(("saved", "name"), [("gpt2", "n_layer"), ("llama", "num_hidden_layers")], indirect=["saved"])
@pytest.mark.parametrize("depth", [100, 10**7])
def test_more_blocks_than_weights_are_refused_by_the_fields_name(saved, name, depth):
    fields = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**fields, name: depth}))
    with pytest.raises(ValueError, match=rf"config\.json: {name} (is 100, but the file|must be .* at most 1024)"):
        load_pretrained(saved)


@pytest.mark.parametrize("saved", ["gpt2", "llama"], indirect=True)
@pytest.mark.parametrize("command", ["params", "generate", "finetune"])
def test_the_command_line_names_file_and_field(saved, command, capsys, tmp_path):
    fields = json.loads((saved / "config.json").read_text())
    (saved / "tokenizer_config.json").write_text('{"tokenizer_class": "ByteTokenizer"}')
    for name, value in (("tie_word_embeddings", "false"), ("vocab_size", 10**12), ("eos_token_id", ["x"])):
        (saved / "config.json").write_text(json.dumps({**fields, name: value}))
        arguments = {"generate": ["x"], "finetune": ["--out", str(tmp_path / "out")]}.get(command, [])
        assert main([command, "--base", str(saved), *arguments]) == 2
        said = capsys.readouterr().err
        assert str(saved) in said
        assert f"{name} must be" in said
    (saved / "config.json").write_text(json.dumps({**fields, "model_type": ["gpt2"]}))
    assert main([command, "--base", str(saved), *arguments]) == 2
    assert "model_type" in capsys.readouterr().err


@pytest.mark.parametrize("saved", ["gpt2"], indirect=True)
def test_shapes_that_no_memory_holds_are_refused(saved):
    """Two sizes, each of which could be."""
    fields = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**fields, "n_embd": 2**30, "n_inner": 2**31 - 1, "n_head": 1}))
    with pytest.raises(ValueError, match="larger than any memory"):
        load_pretrained(saved)
    write_safetensors(saved / "model.safetensors", {})
    with pytest.raises(ValueError, match="the file has only 0 weights"):
        load_pretrained(saved)


@pytest.mark.parity
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fields_have_the_other_names_that_transformers_has_for_them(name):
    import transformers

    theirs, ours = transformers.AutoConfig.for_model(name), ARCHITECTURES[name][0]()
    fields = {field.name for field in dataclasses.fields(ours)}
    assert ours.attribute_map == {other: own for other, own in theirs.attribute_map.items() if own in fields}
    assert {other: getattr(ours, other) for other in ours.attribute_map} == {
        other: getattr(theirs, other) for other in ours.attribute_map
    }


def test_a_field_is_read_set_and_found_in_files_by_its_other_name():
    config = GPT2Config.from_dict({"hidden_size": 24, "num_hidden_layers": 2, "n_head": 3})
    assert (config.n_embd, config.hidden_size, config.n_layer, config.num_attention_heads) == (24, 24, 2, 3)
    assert config.architectures == ["GPT2LMHeadModel"]
    config.hidden_size = 36
    assert config.to_dict()["n_embd"] == 36
    assert "hidden_size" not in config.to_dict()
    assert copy.deepcopy(config) == config
    with pytest.raises(AttributeError, match="'GPT2Config' object has no attribute 'hidden_sizes'"):
        _ = config.hidden_sizes


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_of_the_weights_is_told_as_in_transformers(tmp_path, dtype):
    import transformers

    pytest.importorskip("ml_dtypes")
    assert GPT2Config().dtype is None
    lora_np.AutoModelForCausalLM.from_pretrained("tiny-python", dtype=dtype).save_pretrained(tmp_path)
    for library in (lora_np, transformers):
        model, said = library.AutoModelForCausalLM, library.AutoConfig.from_pretrained(tmp_path)
        in_file = str(said.dtype).removeprefix("torch.")
        assert in_file in ((dtype, "None") if dtype == "float32" else (dtype,))  # no file says float32 here
        configs = [model.from_pretrained(tmp_path, dtype=d).config for d in (dtype, "float16")]
        configs.append(model.from_config(said, dtype="float16").config)
        assert [str(config.dtype).removeprefix("torch.") for config in configs] == [dtype, "float16", "float16"]
        assert configs[0].torch_dtype == configs[0].dtype
