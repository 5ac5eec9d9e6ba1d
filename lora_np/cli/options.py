"""What can be chosen for the main job."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..expect import expect_number, expect_whole
from ..lora import LoraConfig
from ..models.loading.auto import TINY_PYTHON
from ..training import TrainingArguments

# What depends on the base: a tiny model learns fast, and in large batches of its whole context.
FOR_TINY: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-2, "max_length": 256}
FOR_OTHERS: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-3, "max_length": 256}


@dataclass(frozen=True)
class FinetuneOptions:
    """The choices of one fine-tuning run; each is an option of `lora-np finetune`.

    None for batch_size, learning_rate or max_length means what suits the base: see `resolved`.
    """

    base: str = TINY_PYTHON
    data: str | None = None
    out: str | None = None
    adapter: str | None = None
    rank: int = 8
    alpha: float = 16
    target_modules: tuple[str, ...] | str = "all-linear"
    dropout: float = 0.0
    steps: int = 160
    epochs: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    max_length: int | None = None
    packing: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    device: str = "cpu"
    dtype: str = "fp32"
    load_best: bool = False
    resume: bool = False
    task: str | None = None
    overwrite: bool = False

    @property
    def targets(self) -> list[str] | str:
        """The target modules as a LoraConfig takes them."""
        return self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)

    def check(self) -> None:
        """ValueError for a number that makes no sense with any base or data; nothing is loaded to see that."""
        expect_whole(self.seed, "seed", least=0)
        if self.epochs is not None:
            expect_number(self.epochs, "epochs", positive=True)
            if self.steps != FinetuneOptions.steps:
                raise ValueError(f"steps={self.steps} and epochs={self.epochs:g} both say how long to train: give one")
        for name, least in (("batch_size", 1), ("max_length", 2)):
            if getattr(self, name) is not None:
                expect_whole(getattr(self, name), name, least)
        LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=self.targets)
        rate = FOR_OTHERS["learning_rate"] if self.learning_rate is None else self.learning_rate
        TrainingArguments(steps=self.steps, learning_rate=rate)

    def resolved(self, context: int, processes: int = 1) -> "ResolvedOptions":
        """These options with a number in the place of each None; `context` is the most tokens that the model reads.

        ValueError if `max_length` is below 2 or above the context, if so many processes cannot share out a batch, or if
        what was chosen makes no sense together.
        """
        self.check()
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        suits = FOR_TINY if self.base == TINY_PYTHON else FOR_OTHERS
        missing = {name: value for name, value in suits.items() if given[name] is None}
        length = min(missing["max_length"], context) if "max_length" in missing else given["max_length"]
        if not 2 <= length <= context:
            raise ValueError(f"max_length must be from 2 to the model's context of {context}, got {length}")
        if (rows := missing.get("batch_size", given["batch_size"])) % processes:
            raise ValueError(
                f"{processes} processes cannot share out batches of {rows} evenly: give another --batch-size"
            )
        return ResolvedOptions(**{**given, **missing, "max_length": length})


@dataclass(frozen=True)
class ResolvedOptions(FinetuneOptions):
    """Options in which nothing is left open."""

    batch_size: int = FOR_OTHERS["batch_size"]
    learning_rate: float = FOR_OTHERS["learning_rate"]
    max_length: int = FOR_OTHERS["max_length"]


def option_defaults() -> dict[str, Any]:
    """{name: default} of FinetuneOptions, for the command line."""
    return {field.name: field.default for field in dataclasses.fields(FinetuneOptions)}
