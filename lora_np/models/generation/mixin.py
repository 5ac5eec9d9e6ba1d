"""What a model can write with: `generate`, `stream`, and the options that it has of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ...expect import expect
from ...refusals import refuses_here
from ...storage import remove, write_json
from .config import FILE, GenerationConfig
from .generate import generate, stream
from .output import GenerateOutput, transition_scores


class GenerationMixin:
    """A part of a language model; `config` is the model's."""

    config: Any
    _generation_config: GenerationConfig

    @property
    def generation_config(self) -> GenerationConfig:
        """What `generate` does where a call says nothing: a `GenerationConfig`, or a mapping that it is made of."""
        return self._generation_config

    @generation_config.setter
    def generation_config(self, value: GenerationConfig | Mapping[str, Any]) -> None:
        expect(value, GenerationConfig | Mapping, "generation_config", "a GenerationConfig(...)")
        self._generation_config = value if isinstance(value, GenerationConfig) else GenerationConfig.from_dict(value)

    @refuses_here
    def generate(
        self, inputs: Any = None, generation_config: GenerationConfig | None = None, **options: Any
    ) -> np.ndarray | GenerateOutput:
        """Continue each row of ids (B, T), or a list of T; returns ids (B·num_return_sequences, T + new), as a Tensor
        where the ids are one, else as an array.

        What to continue
          inputs, input_ids     the text so far; without, the one token bos_token_id
          attention_mask        (B, T), 0 for padding, which is on the left. Without, each pad_token_id is padding if it
                                is no eos_token_id. A row is continued as it would be alone
          past_key_values       a `KVCache` that holds the beginning of the text already
        How long
          max_new_tokens        the most tokens that are written; max_length counts the prompt too. Without both, 20,
                                and a warning
          min_new_tokens, min_length   no end before
          eos_token_id          a token, or a list, after which a row is finished; [] or None for none. Finished rows
                                are filled up with pad_token_id
          stop_strings          a text, or a list, after which a row is finished; with tokenizer=
          max_time              seconds
          stopping_criteria     functions (ids, scores) -> booleans (B,), or `StoppingCriteria`
        Which token
          do_sample             draw at random; otherwise the most likely token is taken (greedy)
          temperature, top_k (50; 0 or None for all), top_p, min_p, typical_p, top_h, epsilon_cutoff, eta_cutoff
                                the distribution that is drawn from: `generation/warpers.py` has the formulas
          seed                  the same seed gives the same text; without one, `manual_seed`'s generator is used
          num_beams             follow so many texts, and return the likeliest as a whole; length_penalty is the power
                                of the length that its log probability is divided by; early_stopping=True ends with
                                so many finished texts, False when better ones are unlikely, "never" when impossible
          num_return_sequences  how many texts for each row
          repetition_penalty, encoder_repetition_penalty, no_repeat_ngram_size, encoder_no_repeat_ngram_size,
          bad_words_ids, suppress_tokens, begin_suppress_tokens, sequence_bias, forced_bos_token_id,
          forced_eos_token_id, exponential_decay_length_penalty, prefix_allowed_tokens_fn, remove_invalid_values,
          renormalize_logits    what is favoured and forbidden: `generation/processors.py`
          logits_processor      functions (ids (B, T), scores (B, V)) -> scores, or `LogitsProcessor`
        What comes back
          return_dict_in_generate   a `GenerateOutput`, with output_scores and output_logits
          streamer              shows the text as it is written: `TextStreamer(tokenizer)`
          use_cache             keep keys and values (`KVCache`) instead of computing them again
        generation_config: a `GenerationConfig` with some of these; a call's own go before it, and before what it leaves
        open goes what the model's says. Names and results are Transformers'. Where the text outgrows the model's
        context, the model sees the last part of it, without a cache from then on. No dropout, whatever the model is set
        to; it is not changed.

        TypeError for an option that there is not; ValueError for one that makes no sense, or is not supported.
        FloatingPointError if the model's logits are no numbers.
        """
        return generate(self, inputs, generation_config, **options)  # type: ignore[arg-type]

    @refuses_here
    def stream(
        self, inputs: Any = None, generation_config: GenerationConfig | None = None, **options: Any
    ) -> Iterator[np.ndarray]:
        """An iterator over the tokens that continue the ids: one array (B,) for each step, as soon as it is chosen.

        The options are those of `generate`, without beams. What is wrong with them is said at once. Each step has what
        this call was told (`disable_adapter`), also if the iterator is used after that block.
        """
        return stream(self, inputs, generation_config, **options)  # type: ignore[arg-type]

    def compute_transition_scores(
        self,
        sequences: np.ndarray,
        scores: Sequence[np.ndarray],
        beam_indices: np.ndarray | None = None,
        normalize_logits: bool = False,
    ) -> np.ndarray:
        """The scores (N, new) of the tokens that `generate` chose; see `transition_scores`."""
        return transition_scores(sequences, scores, beam_indices, normalize_logits)

    def write_generation_config(self, directory: str | PathLike[str]) -> None:
        """Write generation_config.json, if more is said than in config.json; another model's is removed."""
        path, own = Path(directory) / FILE, self.generation_config
        if own == GenerationConfig.from_model_config(self.config):
            remove(path)
        else:
            write_json(path, own.to_json())
