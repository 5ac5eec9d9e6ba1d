"""The model that a command works with: a base, perhaps with an adapter."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from ..lora import PeftModel, TaskType
from ..lora.files import WEIGHTS_FILE
from ..lora.peft_config import CONFIG_FILE
from ..models import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from ..models.base import CausalLM
from ..models.loading.auto import TINY_PYTHON
from ..models.loading.classifiers import said_beside
from ..models.tokenizers.base import BaseTokenizer
from ..storage import one_version, open_safetensors, read_json
from .arguments import BASE, DTYPE
from .waiting import waiting

HEADS = (".score.weight", ".classifier.weight")


def add_model_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """--base, --adapter, --device and --dtype. `default`: the base where neither it nor an adapter is given."""
    parser.add_argument("--base", metavar="NAME", help=f"the model: {BASE} (default: the adapter's base, or {default})")
    parser.add_argument("--adapter", metavar="DIR", help="a LoRA adapter for it, in PEFT's format")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (a GPU needs CuPy)")
    parser.add_argument("--dtype", default="fp32", help=DTYPE)


def load(
    base: str | None = None, adapter: str | Path | None = None, device: str = "cpu", dtype: str = "fp32"
) -> tuple[CausalLM | PeftModel, BaseTokenizer]:
    """(model, tokenizer): the base, with the adapter in the directory `adapter` if there is one.

    Without `base`, it is the one that the adapter names, or the shipped model. ValueError if it cannot write.
    """
    if adapter is not None:
        model, tokenizer = load_adapted(adapter, base, device, dtype)
        if not isinstance(model.get_base_model(), CausalLM):
            raise ValueError(
                f"{adapter} is a classifier's (task_type SEQ_CLS): it tells classes apart, it cannot write. "
                f"In Python: {how_to_classify(adapter, base or base_of(adapter))}"
            )
        return model, tokenizer
    base = base or TINY_PYTHON
    with waiting(f"Loading {base}"):
        model = AutoModelForCausalLM.from_pretrained(base, device=device, dtype=dtype)
        return model, AutoTokenizer.from_pretrained(base)


@one_version
def load_adapted(
    adapter: str | Path, base: str | None = None, device: str = "cpu", dtype: str = "fp32"
) -> tuple[PeftModel, BaseTokenizer]:
    """(model, tokenizer) with the adapter in the directory `adapter`, on `base` or the base that it names.

    ValueError if it names none.
    """
    base = base or base_of(adapter)
    with waiting(f"Loading {base}"):
        if read_json(Path(adapter) / CONFIG_FILE).get("task_type") == TaskType.SEQ_CLS:
            model = _classifier(base, Path(adapter), dtype).to(device)
        else:
            model = AutoModelForCausalLM.from_pretrained(base, device=device, dtype=dtype)
        return PeftModel.from_pretrained(model, adapter).eval(), AutoTokenizer.from_pretrained(base)


def base_of(adapter: str | Path) -> str:
    """The base that the adapter in a directory names. ValueError if it names none."""
    base = read_json(Path(adapter) / CONFIG_FILE).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{adapter} does not say which base model it belongs to: give --base")
    return base


def _classifier(base: str, adapter: Path, dtype: str) -> Any:
    """The base with a head for the classes that the adapter's folder names or has weights for."""
    changes = said_beside(adapter)
    if "id2label" not in changes:
        with open_safetensors(adapter / WEIGHTS_FILE) as file:
            heads = [shape for name, shape in file.shapes.items() if name.endswith(HEADS)]
        changes["num_labels"] = heads[0][0] if heads else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*newly initialized")  # the adapter brings it
        changes |= {"ignore_mismatched_sizes": True, "dtype": dtype}
        return AutoModelForSequenceClassification.from_pretrained(base, **changes)


def how_to_classify(adapter: str | Path, base: str) -> str:
    """The lines of Python that tell the class of a text by a classifier's adapter."""
    return (
        f"model = AutoPeftModelForSequenceClassification.from_pretrained({str(adapter)!r}); "
        f"tokenizer = AutoTokenizer.from_pretrained({base!r}); "
        "model.config.id2label[int(model(**tokenizer([text])).logits.data.argmax())]"
    )


def check_vocabulary(where: str, highest: int, tokenizer: BaseTokenizer, vocab_size: int) -> None:
    """ValueError if the model has no token with the id that is the highest in the text `where` ("data", "prompt")."""
    if highest >= vocab_size:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise ValueError(
            f"the tokenizer does not fit the model: the {where} has its token {token!r} with the id {highest}, and the "
            f"model's vocabulary has {vocab_size}"
        )
