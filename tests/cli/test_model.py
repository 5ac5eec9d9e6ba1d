"""The model that a command works with."""

import json

import pytest
from lora_helpers import peft_model

from lora_np.cli.main import main


@pytest.mark.parametrize("name", [None, ""])  # PEFT writes "" where the model did not know its own name
def test_an_adapter_that_names_no_base_needs_one(tmp_path, capsys, name):
    peft_model().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": name}))
    assert main(["generate", "x", "--adapter", str(tmp_path)]) == 2
    assert "does not say which base model it belongs to: give --base" in capsys.readouterr().err
