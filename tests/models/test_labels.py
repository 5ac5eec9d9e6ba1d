"""What a configuration says about classes: numbers and names, with Transformers' rules."""

import copy

import pytest

from lora_np import GPT2Config
from lora_np.models.architectures import ARCHITECTURES
from lora_np.models.labels import with_changes


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_config_has_them_and_its_first_argument_is_still_the_vocabulary(name):
    config = ARCHITECTURES[name][0](7, num_labels=3, pad_token_id=1)
    assert (config.vocab_size, config.num_labels, config.pad_token_id) == (7, 3, 1)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert type(config).from_dict(config.to_dict()) == config


def test_setting_a_number_makes_new_names_and_the_same_number_keeps_them():
    config = GPT2Config(id2label={"0": "no", "1": "yes"})
    assert config.id2label == {0: "no", 1: "yes"}
    assert config.label2id == {"no": 0, "yes": 1}
    config.num_labels = 2
    assert config.id2label == {0: "no", 1: "yes"}
    config.num_labels = 3
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert copy.deepcopy(config) == config
    assert copy.copy(config).num_labels == 3


def test_a_language_models_file_says_nothing_of_classes():
    assert not {"num_labels", "id2label", "label2id", "problem_type"} & GPT2Config().to_dict().keys()
    assert "num_labels" not in GPT2Config(num_labels=3).to_dict()
    assert GPT2Config(num_labels=3).to_dict()["id2label"] == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_names_count_more_than_a_number_that_says_otherwise():
    with pytest.warns(UserWarning, match="num_labels=5 does not go with id2label, which has 2 names"):
        assert GPT2Config(num_labels=5, id2label={0: "a", 1: "b"}).num_labels == 2


def test_names_follow_from_label2id():
    assert GPT2Config(label2id={"a": 1, "b": 0, "c": 2}).id2label == {0: "b", 1: "a", 2: "c"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 0}, "num_labels must be a positive integer, got 0"),
        ({"num_labels": "3"}, "num_labels must be a positive integer, got '3'"),
        ({"id2label": {"x": "a"}}, "id2label must map numbers to names"),
        ({"id2label": {1: "a", 2: "b"}}, "id2label must name the classes 0, 1, 2"),
        ({"id2label": {}}, "id2label must name the classes"),
        ({"label2id": {"a": 1, "b": 2}}, "label2id must give the names the numbers 0, 1, 2"),
        ({"problem_type": "ranking"}, "problem_type must be one of regression, .*, got 'ranking'"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "needs num_labels of at least 2"),
    ],
)
def test_what_cannot_be_is_refused_by_the_fields_name(fields, message):
    with pytest.raises(ValueError, match=message):
        GPT2Config(**fields)


def test_changes_take_the_place_of_a_files_fields():
    fields = {"vocab_size": 7, "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    assert with_changes(fields, {}) == fields
    assert with_changes(fields, {"num_labels": 2}) == {**fields, "num_labels": 2}
    assert with_changes(fields, {"num_labels": 3}) == {"vocab_size": 7, "num_labels": 3}
    assert with_changes(fields, {"id2label": {0: "x"}}) == {"vocab_size": 7, "id2label": {0: "x"}}


@pytest.mark.parity
@pytest.mark.parametrize("fields", [{}, {"num_labels": 4}, {"id2label": {"0": "a", "1": "b"}}])
def test_they_are_transformers(fields):
    import transformers

    ours, theirs = GPT2Config(**fields), transformers.GPT2Config(**fields)
    for number in (None, 2, 5):
        if number:
            ours.num_labels = theirs.num_labels = number
        assert (ours.num_labels, ours.id2label) == (theirs.num_labels, theirs.id2label)
        if "id2label" not in fields or number == 5:  # label2id is not derived there
            assert ours.label2id == theirs.label2id
