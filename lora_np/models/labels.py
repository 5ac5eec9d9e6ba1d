"""What a classifier's configuration says about its classes, as in Transformers: how many there are, and their names."""

import warnings
from collections.abc import Mapping
from typing import Any

from ..storage.fields import Size, fits, short

LABELS = ("id2label", "label2id", "problem_type")  # fields that a config.json has for classifiers only
REGRESSION, ONE_LABEL, SEVERAL_LABELS = "regression", "single_label_classification", "multi_label_classification"
PROBLEM_TYPES = (REGRESSION, ONE_LABEL, SEVERAL_LABELS)
USUAL = 2  # classes, where a configuration says nothing


class NumLabels:
    """The field `num_labels`: nothing of its own, but the length of id2label.

    Setting another number makes new names, LABEL_0, LABEL_1, ...
    """

    def __get__(self, config: Any, owner: type | None = None) -> int | None:
        return None if config is None else len(config.id2label)  # None: the field's default, nothing is asked for

    def __set__(self, config: Any, count: int | None) -> None:
        if count is not None and not fits(count, Size):
            raise ValueError(f"num_labels must be a positive integer, got {short(count)}")
        if "id2label" not in vars(config):  # the configuration is being made: its other fields come after this one
            vars(config)["_asked"] = count
        elif count not in (None, len(config.id2label)):
            config.id2label = usual_names(count)
            config.label2id = turned(config.id2label)


NUM_LABELS = NumLabels()


def usual_names(count: int = USUAL) -> dict[int, str]:
    """{0: "LABEL_0", ...}, where nobody has named the classes."""
    return {number: f"LABEL_{number}" for number in range(count)}


def turned(names: dict[Any, Any]) -> dict[Any, Any]:
    """{number: name} as {name: number}, and the other way round."""
    return {value: key for key, value in names.items()}


def settle_labels(config: Any) -> None:
    """Bring a new configuration's fields about classes into order. ValueError, with the field's name, if they can't be.

    Names count more than a number beside them that says otherwise, as in Transformers; here with a warning.
    """
    asked = vars(config).pop("_asked", None)
    given = config.id2label if config.id2label is not None else _turned_back(config.label2id)
    config.id2label = usual_names(asked or USUAL) if given is None else _numbered(given)
    if config.label2id is None:
        config.label2id = turned(config.id2label)
    if asked not in (None, config.num_labels):
        warnings.warn(
            f"num_labels={asked} does not go with id2label, which has {config.num_labels} names: these count",
            stacklevel=5,
        )
    check_problem_type(config)


def _numbered(names: dict[Any, Any]) -> dict[int, Any]:
    """{number: name} with numbers as keys, which JSON makes strings."""
    try:
        numbered = {int(number): name for number, name in names.items()}
    except (TypeError, ValueError):
        raise ValueError(f"id2label must map numbers to names, got {short(names)}") from None
    if not numbered or sorted(numbered) != list(range(len(numbered))):
        raise ValueError(f"id2label must name the classes 0, 1, 2, ..., got {short(names)}")
    return numbered


def _turned_back(label2id: dict[Any, Any] | None) -> dict[int, Any] | None:
    if label2id is not None and sorted(label2id.values(), key=str) != sorted(range(len(label2id)), key=str):
        raise ValueError(f"label2id must give the names the numbers 0, 1, 2, ..., got {short(label2id)}")
    return turned(label2id) if label2id else None


def with_changes(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration with others in their places; names for another number of classes do not stay."""
    left = dict(fields)
    names, count = left.get("id2label"), changes.get("num_labels")
    other = count is not None and (not isinstance(names, dict) or len(names) != count)
    for name in ("num_labels", "id2label", "label2id") if other or {"id2label", "label2id"} & changes.keys() else ():
        left.pop(name, None)
    return {**left, **changes}


def said_of_labels(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a configuration without those about classes that are None, which say nothing."""
    return {n: value for n, value in changes.items() if value is not None or n not in ("num_labels", *LABELS)}


def label_fields(config: Any) -> dict[str, Any]:
    """Those of the fields about classes that say something, for config.json."""
    fields = {name: getattr(config, name) for name in LABELS}
    if config.id2label == usual_names():
        del fields["id2label"], fields["label2id"]
    return {name: value for name, value in fields.items() if value is not None}


def check_problem_type(config: Any) -> None:
    """ValueError if `problem_type` is none, or not one for this many labels."""
    if config.problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {short(config.problem_type)}")
    if config.problem_type == ONE_LABEL and config.num_labels == 1:
        raise ValueError(
            f"problem_type = {ONE_LABEL!r} needs num_labels of at least 2: of one class there is nothing to choose; "
            f"for a number there is {REGRESSION!r}"
        )
