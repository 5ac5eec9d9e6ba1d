"""Texts into classes: a transformer with a head that scores them at the last token, for every architecture.

`score`, a Linear without bias, turns the hidden state of each row's last token that is no padding into num_labels
numbers, as in Transformers. Which loss they are trained with, config.problem_type says; if it is None, the labels do:

    regression                    num_labels = 1: the mean of (logit - label)²
    single_label_classification   integers (B,): the mean of -ln softmax(logits)[label]; a label of -100 does not count
    multi_label_classification    numbers (B, num_labels), 1 for each class that the text is of: binary cross-entropy
"""

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..autograd import functional as F
from ..autograd.devices import beside, on_gpu, to_numpy
from ..autograd.shape_ops import astype
from ..autograd.tensor import data
from .architectures import ARCHITECTURES
from .base import CausalLM
from .call_options import KNOWN, check_call
from .config import ModelConfig
from .labels import ONE_LABEL, REGRESSION, SEVERAL_LABELS, check_problem_type
from .model_output import ModelOutput
from .output import ShardedOutput
from .pretrained_model import Numbers, PretrainedModel, rows_of
from .shards import forward_in_shards, shards_of

HEAD = "score.weight"


class SequenceClassifierOutput(ModelOutput):
    """The result of a classifier: `.logits` (B, num_labels), and `.loss`, a Tensor, or None without labels."""

    names = ("loss", "logits")

    def __init__(self, loss: Tensor | None, logits: Tensor) -> None:
        self.loss, self.logits = loss, logits


class SequenceClassifier(PretrainedModel):
    """The transformer of a language model, with a head for classes. Abstract: `CLASSIFIERS` has one for each.

    language_model   the class whose transformer it is
    score            hidden states (..., C) -> scores (..., num_labels)
    """

    language_model: ClassVar[type[CausalLM]]
    score: Any

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        check_problem_type(config)
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, getattr(self.language_model(config), self.base_model_prefix))
        self.score = nn.Linear(self.get_input_embeddings().embedding_dim, config.num_labels, bias=False)
        self.draw_head()

    def draw_head(self) -> None:
        """Give the head new weights: normal, with the standard deviation that the config says."""
        self.score.weight.data = nn.normal(self.score.weight.shape, self.config.initializer_range)

    def fitting_state(self, state: dict[str, Any], resized: bool) -> tuple[dict[str, Any], list[str]]:
        """Of another model's file only the transformer is taken; the head is then new."""
        inner = f"{self.base_model_prefix}."
        fitting = {name: array for name, array in state.items() if name == HEAD or name.startswith(inner)}
        own = self.score.weight
        given = fitting.setdefault(HEAD, own)
        if given is own:
            return fitting, [HEAD]
        if given.shape != own.shape and not resized:
            raise ValueError(
                f"the file has {HEAD} {tuple(given.shape)} and num_labels is {self.num_labels}: give the file's "
                "number, or, to train a new head, ignore_mismatched_sizes=True"
            )
        return ({**fitting, HEAD: own}, [HEAD]) if given.shape != own.shape else (fitting, [])

    def forward(
        self,
        input_ids: Numbers | None = None,
        labels: Numbers | None = None,
        attention_mask: Numbers | None = None,
        position_ids: Numbers | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput | ShardedOutput:
        """input_ids (B, T) integers -> an output with .logits (B, num_labels) and, if labels are given, .loss.

        labels           (B,) or (B, num_labels): see the top of this module
        attention_mask   (B, T): 1 for a token, 0 for padding
        position_ids     (B, T) or (T,); without them, tokens are numbered from 0 on, padding included
        A plain list of T ids is one row. ValueError for several rows where the config has no pad_token_id. Other
        keywords are Transformers': see `call_options.py`.
        """
        check_call(input_ids, others, KNOWN[:4])
        if not hasattr(labels, "ndim") and not isinstance(labels, list | tuple | None):
            labels = np.array([labels])
        input_ids, _, attention_mask = rows_of(input_ids, None, attention_mask)
        device = self.device
        ids = self.checked_ids(input_ids, device)
        last = self.last_tokens(ids)
        if device == "cpu" and labels is not None and (shards := shards_of(targets := self._row_targets(labels, ids))):
            return forward_in_shards(self, shards, targets, ids, labels, attention_mask, position_ids)
        hidden: Any = self.hidden_states(ids, device, attention_mask, position_ids)
        logits = self.score(hidden[np.arange(len(ids)), last])  # (B, num_labels)
        return SequenceClassifierOutput(None if labels is None else self.loss(logits, labels), logits)

    def last_tokens(self, ids: Any) -> np.ndarray:
        """Where each row of ids (B, T) has its last token that is not the pad token, 0 if it has no other."""
        ids, pad = to_numpy(ids), self.config.pad_token_id
        if pad is None:
            if len(ids) != 1:
                raise ValueError(
                    f"{len(ids)} rows, and the model's config has no pad_token_id to tell where each ends: set "
                    "model.config.pad_token_id = tokenizer.pad_token_id (or the id of another token that fills rows)"
                )
            return np.array([ids.shape[1] - 1])
        return (np.arange(ids.shape[1]) * (ids != pad)).argmax(axis=1)

    def loss(self, logits: Tensor, labels: Any) -> Tensor:
        """The loss that the config's problem_type means, or, if it is None, the number of classes and the labels."""
        labels = data(labels)
        labels = labels if on_gpu(labels) else to_numpy(labels)
        kind = self.config.problem_type or self._kind_of(labels)
        if kind == ONE_LABEL:
            return F.cross_entropy(logits, _whole(labels, logits.shape))
        logits = astype(logits, np.result_type(logits.dtype, np.float32))  # losses of 16 bits are in float32
        fitting = labels.reshape(logits.shape) if labels.size == logits.size and self.num_labels == 1 else labels
        if fitting.shape != logits.shape:
            raise ValueError(f"labels for {kind} should be {logits.shape}, got {labels.shape}")
        if kind == SEVERAL_LABELS:
            return F.binary_cross_entropy(logits, fitting)
        difference = logits - beside(fitting, logits.data).astype(logits.dtype)
        return (difference * difference).mean()

    def _row_targets(self, labels, ids):
        """What stands for targets (B, T) in `shards.py`: in each row its label, or 0 where each row counts.

        None if the labels do not fit: `loss` will say so.
        """
        labels = to_numpy(data(labels))
        if labels.ndim == 0 or len(labels) != len(ids):
            return None
        single = (self.config.problem_type or self._kind_of(labels)) == ONE_LABEL and labels.size == len(ids)
        rows = labels.reshape(-1) if single else np.zeros(len(ids), np.int64)
        return np.broadcast_to(rows[:, None], ids.shape)

    def _kind_of(self, labels):
        if self.num_labels == 1:
            return REGRESSION
        return ONE_LABEL if labels.dtype.kind in "iu" else SEVERAL_LABELS

    def config_fields(self) -> dict[str, Any]:
        """The fields of config.json, with the name of this class."""
        return {**super().config_fields(), "architectures": [type(self).__name__]}

    def get_input_embeddings(self) -> nn.Embedding:
        """The layer that turns ids into vectors, where the language model has it."""
        return self.language_model.get_input_embeddings(self)  # it looks at the transformer

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """See `AutoModelForSequenceClassification.from_pretrained`. ValueError if the files are of another class."""
        from .loading.classifiers import load_classifier  # which imports this module

        return load_classifier(f"{cls.__name__}.from_pretrained", pretrained_model_name_or_path, cls, **kwargs)


def _whole(labels, shape):
    """Labels that are numbers of classes, one for each row. ValueError if they are not."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels for {ONE_LABEL} are the numbers of classes, integers, not {labels.dtype}")
    if labels.size != shape[0]:
        raise ValueError(
            f"labels for {ONE_LABEL} should be one integer for each of {shape[0]} rows, got {labels.shape}; "
            f"for texts of several classes there is config.problem_type = {SEVERAL_LABELS!r}"
        )
    return labels.reshape(-1)


def classifier_class(config_class: type[ModelConfig], language_model: type[CausalLM]) -> type[SequenceClassifier]:
    """The classifier with the transformer of a language model, under the name that Transformers has for it."""
    name = re.sub("Config$", "", config_class.__name__) + "ForSequenceClassification"
    about = f"The transformer of `{language_model.__name__}` with a head for classes; see `SequenceClassifier`."
    own = {"language_model": language_model, "base_model_prefix": language_model.base_model_prefix}
    return type(name, (SequenceClassifier,), {**own, "__doc__": about, "__module__": __name__})


CLASSIFIERS = {kind: classifier_class(config, model) for kind, (config, model) in ARCHITECTURES.items()}
globals().update({model.__name__: model for model in CLASSIFIERS.values()})  # each can be imported by its name
GPT2ForSequenceClassification = CLASSIFIERS["gpt2"]
LlamaForSequenceClassification = CLASSIFIERS["llama"]


def classifier_of(language_model: type[CausalLM]) -> type[SequenceClassifier]:
    """The classifier with the transformer of this class."""
    return next(model for model in CLASSIFIERS.values() if model.language_model is language_model)


def classifier_named(fields: Mapping[str, Any]) -> type[SequenceClassifier] | None:
    """The classifier that the fields of a config.json say they are of; None if they are of no classifier."""
    names = fields.get("architectures")
    known = {model.__name__: model for model in CLASSIFIERS.values()}
    given = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return next((known[name] for name in given if name in known), None)
