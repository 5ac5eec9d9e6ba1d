"""`AutoModelForSequenceClassification`: classifiers by name or path, as in Transformers."""

from os import PathLike
from pathlib import Path
from typing import Any

from ...refusals import warn
from ...storage import is_there, read_json
from ..classification import SequenceClassifier, classifier_of
from ..config import ModelConfig
from .auto import load_any, make_any
from .checkpoints import Wanted

BESIDE = ("id2label", "pad_token_id", "problem_type")


def said_beside(adapter: Path, classes: int | None = None) -> dict[str, Any]:
    """What a config.json beside a classifier's adapter says of its classes, and of the token that fills rows.

    classes: how many the adapter's head has, where it has one; names of another number of classes are left out.
    """
    file = adapter / "config.json"
    fields = read_json(file) if is_there(file) else {}
    said = {name: fields[name] for name in BESIDE if fields.get(name) is not None}
    if classes is not None and isinstance(names := said.get("id2label"), dict) and len(names) != classes:
        del said["id2label"]
    return said


def load_classifier(
    call: str,
    name_or_path: str | PathLike[str],
    kind: type[SequenceClassifier] | None = None,
    says: bool = True,
    ignore_mismatched_sizes: bool = False,
    **options: Any,
) -> Any:
    """The classifier `name_or_path`; see `AutoModelForSequenceClassification.from_pretrained`.

    call: the function as the user wrote it. kind: the class that it should be of, or None. says: with a warning if the
    head is new?
    """
    wanted = Wanted(classifier_of, resized=ignore_mismatched_sizes)
    model = load_any(call, name_or_path, wanted, kind, **options)
    if wanted.drawn and says:
        what = f"{name_or_path} has no {' and no '.join(wanted.drawn)} for this model: newly initialized"
        warn(f"{what}, it has to be trained before the model's answers mean anything")
    return model


class AutoModelForSequenceClassification:
    """Makes a classifier of whichever model a directory or file holds."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | PathLike[str],
        gguf_file: str | None = None,
        device: str = "cpu",
        **kwargs: Any,
    ) -> SequenceClassifier:
        """The classifier on `device`, in float32 and in evaluation mode.

        A language model will do as well: its head is left out, and `score` is new, with a warning. The keywords are
        those of `AutoModelForCausalLM.from_pretrained`. Of the fields of the configuration, in the place of what the
        file says, these are for classifiers; without them it has the file's classes, or two:

        num_labels           how many classes; 1 for a number
        id2label, label2id   their names, {0: "bad", 1: "good"}, and the other way round; one of the two will do
        problem_type         which loss; see `models/classification.py`
        pad_token_id         what fills rows

        ignore_mismatched_sizes: also make a new head where the file's has other classes.
        Errors: see `resolve` and `checkpoints.load_model`; TypeError for an argument that is none.
        """
        call = "AutoModelForSequenceClassification.from_pretrained"
        return load_classifier(call, pretrained_model_name_or_path, gguf_file=gguf_file, device=device, **kwargs)

    @staticmethod
    def from_config(config: ModelConfig, **kwargs: Any) -> SequenceClassifier:
        """A classifier of this shape with random weights, in training mode. dtype=, num_labels=, ...: as above."""
        return make_any("AutoModelForSequenceClassification.from_config", config, Wanted(classifier_of), **kwargs)
