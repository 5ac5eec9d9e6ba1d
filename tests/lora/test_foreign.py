"""Folders with somebody else's adapter: what it is, and what to do."""

import json

import pytest
from lora_helpers import peft_model, refusal, snapshot, tiny_model

from lora_np import PeftModel
from lora_np.lora.foreign import FORMATS

CONFIG = "adapter_config.json"
MLX = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}}


def refused(directory):
    """The message with which the folder is refused, whichever way it is loaded; nothing changes."""
    messages = set()
    for model, load in [
        (tiny_model(), lambda model: PeftModel.from_pretrained(model, directory)),
        (peft_model(["c_attn"]), lambda model: model.load_adapter(directory, "second")),
    ]:
        before = snapshot(model)
        messages.add(refusal(FileNotFoundError, lambda model=model, load=load: load(model)))
        assert snapshot(model) == before
    (message,) = messages
    assert str(directory) in message
    return message


@pytest.mark.parametrize("config", [None, {"peft_type": "LORA", "r": 8}, MLX], ids=["no config", "PEFT's", "mlx-lm's"])
@pytest.mark.parametrize("file", FORMATS)
def test_it_is_said_what_it_is(tmp_path, file, config):
    (tmp_path / file).write_bytes(b"\x80\x02}q\x00.")
    if config:
        (tmp_path / CONFIG).write_text(json.dumps(config))
    message = refused(tmp_path)
    assert f"has no adapter_model.safetensors. Its {file} is " in message
    assert "{" not in message


def test_a_pickle_comes_with_the_line_that_converts_it(tmp_path):
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    message = refused(tmp_path)
    assert "save_file(torch.load('adapter_model.bin', weights_only=True), 'adapter_model.safetensors')" in message


def test_an_adapter_of_mlx_comes_with_what_its_names_are_here(tmp_path):
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    (tmp_path / CONFIG).write_text(json.dumps(MLX))
    message = refused(tmp_path)
    for part in ("mlx-lm", "lora_a", "lora_A.weight", "transposed", "scale * rank"):
        assert part in message


def test_an_adapter_of_llama_cpp(tmp_path):
    (tmp_path / "lora.gguf").write_bytes(b"GGUF")
    assert "Its lora.gguf is for llama.cpp" in refused(tmp_path)


def test_the_folder_around_adapters_names_them(tmp_path):
    for name in ("checkpoint-10", "checkpoint-20"):
        peft_model(["c_attn"]).save_pretrained(tmp_path / name)
    assert "folders in it have: checkpoint-10, checkpoint-20" in refused(tmp_path)


def test_beside_an_adapter_other_files_are_nobodys_concern(tmp_path):
    peft_model(["c_attn"]).save_pretrained(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    PeftModel.from_pretrained(tiny_model(), tmp_path)


@pytest.mark.parametrize("kind", ["BOFT", "PREFIX_TUNING", "lora", None, 3])
def test_another_kind_of_adapter_is_named(tmp_path, kind):
    peft_model(["c_attn"]).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**fields, "peft_type": kind}))
    message = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_model(), tmp_path))
    assert f"{tmp_path / CONFIG} is of a {kind} adapter; known here are LORA, " in message


@pytest.mark.parity
def test_the_line_converts_it(tmp_path):
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file

    model = peft_model(["c_attn"])
    model.save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    refused(tmp_path)
    tensors = torch.load(tmp_path / "adapter_model.bin", weights_only=True)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    for (_, p), (_, q) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)
