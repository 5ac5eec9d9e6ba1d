"""Counting parameters and memory from a configuration."""

import json

import pytest

from lora_np.cli.main import main

LLAMA_3_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def test_params_counts_from_a_config_alone(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_3_8B))
    arguments = ["--rank", "8", "16", "--target-modules", "all-linear", "--max-length", "512"]
    assert main(["params", "--base", str(path), *arguments]) == 0
    text = capsys.readouterr().out
    assert "8,030,261,248 parameters, 32 blocks, 4096 wide" in text  # Llama 3's own figures
    assert "    16     41,943,040   0.5196%     167.77 MB" in text
    assert "     8     20,971,520" in text
    assert "model.layers.*.mlp.down_proj                 32 layers of 14336 -> 4096" in text
    assert "of 1 x 512 tokens" in text


def test_params_of_the_shipped_model_and_of_parts_of_a_projection(capsys):
    assert main(["params", "--target-modules", "c_attn.q", "c_attn.v", "--rank", "4"]) == 0
    text = capsys.readouterr().out
    assert "858,880 parameters" in text
    assert "transformer.h.*.attn.c_attn.q                 4 layers of 128 -> 128" in text
    assert "     4          8,192" in text


@pytest.mark.parametrize("fields", [{**LLAMA_3_8B, "max_position_embeddings": 1}, {"model_type": "gpt2"}])
def test_params_of_a_model_with_a_context_of_one_token(fields, tmp_path, capsys):
    sizes = {"n_positions": 1, "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 9}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**fields, **(sizes if fields["model_type"] == "gpt2" else {})}))
    assert main(["params", "--base", str(path)]) == 0
    assert "of 1 x 1 tokens" in capsys.readouterr().out


def test_params_names_a_target_that_is_not_there(capsys):
    assert main(["params", "--target-modules", "q_proj"]) == 2
    assert "q_proj" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("batch-size", "0"), ("max-length", "0"), ("max-length", "-1")])
def test_params_wants_a_token_and_a_sequence_at_least(name, value, capsys):
    assert main(["params", f"--{name}", value]) == 2
    assert f"{name.replace('-', '_')} must be at least 1, got {value}" in capsys.readouterr().err
