"""What every language model here has in common: the head, the loss, generating."""

import re
from typing import Any

import numpy as np

from .. import nn
from .call_options import check_call
from .context import texts_by_position
from .generation import GenerationConfig, GenerationMixin
from .kv_cache import KVCache
from .output import CausalLMOutput, ShardedOutput, shift_labels
from .pretrained_model import Numbers, PretrainedModel, rows_of
from .rope import rows_apart
from .shards import forward_in_shards, shards_of


class CausalLM(GenerationMixin, PretrainedModel):
    """A transformer with a head that predicts the next token. Abstract: `gpt2.py` and `llama.py` say which transformer.

    lm_head             hidden states -> logits
    generation_config   what generation_config.json says, a `GenerationConfig`: defaults of `generate`
    softcap             what caps the logits (Gemma 2); None if nothing does
    """

    softcap: float | None = None
    lm_head: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.generation_config = GenerationConfig.from_model_config(config)

    def forward(
        self,
        input_ids: Numbers | None = None,
        labels: Numbers | None = None,
        attention_mask: Numbers | None = None,
        position_ids: Numbers | None = None,
        past_key_values: KVCache | None = None,
        logits_to_keep: int = 0,
        seq_idx: Numbers | None = None,
        **others: Any,
    ) -> CausalLMOutput | ShardedOutput:
        """input_ids (B, T) integers -> an output with .logits (B, T, V) and, if labels are given, .loss.

        A plain list of T ids is one row, as a tokenizer returns it for one text; so are its labels and its mask.

        labels (B, T)           usually the ids themselves. They are shifted here: position t is judged by label t + 1.
                                Positions labelled -100 do not count.
        attention_mask (B, S)   1 for a token, 0 for padding, for the S tokens read so far, these included
        position_ids            (B, T) or (T,); without them, tokens are numbered on from those in the cache
        past_key_values         a `KVCache`, which these tokens are added to; inside `no_grad` only
        logits_to_keep          logits of the last so many positions only; 0 for all
        seq_idx                 integers (B, T), for rows that hold several texts, side by side: the number of each
                                token's text. None sees another, and positions begin anew in each
        use_cache=False         as in Transformers, position_ids that begin anew then tell texts apart, without a mask
        Ids and labels that are on the model's GPU stay there. Of `others`, Transformers' keywords, those that change
        nothing here are accepted; the rest is refused by name (`call_options.py`).
        """
        check_call(input_ids, others)
        input_ids, labels, attention_mask = rows_of(input_ids, labels, attention_mask)
        device = self.device
        ids = self.checked_ids(input_ids, device)
        targets = None if labels is None else shift_labels(labels, ids.shape)
        whole = all(one is None for one in (attention_mask, past_key_values, seq_idx))
        if whole and position_ids is not None and others.get("use_cache") is False:
            seq_idx = texts_by_position(position_ids, ids.shape)
        apart = (position_ids is None and seq_idx is None) or rows_apart(self.config)
        if apart and device == "cpu" and past_key_values is None and (shards := shards_of(targets)):
            return forward_in_shards(self, shards, targets, ids, labels, attention_mask, position_ids, seq_idx)
        hidden: Any = self.hidden_states(ids, device, attention_mask, position_ids, past_key_values, seq_idx)
        if logits_to_keep and targets is None:
            hidden = hidden[:, -logits_to_keep:]
        return CausalLMOutput(hidden, self.lm_head, targets, past_key_values, self.softcap)

    def stored_state(self) -> dict[str, np.ndarray]:
        """{name as files have it: array}."""
        state = self.whole_state()
        return {re.sub(r"^lm_head\.", f"{self.head_in_files}.", name): array for name, array in state.items()}

    def reads_anew(self, held: int, length: int) -> bool:
        """Is a text of `length` tokens to be read from its start, though a cache holds the first `held`? (Phi-3)"""
        return False

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
