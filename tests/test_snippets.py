"""Code as tutorials about PEFT have it, with the import line changed."""

import json
from pathlib import Path

import pytest

from lora_np import AutoModelForCausalLM, AutoTokenizer, LoraConfig, PeftModel, TaskType, get_peft_model


def test_the_usual_configuration(tmp_path, capsys):
    model = AutoModelForCausalLM.from_pretrained("tiny-python")
    lora_config = LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules=["c_attn", "c_proj"],
        lora_dropout=0.05,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
        fan_in_fan_out=True,
    )
    model = get_peft_model(model, lora_config)
    model.print_trainable_parameters()
    assert capsys.readouterr().out == "trainable params: 90,112 || all params: 948,992 || trainable%: 9.4955\n"
    model.save_pretrained(tmp_path)

    base = AutoModelForCausalLM.from_pretrained("tiny-python")
    with pytest.warns(UserWarning, match="B is all zero"):
        model = PeftModel.from_pretrained(base, tmp_path)
    model = model.merge_and_unload()
    assert not isinstance(model, PeftModel)


def test_names_that_gpt2_does_not_have_are_answered_with_the_right_one():
    model = AutoModelForCausalLM.from_pretrained("tiny-python")
    with pytest.raises(ValueError, match=r"no layer matches 'q_attn'; did you mean 'c_attn'\?"):
        get_peft_model(model, LoraConfig(r=8, target_modules=["q_attn", "v_attn"], task_type="CAUSAL_LM"))


def test_the_readmes_training_on_examples(tmp_path, monkeypatch):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = readme.partition("Your own examples")[2].partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{i} and one is", "completion": f" {i + 1}"} for i in range(40)]
    Path("examples.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained("tiny-python")
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    names = {"model": get_peft_model(model, config), "tokenizer": AutoTokenizer.from_pretrained("tiny-python")}
    exec("found = []; print = found.append\n" + program.replace("steps=100", "steps=30"), names)
    assert names["found"][0] < 2.0  # nats per token of the answers; 5.17 before
