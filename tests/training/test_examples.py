"""Prompts and completions: how they are read, which of their tokens are learnt, and how they come in batches."""

import functools
import itertools
import json
import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import hugging_face_twin, tiny_model
from tokenizer_helpers import sentencepiece_like, trained

from lora_np import TrainingArguments, evaluate, manual_seed, train
from lora_np.models.tokenizers import PretrainedTokenizer
from lora_np.training import ExampleData, TextData, load_examples, split_examples, tokenize_example, write_jsonl

BOS, END, PAD = 1, 2, 3
quick = settings(max_examples=60, deadline=None, derandomize=True)


class Letters:
    """A letter is a token, and so are two equal ones in a row. Turns look like "U:Hi\\n", answers like "A:Ho\\n"."""

    vocab_size, chat_template = 256, "as below"

    def __init__(self, bos=BOS, eos=END, pad=PAD):
        self.bos_token_id, self.eos_token_id, self.pad_token_id = bos, eos, pad

    def encode(self, text, add_special_tokens=True):
        front = [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        return front + [ord(m[0][0]) + 128 * (len(m[0]) > 1) for m in re.finditer(r"(?s)(.)\1|.", text)]

    encode_continuation = functools.partialmethod(encode, add_special_tokens=False)

    def __call__(self, text, *, add_special_tokens, return_offsets_mapping):
        spans = [m.span() for m in re.finditer(r"(?s)(.)\1|.", text)]
        return {"input_ids": self.encode(text, add_special_tokens), "offset_mapping": spans}

    def apply_chat_template(self, messages, add_generation_prompt=False, tokenize=False):
        assert not tokenize
        turns = [f"{message['role'][0].upper()}:{message['content']}\n" for message in messages]
        return "".join(turns) + "A:" * add_generation_prompt


def decode(ids):
    return "".join(chr(i) if i < 128 else 2 * chr(i - 128) for i in ids if i > PAD)


def letters(text):
    return [ord(c) for c in text]


def talk(*contents, system=None):
    roles = itertools.cycle(("user", "assistant"))
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"messages": [{"role": "system", "content": system}] * (system is not None) + messages}


def written(tmp_path, *lines):
    """A file with these lines: text, bytes, or anything that is then written as JSON."""
    path = tmp_path / "my.jsonl"
    lines = [line if isinstance(line, (str, bytes)) else json.dumps(line) for line in lines]
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


TEXT = {"text": "some text"}
PAIR = {"prompt": "What?", "completion": "That."}


@pytest.mark.parametrize("example", [TEXT, PAIR, talk("Hi", "Ho", system="Be short.")], ids=["text", "pair", "talk"])
@pytest.mark.parametrize("more", [{}, {"group": "g"}], ids=["alone", "group"])
def test_every_kind_of_example_is_read(tmp_path, example, more):
    example = {**example, **more}
    assert load_examples(written(tmp_path, "", example, "  ", example, "\t")) == [example] * 2


def test_files_as_editors_write_them_are_read(tmp_path):
    """A byte order mark, lines that end as on Windows, no end to the last line."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "\xc3\xa4"}\r\n\r\n{"text": "b"}')
    assert load_examples(str(path)) == [{"text": "ä"}, {"text": "b"}]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@quick
@given(st.lists(st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}), min_size=1, max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("jsonl") / "new" / "a.jsonl"
    write_jsonl(path, examples)
    assert load_examples(path) == examples


USER = {"role": "user", "content": "Hi"}
WRONG = [
    pytest.param("{", "is not JSON", id="not-json"),
    pytest.param(b'{"text": "\xe4"}', "is not JSON: .*utf-8", id="latin-1"),
    pytest.param("[" * 100_000, "is not JSON", id="deep"),
    pytest.param("9" * 5000, "is not JSON", id="large-number"),
    pytest.param([TEXT], "should be a JSON object, not a list", id="list"),
    pytest.param("{}", "has the fields none; expected are text, or prompt and completion, or messages", id="nothing"),
    pytest.param({"prompt": "a"}, "has the fields prompt; expected", id="half"),
    pytest.param({**PAIR, "answer": "x"}, "has the fields answer, completion, prompt; expected", id="one-more"),
    pytest.param({**PAIR, **TEXT}, "has the fields completion, prompt, text; expected", id="two-kinds"),
    pytest.param({"text": 3}, "text should be a string, got 3", id="number"),
    pytest.param({"prompt": None, "completion": "a"}, "prompt should be a string, got None", id="null"),
    pytest.param({**TEXT, "group": 7}, "group should be a string, got 7", id="group"),
    pytest.param('{"text": "a\\ud800"}', "text is not valid text: .*surrogate.* at 1", id="surrogate"),
    pytest.param({"text": " \n"}, "text is empty", id="empty-text"),
    pytest.param({"prompt": "a", "completion": ""}, "completion is empty", id="empty-completion"),
    pytest.param({"messages": "Hi"}, r"messages should be a list .*got 'Hi'", id="messages"),
    pytest.param({"messages": []}, r"messages should be a list .*got \[\]", id="no-messages"),
    pytest.param({"messages": [USER, "Ho"]}, "message 2 should have exactly .*role and content, got 'Ho'", id="string"),
    pytest.param({"messages": [{"role": "user"}]}, "message 1 should have exactly", id="no-content"),
    pytest.param({"messages": [{**USER, "name": "x"}]}, "message 1 should have exactly", id="message-field"),
    pytest.param(talk("Hi", ["Ho"]), r"message 2: content should be a string, got \['Ho'\]", id="parts"),
    pytest.param(talk("Hi"), "has no message with the role assistant", id="no-answer"),
    pytest.param(talk("Hi", "Ho", "So?", " "), "message 4, an answer of the assistant, is empty", id="empty-answer"),
    pytest.param({"messages": [{"role": "assistant", "content": "a"}]}, "begins with the assistant's", id="no-prompt"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_a_line_that_is_no_example_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"my\.jsonl, line 3:? {message}"):
        load_examples(written(tmp_path, TEXT, "", line, TEXT))


@pytest.mark.parametrize("other", [TEXT, {**PAIR, "group": "g"}], ids=["kind", "group"])
def test_two_kinds_in_one_file_are_refused(tmp_path, other):
    fields = ", ".join(sorted(other))
    with pytest.raises(ValueError, match=rf"my\.jsonl, line 2 has the fields {fields}, but .* completion, prompt"):
        load_examples(written(tmp_path, PAIR, other))


@pytest.mark.parametrize("lines", [[], ["", "  "]], ids=["empty", "blank"])
def test_a_file_without_examples_is_refused(tmp_path, lines):
    with pytest.raises(ValueError, match=r"my\.jsonl is empty"):
        load_examples(written(tmp_path, *lines))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl does not exist"):
        load_examples(tmp_path / "no.jsonl")


def test_of_a_text_all_is_learnt_but_the_first_token():
    assert tokenize_example({"text": "abc"}, Letters()) == ([BOS, *letters("abc"), END], [-100, *letters("abc"), END])
    assert tokenize_example({"text": "abc"}, Letters(bos=None, eos=None)) == (letters("abc"), [-100, *letters("bc")])


def test_of_a_prompt_and_its_completion_the_completion_is_learnt():
    ids, labels = tokenize_example({"prompt": "ab", "completion": "cd"}, Letters())
    assert ids == [BOS, *letters("abcd"), END]
    assert labels == [-100, -100, -100, *letters("cd"), END]


def test_prompt_and_completion_share_no_token():
    """Together "abba" would have the token "bb", which the prompt alone does not end in."""
    assert len(Letters().encode("abba")) == 4
    ids, labels = tokenize_example({"prompt": "ab", "completion": "ba"}, Letters())
    assert ids == [BOS, *letters("abba"), END]
    assert labels[3:] == [*letters("ba"), END]


@pytest.mark.parametrize(("bos", "expected"), [(BOS, [-100, *letters("ab"), END]), (None, [-100, ord("b"), END])])
def test_without_a_prompt_the_first_token_is_learnt_only_after_another(bos, expected):
    assert tokenize_example({"prompt": "", "completion": "ab"}, Letters(bos=bos))[1] == expected


@pytest.mark.parametrize("prefix", ["prepend", "always", "first", "never"])
@quick
@given(prompt=st.text("lo ra\n", max_size=8), completion=TEXTS)
def test_prompt_and_completion_are_the_joined_text_and_begin_with_the_prompts_ids(prefix, prompt, completion):
    """Also where the tokenizer puts a space before every text."""
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PretrainedTokenizer(sentencepiece_like(prefix), config)
    asked = tokenizer.encode(prompt)
    ids, labels = tokenize_example({"prompt": prompt, "completion": completion}, tokenizer)
    assert ids[: len(asked)] == asked
    assert labels == [-100] * len(asked) + ids[len(asked) :]
    spaces = (" ", "▁") if prefix != "never" else ()
    joined = (prompt + completion).replace("▁", " ")
    shown = tokenizer.decode(ids, skip_special_tokens=True)
    assert shown == joined or ((prompt + completion).startswith(spaces) and shown == joined[1:])


def test_of_a_conversation_the_answers_are_learnt_with_their_ends():
    example = talk("Hi", "Ho", "So?", "No.", system="Be short.")
    ids, labels = tokenize_example(example, Letters())
    assert decode(ids) == "S:Be short.\nU:Hi\nA:Ho\nU:So?\nA:No.\n"
    assert ids[0] == ord("S"), "the template says where special tokens go"
    turns = [("S:Be short.\nU:Hi\nA:", False), ("Ho\n", True), ("U:So?\nA:", False), ("No.\n", True)]
    assert labels == [ord(c) if learnt else -100 for text, learnt in turns for c in text]


def test_what_follows_the_last_answer_is_left_out():
    example, more = talk("Hi", "Ho"), talk("Hi", "Ho", "So?")
    assert tokenize_example(more, Letters()) == tokenize_example(example, Letters())


@quick
@given(st.lists(st.text("abc \n", min_size=1).filter(str.strip), min_size=2, max_size=7))
def test_the_targets_are_the_answers_whatever_they_say(contents):
    ids, labels = tokenize_example(talk(*contents), Letters())
    assert decode([i for i in labels if i != -100]) == "".join(f"{answer}\n" for answer in contents[1::2])
    assert all(label in (-100, i) for i, label in zip(ids, labels, strict=True))


class Rewriting(Letters):
    """A template that leaves answers out of the history once another has been given."""

    def apply_chat_template(self, messages, add_generation_prompt=False, tokenize=False):
        last = len(messages) - 1
        kept = [m for i, m in enumerate(messages) if m["role"] != "assistant" or i == last]
        return super().apply_chat_template(kept, add_generation_prompt, tokenize)


class Headless(Letters):
    """A template whose header for an answer is not the one it then gives to the answer."""

    def apply_chat_template(self, messages, add_generation_prompt=False, tokenize=False):
        return super().apply_chat_template(messages, False) + "Answer:" * add_generation_prompt


@pytest.mark.parametrize(("tokenizer", "number"), [(Rewriting(), 2), (Headless(), 2)], ids=["rewrites", "other-header"])
def test_a_template_without_a_border_before_the_answer_is_refused(tokenizer, number):
    with pytest.raises(ValueError, match=f"template does not allow completion-only loss: with message {number}"):
        tokenize_example(talk("Hi", "Ho", "So?", "No."), tokenizer)


def test_a_long_example_is_cut_at_its_end():
    example = {"prompt": "ab", "completion": "cde"}
    whole, labels = tokenize_example(example, Letters())
    for length in (4, 5, 6, 7):
        assert tokenize_example(example, Letters(), length) == (whole[:length], labels[:length])
    assert tokenize_example(example, Letters(), 3) == ([], [])


def test_an_example_made_by_hand_is_checked_too():
    with pytest.raises(ValueError, match="the example has the fields question; expected"):
        tokenize_example({"question": "a"}, Letters())


def some_examples(count=23, seed=0):
    """Pairs of many lengths, each with letters of its own in the beginning."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefgh"), n)) for n in rng.integers(1, 12, 2 * count)]
    return [{"prompt": f"{chr(48 + i)}{words[2 * i]}", "completion": words[2 * i + 1]} for i in range(count)]


def rows_of(batch):
    """Each row of a batch without its padding, as (ids, labels)."""
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        length = max(i for i, label in enumerate(labels) if label != -100) + 1
        yield ids[:length], labels[:length]


def test_a_pad_token_behind_the_vocabulary_pads_nothing():
    """Such as [PAD], added to a tokenizer whose model has no row for it."""
    data = ExampleData(some_examples(), Letters(pad=256), 64, 23)
    assert data.pad_id == END
    assert data.batch(0, 0)["input_ids"].max() < 256
    assert ExampleData(some_examples(), Letters(pad=256, eos=None), 64, 23).pad_id == 0


def test_without_an_end_token_it_is_told_that_no_end_is_learnt():
    with pytest.warns(UserWarning, match="has no end token .*does not learn where to stop") as caught:
        ExampleData(some_examples(), Letters(eos=None), 64, 23)
    assert [warning.filename for warning in caught] == [__file__]


PACKING = pytest.mark.parametrize("packing", [False, True])


@pytest.mark.parametrize(("pad", "eos", "expected"), [(PAD, END, PAD), (0, END, 0), (None, END, END), (None, None, 0)])
def test_a_batch_is_padded_on_the_right(pad, eos, expected):
    examples, tokenizer = some_examples(), Letters(pad=pad, eos=eos)
    batch = ExampleData(examples, tokenizer, 64, 23).batch(0, 0)
    known = [tokenize_example(example, tokenizer) for example in examples]
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        (n,) = (len(found) for found, _ in known if found == ids[: len(found)])
        assert (ids[:n], labels[:n]) in known
        assert ids[n:] == [expected] * (len(ids) - n)
        assert labels[n:] == [-100] * (len(ids) - n)
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(("longest", "max_length", "width"), [(16, 64, 16), (17, 64, 24), (17, 20, 20), (5, 64, 8)])
def test_the_width_is_a_multiple_of_eight_but_not_over_the_limit(longest, max_length, width):
    examples = [{"text": "ab" * 50}, {"text": "abc"}]
    examples[0]["text"] = examples[0]["text"][: longest - 2]  # beside it, BOS and END
    data = ExampleData(examples, Letters(), max_length, 2)
    assert data.batch(0, 0)["input_ids"].shape == data.batch(0, 0)["labels"].shape == (2, width)


@quick
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 3), st.booleans())
def test_an_epoch_has_every_row_once(count, batch_size, seed, packing):
    data = ExampleData(some_examples(count), Letters(), 30, batch_size, packing)
    steps = math.ceil(3 * data.rows / batch_size)
    seen = [str(row) for step in range(steps) for row in rows_of(data.batch(seed, step))]
    everything = {str(row) for row in rows_of(next(data.batches(100)))}
    assert len(everything) == data.rows
    for epoch in range(3):
        assert set(seen[epoch * data.rows : (epoch + 1) * data.rows]) == everything


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    data = ExampleData(some_examples(), Letters(), 30, 23)
    orders = {data.batch(seed, epoch)["input_ids"].tobytes() for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@PACKING
def test_a_batch_is_decided_by_seed_and_step(packing):
    data, again = (ExampleData(some_examples(), Letters(), 30, 4, packing) for _ in range(2))
    forwards = [data.batch(5, step) for step in range(20)]
    for step in reversed(range(20)):
        for name, array in again.batch(5, step).items():
            np.testing.assert_array_equal(array, forwards[step][name])


@PACKING
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_evaluation_has_every_row_once_and_like_lengths_together(packing, batch_size):
    data = ExampleData(some_examples(), Letters(), 30, 4, packing)
    batches = list(data.batches(batch_size))
    rows = [row for batch in batches for row in rows_of(batch)]
    assert len({str(row) for row in rows}) == len(rows) == data.rows
    assert all(len(batch["input_ids"]) == batch_size for batch in batches[:-1])
    lengths = [len(ids) for ids, _ in rows]
    assert lengths == sorted(lengths)


def test_packing_keeps_every_example_whole_and_once():
    examples = some_examples()
    data, apart = (ExampleData(examples, Letters(), 40, 4, packing) for packing in (True, False))
    assert data.examples == apart.examples == apart.rows == 23
    assert data.rows < 23 / 2
    known = sorted(tokenize_example(example, Letters()) for example in examples)
    found = []
    for ids, labels in rows_of(next(data.batches(100))):
        assert len(ids) <= 40
        starts = [i for i, token in enumerate(ids) if token == BOS]
        found += [(ids[a:b], labels[a:b]) for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]
    assert sorted(found) == known
    assert all(labels[0] == -100 for _, labels in found)
    assert len(data.tokens) == len(apart.tokens)


def test_in_a_packed_row_the_first_token_of_no_example_is_learnt():
    """Also where it would count in an example alone: a text without a token in front of it."""
    data = ExampleData([{"text": "abc"}, {"text": "de"}], Letters(bos=None), 16, 1, packing=True)
    ((ids, labels),) = rows_of(data.batch(0, 0))
    assert ids == [*letters("abc"), END, *letters("de"), END]
    assert labels == [-100, *letters("bc"), END, -100, *letters("e"), END]


@PACKING
def test_tokens_are_held_in_flat_arrays(packing):
    data = ExampleData(some_examples(), Letters(), 30, 4, packing)
    assert (data.tokens.dtype, data.is_target.dtype) == (np.int32, np.bool_)
    assert data.tokens.shape == data.is_target.shape == (data.offsets[-1],)
    assert (data.offsets[0], len(data.offsets)) == (0, data.rows + 1)


def test_examples_of_which_no_target_is_left_are_dropped_and_counted():
    examples = [{"prompt": "x" * 2 * n, "completion": "abcd"} for n in (2, 20, 3, 30)]
    with pytest.warns(UserWarning, match="2 of 4 examples were dropped.* 8 tokens") as caught:
        data = ExampleData(examples, Letters(), 8, 4)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert data.examples == data.rows == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExampleData(examples, Letters(), 64, 4)


@pytest.mark.parametrize(
    ("examples", "changes", "message"),
    [
        ([], {}, "none of the 0 examples"),
        ([{"prompt": "a" * 50, "completion": "b"}], {}, "none of the 1 examples .*max_length = 8 tokens"),
        ([TEXT], {"max_length": 1}, "max_length must be at least 2, got 1"),
        ([TEXT], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ([{"text": ""}], {}, "text is empty"),
    ],
)
def test_data_that_can_not_be_trained_on_are_refused(examples, changes, message):
    with pytest.raises(ValueError, match=message):
        ExampleData(examples, Letters(), **{"max_length": 8, "batch_size": 2, **changes})


def model(seed=0, **changes):
    return tiny_model(vocab_size=256, n_positions=48, seed=seed, **changes)


def target_losses(model, ids, labels):
    """-ln p of each target of one row, from the model's logits in double precision."""
    logits = model(np.array([ids])).logits.data[0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return [-logs[t - 1, label] for t, label in enumerate(labels) if label != -100]


def test_the_loss_is_the_mean_over_the_completions_tokens():
    """By hand, each example alone: the padding of a batch changes nothing, and a long completion weighs more."""
    examples, net = some_examples(), model()
    data = ExampleData(examples, Letters(), 40, 6)
    known = [tokenize_example(example, Letters()) for example in examples]
    losses = {str(row): target_losses(net, *row) for row in known}
    for step in range(4):
        batch = data.batch(0, step)
        expected = np.concatenate([losses[str(row)] for row in rows_of(batch)])
        assert len({len(losses[str(row)]) for row in rows_of(batch)}) > 1
        assert net(**batch).loss.item() == pytest.approx(expected.mean(), rel=1e-5)
    everything = np.concatenate(list(losses.values()))
    assert sum(map(len, losses.values())) == sum(len(example["completion"]) + 1 for example in examples) - sum(
        len(re.findall(r"(.)\1", example["completion"])) for example in examples
    )
    for batch_size in (1, 4, 32):
        assert evaluate(net, data, batch_size) == pytest.approx(everything.mean(), rel=1e-5)


@pytest.mark.parity
@PACKING
def test_the_loss_is_transformers_on_the_same_batch(packing):
    import torch

    net = model()
    twin = hugging_face_twin(net)
    batch = ExampleData(some_examples(), Letters(), 40, 6, packing).batch(0, 0)
    theirs = {name: array for name, array in batch.items() if name != "seq_idx"}
    if packing:  # Transformers sees from positions that begin anew that these are texts of their own
        (_, T), numbers = batch["seq_idx"].shape, batch["seq_idx"]
        starts = np.array([np.searchsorted(row, row) for row in numbers])
        theirs |= {"position_ids": np.arange(T) - starts, "use_cache": np.False_}
    with torch.no_grad():
        expected = twin(**{name: torch.tensor(array) if array.ndim else False for name, array in theirs.items()})
        expected = expected.loss.item()
    assert net(**batch).loss.item() == pytest.approx(expected, rel=1e-5)


def test_packed_examples_teach_what_they_teach_in_rows_of_their_own():
    examples, gradients = some_examples(), {}
    for packing in (False, True):
        net = model()
        (batch,) = ExampleData(examples, Letters(), 40, 6, packing).batches(100)
        loss = net(**batch).loss
        loss.backward()
        gradients[packing] = [np.array(loss.item()), *(p.grad for p in net.parameters())]
    for packed, apart in zip(gradients[True], gradients[False], strict=True):
        np.testing.assert_allclose(packed, apart, rtol=0, atol=1e-5 * max(1e-3, abs(apart).max()))


class Broken:
    """Data that fail at a step."""

    def __init__(self, data, step):
        self.data, self.step = data, step

    def batch(self, seed, step):
        if step == self.step:
            raise InterruptedError
        return self.data.batch(seed, step)


@PACKING
def test_a_run_on_examples_goes_on_exactly(tmp_path, packing):
    parts = split_examples(some_examples(), 0.3)
    data, held_out = (ExampleData(part, Letters(), 40, 3, packing) for part in parts.values())
    args = TrainingArguments(steps=10, learning_rate=0.01, eval_every=4, checkpoint_every=3, accumulation=2)

    def run(net, data, directory=None, resume=False):
        history = train(net, data, args, {"held out": held_out}, directory, resume, progress=False)
        return history, {name: array.tobytes() for name, array in net.state_dict().items()}

    whole = run(model(attn_pdrop=0.2), data)
    with pytest.raises(InterruptedError):
        run(model(attn_pdrop=0.2), Broken(data, 13), tmp_path)
    assert run(model(1, attn_pdrop=0.2), data, tmp_path, resume=True) == whole
    assert whole[0]["evaluation"][-1]["held out"] < whole[0]["evaluation"][0]["held out"]


def test_training_on_completions_learns_them_and_not_the_prompts():
    """Prompts of random letters, completions that always say the same."""
    rng = np.random.default_rng(0)
    examples = [{"prompt": "".join(rng.choice(list("abcdef"), 8)), "completion": "yes!"} for _ in range(40)]
    prompts = [{"text": example["prompt"]} for example in examples]
    manual_seed(0)
    net = model()
    data, asked = ExampleData(examples, Letters(), 40, 8), ExampleData(prompts, Letters(), 40, 8)
    before = evaluate(net, asked)
    train(net, data, TrainingArguments(steps=60, learning_rate=0.01), progress=False)
    assert evaluate(net, data) < 0.1
    assert evaluate(net, asked) > before - 0.5


MANY = [{"text": f"text {i}"} for i in range(2000)]


@pytest.mark.parametrize("held_out", [0.05, 0.1, 0.5])
def test_both_sides_have_their_share_and_nothing_is_lost(held_out):
    """Within four standard deviations of a binomial count."""
    parts = split_examples(MANY, held_out)
    assert list(parts) == ["train", "validation"]
    assert sorted(map(str, parts["train"] + parts["validation"])) == sorted(map(str, MANY))
    n = len(MANY)
    assert abs(len(parts["validation"]) - held_out * n) <= 4 * math.sqrt(n * held_out * (1 - held_out))
    assert [e for e in MANY if e in parts["validation"]] == parts["validation"]


def test_the_side_follows_from_content_and_seed_alone():
    parts, few = split_examples(MANY), split_examples(MANY[1500:500:-1])
    for name, part in few.items():
        assert sorted(map(str, part)) == sorted(str(e) for e in parts[name] if e in MANY[501:1501])
    assert split_examples(MANY) == parts != split_examples(MANY, seed=1)


def test_equal_examples_are_on_one_side():
    parts = split_examples(MANY + MANY)
    assert len(parts["train"]) + len(parts["validation"]) == 2 * len(MANY)
    assert not {e["text"] for e in parts["train"]} & {e["text"] for e in parts["validation"]}


def test_a_group_is_on_one_side():
    examples = [{**example, "group": f"file{i % 50}"} for i, example in enumerate(MANY)]
    parts = split_examples(examples, 0.3)
    groups = {name: {e["group"] for e in part} for name, part in parts.items()}
    assert not groups["train"] & groups["validation"]
    assert len(groups["train"] | groups["validation"]) == 50
    assert all(groups.values())


@quick
@given(st.integers(2, 6), st.sampled_from([1e-9, 0.1, 0.9, 1 - 1e-9]), st.integers(0, 50), st.booleans())
def test_neither_side_is_ever_empty(count, held_out, seed, grouped):
    examples = [{"text": f"{i}"} if not grouped else {"text": "a", "group": f"{i}"} for i in range(count)]
    assert all(split_examples(examples, held_out, seed).values())


@pytest.mark.parametrize(
    ("examples", "held_out", "message"),
    [
        ([TEXT], 0.1, "nothing can be held out: at least two different examples are needed, here is 1"),
        ([TEXT] * 3, 0.1, "at least two different examples are needed"),
        ([{**e, "group": "g"} for e in MANY[:4]], 0.1, "at least two groups are needed"),
        ([TEXT, {**TEXT, "group": "g"}, TEXT], 0.1, "1 of 3 examples have a group"),
        (MANY, 0.0, "held_out must be between 0 and 1, got 0"),
        (MANY, 1.5, "held_out must be between 0 and 1, got 1.5"),
    ],
)
def test_a_split_that_can_not_be_made_is_refused(examples, held_out, message):
    with pytest.raises(ValueError, match=message):
        split_examples(examples, held_out)


def test_a_tokenizer_that_ends_texts_itself_ends_them_once():
    tokenizer = PretrainedTokenizer(trained(), {"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.add_eos_token = True
    assert tokenizer.decode(tokenize_example({"text": "low"}, tokenizer)[0]) == "low</s>"
    assert tokenizer.decode(TextData({"a": "low", "b": "rank"}, tokenizer, 2, 1).tokens.tolist()) == "low</s>rank</s>"
