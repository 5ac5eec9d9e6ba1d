"""Public functions that are given something else than they take say which argument it was, and what it should be."""

import re

import numpy as np
import pytest
from training_helpers import text_data, tiny

import lora_np
from lora_np import training
from lora_np.expect import wrong

OLD_WINDOWS = np.ones((2, 8), int)


def training_data(**changes):
    return lora_np.TextData(**{"documents": {"a": "text " * 30}, **TOKENS, "length": 8, "batch_size": 2, **changes})


def example_data(**changes):
    return lora_np.ExampleData(
        **{"examples": [{"text": "text"}], **TOKENS, "max_length": 8, "batch_size": 2, **changes}
    )


def train(**changes):
    given = {"model": tiny(), "data": text_data(), "args": lora_np.TrainingArguments(steps=1), **changes}
    return lora_np.train(**given, progress=False)


TOKENS = {"tokenizer": lora_np.ByteTokenizer()}
CONFIG = lora_np.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)

CASES = {  # the argument: what gives it, and of what kinds it may well be
    "train: model": (lambda x: train(model=x), []),
    "train: data": (lambda x: train(data=x), []),
    "train: args": (lambda x: train(args=x), ["None"]),
    "train: evaluation": (lambda x: train(evaluation=x), ["None"]),
    "train: identity": (lambda x: train(identity=x), ["None", "dict"]),
    "train: directory": (lambda x: train(directory=x), ["None", "text"]),
    "train: communicator": (lambda x: train(communicator=x), ["None"]),
    "evaluate: model": (lambda x: lora_np.evaluate(x, OLD_WINDOWS), []),
    "evaluate: data": (lambda x: lora_np.evaluate(tiny(), x), []),
    "evaluate: batch_size": (lambda x: lora_np.evaluate(tiny(), OLD_WINDOWS, x), ["number"]),
    "TextData: documents": (lambda x: training_data(documents=x), []),
    "TextData: tokenizer": (lambda x: training_data(tokenizer=x), []),
    "TextData: length": (lambda x: training_data(length=x), ["number"]),
    "TextData: batch_size": (lambda x: training_data(batch_size=x), ["number"]),
    "ExampleData: examples": (lambda x: example_data(examples=x), ["list"]),
    "ExampleData: tokenizer": (lambda x: example_data(tokenizer=x), []),
    "ExampleData: max_length": (lambda x: example_data(max_length=x), ["number"]),
    "ExampleData: batch_size": (lambda x: example_data(batch_size=x), ["number"]),
    "split_examples: examples": (training.split_examples, ["list"]),
    "write_jsonl: examples": (lambda x: training.write_jsonl("/dev/null/none", x), ["list"]),
    "tokenize_example: tokenizer": (lambda x: training.tokenize_example({"text": "text"}, x), []),
    "load_text: path": (training.load_text, ["text"]),
    "load_examples: path": (training.load_examples, ["text"]),
    "get_peft_model: model": (lambda x: lora_np.get_peft_model(x, CONFIG), []),
    "get_peft_model: config": (lambda x: lora_np.get_peft_model(tiny(), x), []),
    "add_adapter: config": (lambda x: lora_np.get_peft_model(tiny(), CONFIG).add_adapter("b", x), []),
    "PeftModel.from_pretrained: model": (lambda x: lora_np.PeftModel.from_pretrained(x, "nowhere"), []),
    "PeftModel.from_pretrained: model_id": (lambda x: lora_np.PeftModel.from_pretrained(tiny(), x), ["text"]),
    "load_adapter: model_id": (lambda x: lora_np.get_peft_model(tiny(), CONFIG).load_adapter(x, "b"), ["text"]),
    "save_pretrained: directory": (lambda x: tiny().save_pretrained(x), ["text"]),
    "PeftModel.save_pretrained: directory": (
        lambda x: lora_np.get_peft_model(tiny(), CONFIG).save_pretrained(x),
        ["text"],
    ),
    "AutoModelForCausalLM: name_or_path": (lora_np.AutoModelForCausalLM.from_pretrained, ["text"]),
    "AutoTokenizer: name_or_path": (lora_np.AutoTokenizer.from_pretrained, ["text"]),
    "GPT2LMHeadModel: config": (lora_np.GPT2LMHeadModel, []),
    "LlamaForCausalLM: config": (lora_np.LlamaForCausalLM, []),
    "KVCache: capacity": (lora_np.KVCache, ["number"]),
    "AdamW: params": (lora_np.AdamW, []),
    "SGD: params": (lora_np.SGD, []),
    "AdamW: learning rate": (lambda x: lora_np.AdamW(tiny().parameters(), lr=x), ["number"]),
    "clip_grad_norm_: params": (lambda x: training.clip_grad_norm_(x, 1.0), []),
    "clip_grad_norm_: max_norm": (lambda x: training.clip_grad_norm_(tiny().parameters(), x), ["number"]),
    "parameter_groups: model": (lambda x: training.parameter_groups(x, 0.1), []),
    "gradcheck: inputs": (lambda x: lora_np.gradcheck(lambda y: y, x), ["list"]),
}
CASES |= {
    f"TrainingArguments: {name}": (
        lambda x, name=name: lora_np.TrainingArguments(**{name: x}),
        ["number", "None"] if name == "warmup_steps" else ["number"],
    )
    for name in ("learning_rate", "warmup_steps", "min_lr_ratio", "weight_decay", "max_grad_norm", "seed", "steps")
}
CASES |= {
    f"TrainingArguments: {name}": (lambda x, name=name: lora_np.TrainingArguments(**{name: x}), allowed)
    for name, allowed in {
        "betas": [],
        "load_best": [],
        "metric_for_best_model": ["None", "text"],
        "greater_is_better": ["None"],
    }.items()
}
VALUES = {"None": None, "text": "text", "number": 3, "list": [1, 2], "dict": {"a": 1}, "a class": lora_np.LoraConfig}


@pytest.mark.parametrize("case", CASES)
def test_an_argument_of_another_kind_is_named(case):
    function, allowed = CASES[case]
    name = case.partition(": ")[2]
    for kind in VALUES.keys() - allowed:
        with pytest.raises((TypeError, ValueError), match=rf"{name}.* (should|must) be .*got ") as caught:
            function(VALUES[kind])
        assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None"),
        ("gpt2", "a str: 'gpt2'"),
        (3, "an int: 3"),
        (np.float32(2), "a float32: "),
        (lora_np.LoraConfig, "the class LoraConfig"),
        ("x" * 1000, "a str: 'xxx"),
    ],
)
def test_the_sentence(value, words):
    sentence = wrong(value, "model", "a model")
    assert re.match(rf"model should be a model, got {re.escape(words)}", sentence)
    assert len(sentence) < 120


@pytest.mark.parametrize("case", [case for case, (_, allowed) in CASES.items() if allowed == ["text"]])
def test_a_null_character_in_a_path_is_refused(case):
    with pytest.raises(ValueError, match="null character"):
        CASES[case][0]("a\0b")


def test_single_things_where_a_list_belongs():
    """The commonest mistakes: the model in the place of its parameters, one text in the place of many."""
    model = tiny()
    for function in (lora_np.AdamW, lambda x: training.clip_grad_norm_(x, 1.0)):
        with pytest.raises(TypeError, match=r"params should be a list of parameters, such as model\.parameters\(\)"):
            function(model)
    with pytest.raises(TypeError, match=r"documents should be a dict \{name: text\}, got a list: \['text'\]"):
        training_data(documents=["text"])
    with pytest.raises(TypeError, match=r"config should be a config, .* AutoModelForCausalLM\.from_pretrained"):
        lora_np.GPT2LMHeadModel("gpt2")
    with pytest.raises(TypeError, match=r"gradcheck\(f, \[x\]\)"):
        lora_np.gradcheck(lambda x: x, lora_np.Tensor(1.0, requires_grad=True))


def test_text_data_is_evaluated_over_all_its_windows():
    model, data = tiny(), text_data()
    assert lora_np.evaluate(model, data) == pytest.approx(lora_np.evaluate(model, data.windows()), rel=1e-12)
