"""What a run learns from: texts, files of examples, the standard library's docstrings."""

import dataclasses
import json
import re

import numpy as np
import pytest
from lora_helpers import tiny_model

from lora_np import AutoModelForCausalLM, AutoTokenizer, LoraConfig, get_peft_model
from lora_np.cli.finetune import finetune
from lora_np.cli.memory import memory_line
from lora_np.cli.options import FinetuneOptions
from lora_np.cli.report import how_to_ask
from lora_np.cli.task import ExampleTask, TextTask, check_tokens, evenly_spaced, make_task, question_and_answer
from lora_np.training import write_jsonl

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
PAIRS = [{"prompt": f"{n} plus {n + 1} is ", "completion": f"{2 * n + 1}."} for n in range(40)]


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained("tiny-python")


@pytest.fixture
def jsonl(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    return str(tmp_path / "pairs.jsonl")


def options(**changes):
    return dataclasses.replace(FinetuneOptions(), **changes).resolved(256)


def test_what_the_data_is_called_chooses_the_task(tmp_path, tokenizer, jsonl):
    text = tmp_path / "my.txt"
    text.write_text("A paragraph of some words.\n\n" * 400)
    assert isinstance(make_task(options(), tokenizer, 256), TextTask)
    assert isinstance(make_task(options(data=str(text)), tokenizer, 256), TextTask)
    assert isinstance(make_task(options(data=jsonl), tokenizer, 256), ExampleTask)


@pytest.mark.parametrize("text", ["The cat sat on the mat.\nThe dog saw", "word " * 30, "one\n" * 100])
def test_a_text_that_is_too_short_is_told_what_would_do(tmp_path, tokenizer, text):
    path = tmp_path / "my.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"my\.txt has .* tokens to learn from and .* held out") as caught:
        make_task(options(data=str(path)), tokenizer, 256)
    characters, length = re.search(
        r"about ([\d,]+) characters, or --max-length (\d+), which", str(caught.value)
    ).groups()
    length, characters = int(length), int(characters.replace(",", ""))
    make_task(options(data=str(path)), tokenizer, length)
    with pytest.raises(ValueError, match=f"--max-length {length},"):
        make_task(options(data=str(path)), tokenizer, length + 1)
    path.write_text((text * 1000)[:characters])
    make_task(options(data=str(path)), tokenizer, 256)


def test_a_line_names_the_columns_of_a_table(tmp_path, tokenizer):
    path = tmp_path / "sums.csv"
    path.write_text("prompt,completion\n" + "".join(f"{n} plus 1 is,{n + 1}\n" for n in range(40)))
    task = make_task(options(data=str(path)), tokenizer, 64)
    assert task.notes[0] == "Fields read from sums.csv: prompt, completion"
    assert task.steps == FinetuneOptions().steps
    twice = make_task(options(data=str(path), epochs=2.0), tokenizer, 64)
    assert twice.steps == 2 * -(-twice.train.rows // 16)


def test_examples_are_held_out_whole_and_only_answers_are_judged(tokenizer, jsonl):
    task = make_task(options(data=jsonl), tokenizer, 64)
    (held_out,) = task.evaluation.values()
    assert task.train.examples + held_out.examples == len(PAIRS)
    shown = {text for _, text in task.questions}
    trained = tokenizer.decode(task.train.tokens)
    assert shown
    assert not any(text in trained for text in shown)
    batch = task.train.batch(0, 0)
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        _, _, answer = tokenizer.decode(ids).rstrip("\0").partition(" is ")
        assert tokenizer.decode(labels[labels >= 0]) == answer + "\0"


def test_samples_are_answers_to_the_questions(tokenizer, jsonl):
    model = AutoModelForCausalLM.from_pretrained("tiny-python")
    task = make_task(options(data=jsonl), tokenizer, 64)
    answers = task.samples(model)
    assert len(answers) == len(task.questions) == min(3, task.evaluation["pairs.jsonl"].examples)
    ids = task.prompts[0]
    assert tokenizer.decode(ids).strip() == task.questions[0][1]
    expected = model.generate(ids, max_new_tokens=40)[0, len(ids) :]
    assert answers[0] == tokenizer.decode(expected, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("example", "shown", "prompt", "answer"),
    [
        ({"prompt": "1 + 1 = ", "completion": "2"}, "1 + 1 =", "1 + 1 = ", "2"),
        ({"text": "abcdef"}, "abc", "abc", "def"),
        (
            {
                "messages": [
                    {"role": r, "content": c} for r, c in [("user", "Hi"), ("assistant", "Yes?"), ("user", "So")]
                ]
            },
            "Hi",
            "[user] Hi\n[assistant] ",
            "Yes?",
        ),
    ],
)
def test_question_and_answer(tokenizer, example, shown, prompt, answer):
    tokenizer.chat_template = TEMPLATE
    assert question_and_answer(example, tokenizer) == (shown, tokenizer.encode(prompt), answer)


def test_a_long_question_is_shown_in_part(tokenizer):
    shown, prompt, _ = question_and_answer({"prompt": "line\n" * 30, "completion": "x"}, tokenizer)
    assert shown == "line\n" * 12 + "..."
    assert tokenizer.decode(prompt) == "line\n" * 30


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.json", "pairs.txt"])
def test_examples_in_other_files_are_examples(tmp_path, tokenizer, name):
    path = tmp_path / name
    rows = [f"{pair['prompt']},{pair['completion']}" for pair in PAIRS]
    path.write_text("\n".join(["prompt,completion", *rows]) if name.endswith("csv") else json.dumps(PAIRS))
    task = make_task(options(data=str(path)), tokenizer, 64)
    assert isinstance(task, ExampleTask)
    assert list(task.evaluation) == [name]


def model_that_stops_at(eos):
    return tiny_model(vocab_size=256, eos_token_id=eos)


def test_a_model_that_would_not_stop_is_told_of(tokenizer, jsonl):
    task = make_task(options(data=jsonl), tokenizer, 64)
    assert check_tokens(task, model_that_stops_at(0)) == []
    assert check_tokens(task, get_peft_model(model_that_stops_at(0), LoraConfig(target_modules=["c_attn"]))) == []
    (note,) = check_tokens(task, model_that_stops_at(7))
    assert "generating stops at '\\x07' (7)" in note
    assert "the tokenizer's end token is '\\x00' (0)" in note
    model = model_that_stops_at(7)
    model.generation_config = {"eos_token_id": [7, 0]}
    assert check_tokens(task, model) == []


def test_a_token_that_the_model_has_not_is_named(tokenizer, jsonl):
    task = make_task(options(data=jsonl), tokenizer, 64)
    with pytest.raises(ValueError, match=r"its token 'u' with the id 117, and the model's vocabulary has 100"):
        check_tokens(task, tiny_model(vocab_size=100))


@pytest.mark.usefixtures("short_report")
@pytest.mark.parametrize("packing", [False, True])
def test_a_run_on_examples_from_start_to_end(tmp_path, jsonl, packing):
    lines = []
    result = finetune(
        FinetuneOptions(data=jsonl, out=str(tmp_path / "out"), steps=3, batch_size=4, rank=2, packing=packing),
        say=lines.append,
    )
    report = "\n".join(lines)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert f"A step of 4 x {256 if packing else 24} tokens takes about" in report
    assert "Held-out example, answer: " in report
    assert "pairs.jsonl" in report
    assert "examples to learn from (" in report
    evaluations = [e["pairs.jsonl"] for e in result["history"]["evaluation"]]
    assert evaluations[-1] < evaluations[0]


def test_the_standard_librarys_docstrings_are_a_task(tokenizer):
    tokenizer.chat_template = TEMPLATE
    task = make_task(options(data="docstrings", max_length=200), tokenizer, 200)
    (held_out,) = task.evaluation.values()
    assert task.train.examples > 500
    assert held_out.examples <= 64
    assert all("```python" in text and '"""' not in text for _, text in task.questions)
    assert np.isin(task.ids, range(256)).all()


@pytest.mark.usefixtures("short_report")
def test_no_more_windows_are_measured_than_is_said(tmp_path, tokenizer):
    text = tmp_path / "my.txt"
    text.write_text("A paragraph of some words.\n\n" * 4000)
    task = make_task(options(data=str(text)), tokenizer, 256)
    assert {name: len(windows) for name, windows in task.evaluation.items()} == {"my.txt": 4, "Python source": 4}


def test_evenly_spaced_keeps_both_ends():
    rows = np.arange(100)
    assert evenly_spaced(rows, 4).tolist() == [0, 33, 66, 99]
    assert evenly_spaced(rows, 100) is rows
    assert len(evenly_spaced(rows)) == 64


@pytest.mark.parametrize("count", [20, 60, 400])
def test_a_tiny_held_out_part_is_told_of(tmp_path, tokenizer, count):
    write_jsonl(tmp_path / "few.jsonl", [{"text": f"Number {i}."} for i in range(count)])
    task = make_task(options(data=str(tmp_path / "few.jsonl")), tokenizer, 64)
    measured = task.evaluation["few.jsonl"].rows
    said = f"Note: measured on {measured} example{'s' if measured > 1 else ''}: these numbers say little"
    assert [note for note in task.notes if "these numbers" in note] == ([said] if count < 400 else [])
    assert (measured < 10) == (count < 400)


def test_a_short_text_is_measured_on_few_windows(tmp_path, tokenizer):
    (tmp_path / "my.txt").write_text("A paragraph of some words.\n" * 200)
    text = make_task(options(data=str(tmp_path / "my.txt")), tokenizer, 256)
    assert any("Note: measured on 2 windows" in note for note in text.notes)


ASKS_NOTHING = [{"prompt": "", "completion": f"low {n}"} for n in range(20)]


@pytest.mark.parametrize(
    ("examples", "shown"),
    [(ASKS_NOTHING, 0), ([{"text": letter} for letter in "abcdefghij"], 0), (ASKS_NOTHING + PAIRS, 1)],
)
def test_examples_that_ask_nothing_are_learnt_and_not_shown(tmp_path, tokenizer, examples, shown):
    write_jsonl(tmp_path / "data.jsonl", examples)
    task = make_task(options(data=str(tmp_path / "data.jsonl")), tokenizer, 64)
    assert len(task.samples(AutoModelForCausalLM.from_pretrained("tiny-python"))) == len(task.questions) == shown
    assert shown or how_to_ask(task, tmp_path).endswith(" ...")


def test_a_text_without_spaces_is_asked_for_more_of_it(tmp_path, tokenizer):
    (tmp_path / "zh.txt").write_text("今天天气很好" * 300, encoding="utf-8")
    task = make_task(options(data=str(tmp_path / "zh.txt")), tokenizer, 256)
    assert "天气" in task.prompt


def test_how_to_ask_follows_from_what_is_learnt(tmp_path, tokenizer, jsonl):
    task = make_task(options(data=jsonl), tokenizer, 64)
    question = task.questions[0][1] + " "
    assert how_to_ask(task, tmp_path / "out") == f"lora-np generate --adapter {tmp_path}/out '{question}'"
    tokenizer.chat_template = TEMPLATE
    assert how_to_ask(task, tmp_path / "my out") == f"lora-np generate --raw --adapter '{tmp_path}/my out' '{question}'"
    said = [[{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": f"{i}."}] for i in range(20)]
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": messages} for messages in said])
    chats = make_task(options(data=str(tmp_path / "chats.jsonl")), tokenizer, 64)
    assert how_to_ask(chats, tmp_path / "out") == f"lora-np generate --adapter {tmp_path}/out 'Is it so?'"
    assert how_to_ask(make_task(options(), tokenizer, 256), tmp_path).endswith(" ...")


def test_the_memory_is_that_of_the_longest_row(tokenizer, jsonl):
    chosen = options(data=jsonl)
    task = make_task(chosen, tokenizer, 256)
    width = max(task.train.batch(0, step)["input_ids"].shape[1] for step in range(5))
    assert task.train.longest == width == 24
    fields = AutoModelForCausalLM.from_pretrained("tiny-python").config.to_dict()
    assert memory_line(fields, chosen, task.train.longest).startswith("A step of 16 x 24 tokens takes about")
    assert memory_line(fields, chosen).startswith("A step of 16 x 256 tokens takes about")
