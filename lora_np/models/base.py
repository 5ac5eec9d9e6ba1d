"""What every language model here has in common: the head, the loss, generating."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import nn
from .generation import generate, stream
from .kv_cache import KVCache
from .output import CausalLMOutput, ShardedOutput, shift_labels
from .pretrained_model import Numbers, PretrainedModel, rows_of
from .shards import forward_in_shards, shards_of


class CausalLM(PretrainedModel):
    """A transformer with a head that predicts the next token. Abstract: `gpt2.py` and `llama.py` say which transformer.

    lm_head             hidden states -> logits
    """

    lm_head: Any

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
        input_ids, labels, attention_mask = rows_of(input_ids, labels, attention_mask)
        device = self.device
        ids = self.checked_ids(input_ids, device)
        targets = None if labels is None else shift_labels(labels, ids.shape)
        if device == "cpu" and past_key_values is None and (shards := shards_of(targets)):
            return forward_in_shards(self, shards, targets, ids, labels, attention_mask, position_ids)
        hidden: Any = self.hidden_states(ids, device, attention_mask, position_ids, past_key_values)
        if logits_to_keep and targets is None:
            hidden = hidden[:, -logits_to_keep:]
        return CausalLMOutput(hidden, self.lm_head, targets, past_key_values)

    def generate(self, input_ids: Numbers, **options: Any) -> np.ndarray:
        """Continue `input_ids`; see `generation.generate` for the options."""
        return generate(self, input_ids, **options)

    def stream(self, input_ids: Numbers, **options: Any) -> Iterator[np.ndarray]:
        """Continue `input_ids` and yield each step's tokens as they come; see `generation.stream`."""
        return stream(self, input_ids, **options)

    def get_output_embeddings(self) -> nn.Module:
        """The head: the layer that turns hidden states into logits."""
        return self.lm_head

    def _tie_weights(self):
        """Make head and token embedding one parameter, if the config says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.get_input_embeddings().weight

    def separate_head(self, head: np.ndarray) -> None:
        """Give the head a weight of its own, the array `head` (V, C), and let the config say so."""
        self.lm_head.weight, self.config.tie_word_embeddings = nn.Parameter(head), False
