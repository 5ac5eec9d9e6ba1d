"""What every language model here has in common: reading ids, the head, the loss, generating, saving."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import nn
from ..autograd import Tensor
from ..autograd.devices import on_gpu, to_numpy
from ..autograd.shape_ops import check_ids
from ..autograd.tensor import data
from ..expect import expect_method
from .context import Context, one_row
from .files import FilesOfModel
from .generation import generate, stream
from .kv_cache import KVCache
from .output import CausalLMOutput, ShardedOutput, shift_labels
from .shards import forward_in_shards, shards_of

A_CONFIG = "a config, such as GPT2Config(...); by its name a model comes from AutoModelForCausalLM.from_pretrained"
Numbers = ArrayLike | Tensor  # what ids and masks may be given as: lists, arrays, Tensors


class CausalLM(FilesOfModel):
    """A transformer with a head that predicts the next token. Abstract: `gpt2.py` and `llama.py` say which transformer.

    config              has vocab_size, max_position_embeddings, tie_word_embeddings, to_dict()
    base_model_prefix   the name of the attribute that holds the transformer, (ids, context) -> hidden states (B, T, C)
    lm_head             hidden states -> logits
    generation_config   {name: value} of generation_config.json, if there is one: defaults of `generate`
    """

    base_model_prefix: str = ""
    gradient_checkpointing = False
    lm_head: Any
    generation_config: dict[str, Any]

    def __init__(self, config: Any) -> None:
        expect_method(config, "to_dict", "config", A_CONFIG)
        self.config, self.generation_config = config, {}

    def forward(
        self,
        input_ids: Numbers,
        labels: Numbers | None = None,
        attention_mask: Numbers | None = None,
        position_ids: Numbers | None = None,
        past_key_values: KVCache | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutput | ShardedOutput:
        """input_ids (B, T) integers -> an output with .logits (B, T, V) and, if labels are given, .loss.

        A plain list of T ids is one row, as a tokenizer returns it for one text; so are its labels and its mask.

        labels (B, T)           usually the ids themselves. They are shifted here: position t is judged by label t + 1.
                                Positions labelled -100 do not count.
        attention_mask (B, S)   1 for a token, 0 for padding, for the S tokens read so far, these included
        position_ids            (B, T) or (T,); without them, tokens are numbered on from those in the cache
        past_key_values         a `KVCache`, which these tokens are added to; inside `no_grad` only
        logits_to_keep          logits of the last so many positions only; 0 for all
        Ids and labels that are on the model's GPU stay there.
        """
        if isinstance(input_ids, list) and input_ids is not one_row(input_ids):
            input_ids, labels, attention_mask = one_row(input_ids), one_row(labels), one_row(attention_mask)
        device = self.device
        ids = self.checked_ids(input_ids, device)
        targets = None if labels is None else shift_labels(labels, ids.shape)
        if device == "cpu" and past_key_values is None and (shards := shards_of(targets)):
            return forward_in_shards(self, shards, targets, ids, labels, attention_mask, position_ids)
        context = Context(ids, device, attention_mask, position_ids, past_key_values, self.gradient_checkpointing)
        self.check_positions(context.positions)
        hidden = getattr(self, self.base_model_prefix)(ids, context)
        context.close(ids.shape[1])
        if logits_to_keep and targets is None:
            hidden = hidden[:, -logits_to_keep:]
        return CausalLMOutput(hidden, self.lm_head, targets, past_key_values)

    def generate(self, input_ids: Numbers, **options: Any) -> np.ndarray:
        """Continue `input_ids`; see `generation.generate` for the options."""
        return generate(self, input_ids, **options)

    def stream(self, input_ids: Numbers, **options: Any) -> Iterator[np.ndarray]:
        """Continue `input_ids` and yield each step's tokens as they come; see `generation.stream`."""
        return stream(self, input_ids, **options)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Keep only the input of each block for the backward pass, and compute the block again there.

        gradient_checkpointing_kwargs: Transformers', for ways of torch's to do it; they change nothing here.
        Training SmolLM2 (4 x 256 tokens, all-linear) reached 820 MiB instead of 1938, and took 1.4 times as long.
        """
        self.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the backward pass needs, as usual."""
        self.gradient_checkpointing = False

    def enable_input_require_grads(self) -> None:
        """What Transformers' models need before checkpointing with a frozen base; here there is nothing to do."""

    def get_output_embeddings(self) -> nn.Module:
        """The head: the layer that turns hidden states into logits."""
        return self.lm_head

    def get_input_embeddings(self) -> nn.Embedding:
        """The layer that turns ids into vectors."""
        raise NotImplementedError

    def _tie_weights(self):
        """Make head and token embedding one parameter, if the config says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.get_input_embeddings().weight

    def separate_head(self, head: np.ndarray) -> None:
        """Give the head a weight of its own, the array `head` (V, C), and let the config say so."""
        self.lm_head.weight, self.config.tie_word_embeddings = nn.Parameter(head), False

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
        limit = self.config.max_position_embeddings
        if positions.max() >= limit:
            raise ValueError(f"{int(positions.max()) + 1} tokens are more than the model's context of {limit}")
