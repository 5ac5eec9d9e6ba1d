"""`AutoModelForSequenceClassification`: classifiers by name or path, as in Transformers."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from os import PathLike
from typing import Any

from ..classification import CLASSIFIERS, SequenceClassifier, classifier_of
from ..config import ModelConfig
from ..labels import with_changes
from .auto import resolve
from .checkpoints import Wanted, load_model


class AutoModelForSequenceClassification:
    """Makes a classifier of whichever model a directory or file holds."""

    @staticmethod
    def from_pretrained(
        name_or_path: str | PathLike[str],
        *,
        num_labels: int | None = None,
        id2label: Mapping[int, str] | None = None,
        label2id: Mapping[str, int] | None = None,
        problem_type: str | None = None,
        gguf_file: str | None = None,
        device: str = "cpu",
        config: ModelConfig | None = None,
        ignore_mismatched_sizes: bool = False,
        **config_fields: Any,
    ) -> SequenceClassifier:
        """The classifier `name_or_path` on `device`, in float32 and in evaluation mode.

        A language model will do as well: its head is left out, and `score` is new, with a warning. The other arguments
        take the places of the configuration's fields (see `ModelConfig`; also pad_token_id=...), and so does `config`;
        without them it has the file's classes, or two.
        ignore_mismatched_sizes: also make a new head where the file's has other classes.
        Errors: see `resolve` and `checkpoints.load_model`; TypeError for an argument that is none.
        """
        labels = {"num_labels": num_labels, "id2label": id2label, "label2id": label2id, "problem_type": problem_type}
        changes = {name: value for name, value in labels.items() if value is not None} | config_fields
        if config is not None:
            whole = {field.name: getattr(config, field.name) for field in fields(config)}
            changes = with_changes(whole, changes)
        path, wanted = resolve(name_or_path, gguf_file), Wanted(classifier_of, changes, ignore_mismatched_sizes)
        model = load_model(path, None, wanted)
        unknown = config_fields.keys() - {field.name for field in fields(model.config)}
        if unknown:
            name = sorted(unknown)[0]
            raise TypeError(f"from_pretrained() has no argument, and the model's config no field {name!r}")
        if wanted.drawn:
            what = f"{path} has no {' and no '.join(wanted.drawn)} for this model: newly initialized"
            warnings.warn(f"{what}, it has to be trained before the model's answers mean anything", stacklevel=2)
        model.config.name_or_path = str(name_or_path)
        return model.to(device)

    @staticmethod
    def from_config(config: ModelConfig) -> SequenceClassifier:
        """A classifier of this shape with random weights, in training mode. ValueError for an unknown model_type."""
        kind = getattr(config, "model_type", None)
        if kind not in CLASSIFIERS:
            raise ValueError(f"a config of model_type {kind!r} is not known ({', '.join(CLASSIFIERS)})")
        return CLASSIFIERS[kind](config)
