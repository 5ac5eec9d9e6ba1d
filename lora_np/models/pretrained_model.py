"""What every model here has in common, whatever its head: reading ids, the transformer, its files, checkpointing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import nn
from ..autograd import Tensor
from ..autograd.devices import on_gpu, to_numpy
from ..autograd.shape_ops import check_ids
from ..autograd.tensor import data
from ..expect import expect_method
from ..keywords import Unused, check_unused
from .context import Context, one_row
from .files import FilesOfModel
from .kv_cache import KVCache
from .resize import resize_token_embeddings
from .rope import context_length

A_CONFIG = "a config, such as GPT2Config(...); by its name a model comes from AutoModelForCausalLM.from_pretrained"
EACH_BLOCK = {
    "every_n_layers": Unused("every block is computed again: leave it out", (1,)),
    "offload": Unused("what is kept stays where it is: leave it out"),
}
Numbers = ArrayLike | Tensor  # what ids and masks may be given as: lists, arrays, Tensors


class PretrainedModel(FilesOfModel):
    """A transformer and a head. Abstract: `base.CausalLM` predicts tokens, `classification.py` classes.

    config              has vocab_size, max_position_embeddings, tie_word_embeddings, to_dict()
    base_model_prefix   the name of the attribute that holds the transformer, (ids, context) -> hidden states (B, T, C)
    head_in_files       what a language model's head is called in files, where that differs
    """

    base_model_prefix: str = ""
    head_in_files = "lm_head"
    gradient_checkpointing = False
    supports_gradient_checkpointing = True
    replicated: list[tuple[int, int]] | None = None  # how its blocks were listed, if some are there twice
    resized = False  # has its vocabulary another length than in the files that it comes from?

    def __init__(self, config: Any) -> None:
        expect_method(config, "to_dict", "config", A_CONFIG)
        self.config = config

    def hidden_states(
        self,
        ids: Any,
        device: str,
        attention_mask: Any = None,
        position_ids: Any = None,
        cache: KVCache | None = None,
        seq_idx: Any = None,
    ) -> Tensor:
        """The transformer's result (B, T, C) for `checked_ids`; the other arguments are those of `forward`."""
        context = Context(ids, device, attention_mask, position_ids, cache, self.gradient_checkpointing, seq_idx)
        self.check_positions(context.positions)
        hidden = getattr(self, self.base_model_prefix)(ids, context)
        context.close(ids.shape[1])
        return hidden

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Keep only the input of each block for the backward pass, and compute the block again there.

        gradient_checkpointing_kwargs: Transformers', for ways of torch's to do it; they change nothing here. The other
        two are refused where they would do something: ValueError.
        Training SmolLM2 (4 x 256 tokens, all-linear) reached 820 MiB instead of 1938, and took 1.4 times as long.
        """
        check_unused(
            "gradient_checkpointing_enable", {"every_n_layers": every_n_layers, "offload": offload}, EACH_BLOCK
        )
        self.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the backward pass needs, as usual."""
        self.gradient_checkpointing = False

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Transformers' later name of `gradient_checkpointing_enable`."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **options)

    activation_checkpointing_disable = gradient_checkpointing_disable

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Is each block computed again in the backward pass?"""
        return self.gradient_checkpointing

    is_activation_checkpointing = is_gradient_checkpointing

    def enable_input_require_grads(self) -> None:
        """What Transformers' models need before checkpointing with a frozen base; here there is nothing to do."""

    disable_input_require_grads = enable_input_require_grads

    @property
    def is_loaded_in_4bit(self) -> bool:
        """Are some of its layers in 4 bits?"""
        return any(isinstance(module, nn.FourBitLayer) for module in self.modules())

    def fitting_state(self, state: dict[str, Any], resized: bool) -> tuple[dict[str, Any], list[str]]:
        """(what of a file's state is for this model, names that the file lacks and `draw_head` gives new weights to).

        state: {name: anything with a shape}. resized: may that be a head of another size?
        """
        return state, []

    def get_input_embeddings(self) -> nn.Embedding:
        """The layer that turns ids into vectors."""
        raise NotImplementedError

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Make the vocabulary longer or shorter; see `resize.resize_token_embeddings`."""
        return resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of, mean_resizing)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """The memory that the parameters and, unless told otherwise, the buffers take, in bytes."""
        return nn.memory_footprint(self) if return_buffers else sum(p.data.nbytes for p in self.parameters())

    def get_output_embeddings(self) -> nn.Module | None:
        """The head that turns hidden states into logits for tokens; None if there is none."""
        return None

    def checked_ids(self, ids: Numbers, device: str = "cpu") -> Any:
        """The ids as an array (B, T), each of them a token: of NumPy, or on the model's GPU if they are there.

        Ids from the host are checked there: a GPU would have to be waited for.
        """
        array = data(ids)
        array = array if on_gpu(array) and device != "cpu" else to_numpy(array).copy()  # the backward pass reads it too
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"input_ids must be (batch, time) with at least one token, got shape {array.shape}")
        check_ids(array, self.config.vocab_size)
        return array

    def check_positions(self, positions: np.ndarray) -> None:
        """ValueError if a position lies beyond the model's context."""
        limit = context_length(self.config)
        if positions.max() >= limit:
            raise ValueError(f"{int(positions.max()) + 1} tokens are more than the model's context of {limit}")


def rows_of(input_ids: Any, labels: Any, attention_mask: Any) -> tuple[Any, Any, Any]:
    """A plain list of ids, as a tokenizer returns it for one text, as one row; so its labels and its mask."""
    if isinstance(input_ids, list) and input_ids is not one_row(input_ids):
        return one_row(input_ids), one_row(labels), one_row(attention_mask)
    return input_ids, labels, attention_mask
