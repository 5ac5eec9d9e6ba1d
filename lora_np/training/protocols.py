"""What training asks of what it is given, as types: the words of the signatures in this folder."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]  # of NumPy; on a GPU the same of CuPy, which looks alike
Batch = dict[str, Array]  # {"input_ids", "labels"}, (B, T) each; a label of -100 is not learnt
Documents = dict[str, str]  # {name: text}
Example = dict[str, Any]  # see examples.py
Tell = Callable[[str, Any], object]  # is told ("on_step_end", the run); see callback_handler.py
History = dict[str, Any]  # {"loss": [...], "learning_rate": [...], "evaluation": [{"step":, name: loss, ...}]}


class TrainingData(Protocol):
    """What `train` reads: `TextData`, `ExampleData`, or a class of your own with this one method."""

    def batch(self, seed: int, step: int) -> Batch | None:
        """The batch of a step, counted from 0; the same for the same seed and step. None, of several whose gradients
        are added up, where there is nothing left for it."""


class EvaluationData(Protocol):
    """A data set that `evaluate` can read from beginning to end, such as `ExampleData`."""

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Every row once, in batches of at most so many."""


class Tokenizer(Protocol):
    """What data asks of a tokenizer: those of `lora_np.models` answer it."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_token_id(self) -> int | None: ...

    @property
    def pad_token_id(self) -> int | None: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text."""

    def encode_continuation(self, text: str) -> list[int]:
        """The ids of a text that stands behind another: no special tokens, no space of the tokenizer's own."""

    def __call__(self, text: str, *, add_special_tokens: bool, return_offsets_mapping: bool) -> Mapping[str, Any]:
        """{"input_ids", "offset_mapping"}: the ids of a text, and (begin, end) of the characters of each."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_assistant_tokens_mask: bool = False,
    ) -> Any:
        """A conversation in the model's own format: text with `tokenize=False`; else ids, with a mask
        if that is asked for, which is done only where the template marks answers."""
