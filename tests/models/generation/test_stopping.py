"""When rows end: stop strings as Transformers finds them, criteria of one's own, time."""

import numpy as np
import pytest
from generation_helpers import both_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, some_ids, tiny_model

from lora_np import ByteTokenizer, EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StoppingCriteriaList
from lora_np.models.generation import StoppingCriteria, StopStringCriteria


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Ours, and Transformers', of one vocabulary."""
    return both_tokenizers(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parity
@settings(fuzz, max_examples=40)
@given(data=st.data())
def test_stop_strings_are_found_where_transformers_finds_them(tokenizers, data):
    import transformers

    ours, theirs = tokenizers
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    ids = rng.integers(4, len(theirs), (3, data.draw(st.integers(1, 12))))
    text = theirs.decode(ids[0])
    begin = data.draw(st.integers(0, max(0, len(text) - 1)))
    stops = [text[begin : begin + data.draw(st.integers(1, 6))], text[-data.draw(st.integers(1, 5)) :], "e"]
    stops = [stop for stop in stops if stop and "\ufffd" not in stop] or ["e"]
    expected = transformers.StopStringCriteria(tokenizer=theirs, stop_strings=stops)
    import torch

    for end in range(1, ids.shape[1] + 1):
        found = StopStringCriteria(ours, stops)(ids[:, :end], None)
        np.testing.assert_array_equal(found, expected(torch.tensor(ids[:, :end]), None).numpy())


@pytest.mark.parametrize(
    ("text", "stops", "ends"),
    [
        ("a stop", "stop", True),
        ("a stopp", "stop", False),  # it was complete before
        ("a sto", "stop", False),
        ("a stop", ["x", "top"], True),
        ("stop", "stop", True),
        ("ä", "ä", True),
        ("€", "€", True),
        ("", "stop", False),
    ],
)
def test_a_text_ends_with_the_byte_that_completes_it(text, stops, ends):
    ids = np.array([[0, *text.encode()]])
    assert StopStringCriteria(ByteTokenizer(), stops)(ids, None).tolist() == [ends]
    if ends:
        assert not StopStringCriteria(ByteTokenizer(), stops)(ids[:, :-1], None).any()


@pytest.mark.parametrize("stops", ["", [], ["a", ""]])
def test_an_empty_stop_string_is_refused(stops):
    with pytest.raises(ValueError, match="stop_strings must be a text, or a list of texts, none empty"):
        StopStringCriteria(ByteTokenizer(), stops)


def test_each_criterion_says_which_rows_end():
    ids = np.array([[1, 2, 3], [1, 3, 2]])
    assert EosTokenCriteria([3, 9])(ids, None).tolist() == [True, False]
    assert MaxLengthCriteria(3)(ids, None).tolist() == [True, True]
    assert MaxLengthCriteria(4)(ids, None).tolist() == [False, False]
    assert MaxTimeCriteria(1e9)(ids, None).tolist() == [False, False]
    assert MaxTimeCriteria(5, initial_timestamp=0)(ids, None).tolist() == [True, True]
    both = StoppingCriteriaList([EosTokenCriteria(3), EosTokenCriteria(2)])
    assert both(ids, None).tolist() == [True, True]
    assert StoppingCriteriaList()(ids, None).tolist() == [False, False]


@pytest.mark.parametrize("answer", [True, np.True_, [True, True], np.array([[True], [True]])], ids=repr)
def test_a_criterion_may_answer_for_all_or_for_each(answer):
    assert StoppingCriteriaList([lambda ids, scores: answer])(np.ones((2, 1), int), None).tolist() == [True, True]


def test_an_answer_of_another_size_is_refused_by_name():
    def of_three(ids, scores):
        return [True] * 3

    with pytest.raises(ValueError, match="the stopping criterion of_three should say True or False for each of 2 rows"):
        StoppingCriteriaList([of_three])(np.ones((2, 1), int), None)


def test_an_unwritten_criterion_says_what_to_write():
    with pytest.raises(NotImplementedError, match="write __call__"):
        StoppingCriteria()(None, None)


def test_time_ends_a_text_after_a_token():
    model = tiny_model(eos_token_id=None)
    assert model.generate(some_ids(model.config, time=3), max_new_tokens=8, max_time=0.0).shape[1] < 11
    assert model.generate(some_ids(model.config, time=3), max_new_tokens=8, max_time=1e6).shape[1] == 11


def test_a_given_criterion_goes_before_one_of_its_class():
    model = tiny_model(eos_token_id=None)
    whole = model.generate([[1, 2]], max_new_tokens=8)
    never = EosTokenCriteria(30 if 30 not in whole else 29)
    found = model.generate([[1, 2]], max_new_tokens=8, eos_token_id=int(whole[0, 2]), stopping_criteria=[never])
    np.testing.assert_array_equal(found, whole)


def test_criteria_see_the_scores_if_they_are_asked_for():
    seen = []
    options = {"max_new_tokens": 3, "stopping_criteria": lambda ids, scores: seen.append(scores) or False}
    tiny_model(eos_token_id=None).generate([[1, 2]], return_dict_in_generate=True, output_scores=True, **options)
    tiny_model(eos_token_id=None).generate([[1, 2]], **options)
    assert [None if scores is None else len(scores) for scores in seen] == [1, 2, 3, None, None, None]
