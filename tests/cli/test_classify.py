"""`finetune --task classify`, in small: few steps, the shipped base."""

import json
import re
import warnings

import numpy as np
import pytest

import lora_np
from lora_np import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoPeftModelForSequenceClassification,
    AutoTokenizer,
    PeftModel,
)
from lora_np.cli import main
from lora_np.cli.finetune import finetune
from lora_np.cli.model import load_adapted
from lora_np.cli.options import FinetuneOptions
from lora_np.storage import read_safetensors

FEW = {"task": "classify", "steps": 3, "batch_size": 4, "rank": 2, "max_length": 32}
FEW |= {"target_modules": ("c_attn",), "base": "tiny-python"}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "labelled.csv"
    rows = [f"{'good' if i % 2 else 'awful'} thing number {i},{'pos' if i % 2 else 'neg'}" for i in range(40)]
    path.write_text("\n".join(["review,sentiment", *rows]))
    return path


def run(tmp_path, table, **options):
    lines = []
    given = {**FEW, "data": str(table), "out": str(tmp_path / "out"), **options}
    result = finetune(FinetuneOptions(**given), say=lines.append)
    return result, "\n".join(lines)


def adapted(folder, **options):
    with warnings.catch_warnings(action="ignore"):
        base = AutoModelForSequenceClassification.from_pretrained("tiny-python", num_labels=2, pad_token_id=0)
    return PeftModel.from_pretrained(base, folder, **options)


def test_from_start_to_end(tmp_path, table):
    result, report = run(tmp_path, table, steps=12, learning_rate=0.02)
    assert "labelled.csv: texts in 'review', labels in 'sentiment'; 2 classes: neg (20), pos (20)" in report
    assert "36 texts to learn from (1.3 passes), 4 held out" in report
    before, after = result["accuracy"]
    assert f"held-out accuracy: {before:.1%} before, {after:.1%} after (the most frequent class: 50.0%)" in report
    assert after == 1
    first, last = (result["history"]["evaluation"][i]["labelled.csv"] for i in (0, -1))
    assert last < first
    assert re.search(rf"labelled\.csv +{first:.3f} +{last:.3f} +{first:.3f}", report)
    assert 0 < result["difference"] < 1e-3
    assert len(re.findall(r"label '(neg|pos)'; before: '(neg|pos)'; with the adapter: '(neg|pos)'", report)) == 3
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "checkpoint.safetensors", "config.json"} <= files
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["id2label"] == {"0": "neg", "1": "pos"}
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    ids = AutoTokenizer.from_pretrained("tiny-python").encode("awful thing number 3")
    assert adapted(tmp_path / "out")(ids).logits.data.argmax() == 0


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_beside_a_base_in_16_bits_the_head_is_trained_in_float32(tmp_path, table, dtype):
    """In float16 AdamW divides 0 by 0: its eps, 1e-8, is zero there."""
    pytest.importorskip("ml_dtypes")
    result, _ = run(tmp_path, table, dtype=dtype, steps=6, learning_rate=0.02)
    arrays, _ = read_safetensors(tmp_path / "out" / "adapter_model.safetensors", as_stored=True)
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    first, last = (result["history"]["evaluation"][i]["labelled.csv"] for i in (0, -1))
    assert last < first


def test_a_run_goes_on_where_it_stopped(tmp_path, table, monkeypatch):
    whole, _ = run(tmp_path / "whole", table, steps=4)
    monkeypatch.setattr("lora_np.training.loop.stop_on_interrupt", StopsAfter)
    StopsAfter.left = 2
    stopped, report = run(tmp_path, table, steps=4)
    assert stopped["history"]["interrupted"]
    assert "The same command with --resume goes on from there." in report
    monkeypatch.undo()
    gone_on, _ = run(tmp_path, table, steps=4, resume=True)
    assert gone_on["history"]["loss"] == whole["history"]["loss"]
    folders = tmp_path / "out", tmp_path / "whole" / "out"
    states = [read_safetensors(folder / "adapter_model.safetensors")[0] for folder in folders]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])
    table.write_text(table.read_text().replace("number 3,pos", "number 3,neg"))
    with pytest.raises(ValueError, match="labels"):
        run(tmp_path, table, steps=4, resume=True)


class StopsAfter:
    """In the place of Ctrl-C: it is set after so many steps."""

    left = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def is_set(self):
        StopsAfter.left -= 1
        return StopsAfter.left <= 0


@pytest.mark.parametrize("command", [["generate", "hello"], ["chat"]])
def test_such_an_adapter_does_not_write(tmp_path, table, command, capsys):
    run(tmp_path, table, steps=1)
    capsys.readouterr()
    assert main([*command, "--adapter", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "is a classifier's (task_type SEQ_CLS): it tells classes apart, it cannot write" in said
    *lines, answer = said.strip().partition("In Python: ")[2].split("; ")
    names = {**vars(lora_np), "text": "awful thing"}
    exec("\n".join(lines), names)  # what is said runs
    assert eval(answer, names) in ("neg", "pos")


def test_the_adapters_folder_is_enough_for_names_and_batches(tmp_path, table):
    run(tmp_path, table)
    model = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "neg", 1: "pos"}
    ids = np.array([[65, 66, 67], [65, 66, 0]])  # 0 fills rows
    np.testing.assert_array_equal(model(ids).logits.data, adapted(tmp_path / "out")(ids).logits.data)
    named = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out", label2id={"no": 0, "yes": 1})
    assert named.config.id2label == {0: "no", 1: "yes"}
    assert named.config.pad_token_id == 0


def test_it_is_merged_into_a_classifier(tmp_path, table):
    run(tmp_path, table)
    assert main(["merge", "--adapter", str(tmp_path / "out"), "--out", str(tmp_path / "merged")]) == 0
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "neg", 1: "pos"}
    ids = np.array([[65, 66, 67, 68]])
    np.testing.assert_allclose(merged(ids).logits.data, adapted(tmp_path / "out")(ids).logits.data, atol=1e-4)


def test_without_names_the_classes_are_those_of_the_weights(tmp_path, table):
    run(tmp_path, table, steps=1)
    (tmp_path / "out" / "config.json").unlink()
    model, _ = load_adapted(tmp_path / "out")
    assert model.config.num_labels == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "needs --data"),
        ("text,label\na,x\n", "nothing to tell apart"),
        ("a,b,c\n1,2,3\n", "which holds the texts"),
    ],
)
def test_wrong_data_is_a_sentence(tmp_path, content, message, capsys):
    path = tmp_path / "wrong.csv"
    path.write_text(content or "")
    data = [] if content is None else ["--data", str(path)]
    assert main(["finetune", "--task", "classify", "--out", str(tmp_path / "out"), *data]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_the_folder_loads_in_transformers_and_peft(tmp_path, table):
    import peft
    import torch
    import transformers

    base = tmp_path / "base"
    with warnings.catch_warnings(action="ignore"):
        AutoModelForCausalLM.from_pretrained("tiny-python").save_pretrained(base)
    AutoTokenizer.from_pretrained("tiny-python").save_pretrained(base)
    run(tmp_path, table, base=str(base))
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.id2label == {0: "neg", 1: "pos"}
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "out").eval()
    ids = [[65, 66, 67, 68]]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits
    np.testing.assert_allclose(adapted(tmp_path / "out")(np.array(ids)).logits.data, expected, rtol=1e-4, atol=1e-5)
