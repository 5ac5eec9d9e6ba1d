"""Merging an adapter into its base."""

import numpy as np

from lora_np import AutoModelForCausalLM, AutoTokenizer, LoraConfig, get_peft_model
from lora_np.cli.main import main
from lora_np.cli.merge import merge
from lora_np.cli.model import load


def test_merge_writes_a_model_that_computes_what_base_and_adapter_did(tmp_path, adapter, capsys):
    out = tmp_path / "merged"
    assert main(["merge", "--adapter", adapter, "--out", str(out)]) == 0
    assert "858,880 parameters" in capsys.readouterr().out
    ids = np.arange(40).reshape(1, 40)
    together, _ = load(None, adapter)
    merged = AutoModelForCausalLM.from_pretrained(out)
    found, expected = merged(ids).logits.numpy(), together(ids).logits.numpy()
    assert abs(found - expected).max() < 1e-4 * abs(expected).max()
    assert AutoTokenizer.from_pretrained(out).decode([72, 105]) == "Hi"


def test_an_adapted_head_that_was_tied_is_merged_too(tmp_path):
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained("tiny-python"),
        LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "head")
    merge(str(tmp_path / "head"), tmp_path / "out", say=lambda line: None)
    ids = np.arange(20).reshape(1, 20)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found, expected = merged(ids).logits.numpy(), adapted(ids).logits.numpy()
    assert abs(found - expected).max() < 1e-4 * abs(expected).max()


def test_merge_does_not_write_over_a_model(tmp_path, adapter, capsys):
    AutoModelForCausalLM.from_pretrained("tiny-python").save_pretrained(tmp_path / "there")
    before = (tmp_path / "there" / "model.safetensors").read_bytes()
    assert main(["merge", "--adapter", adapter, "--out", str(tmp_path / "there")]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == before


def test_a_model_is_not_put_beside_an_adapter(tmp_path, adapter, capsys):
    for more in ([], ["--overwrite"]):
        assert main(["merge", "--adapter", adapter, "--out", adapter, *more]) == 2
        assert "holds an adapter, which would stay beside the model: choose another --out" in capsys.readouterr().err
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
