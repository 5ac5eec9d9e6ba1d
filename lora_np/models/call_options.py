"""Transformers' keywords of a model's call: what each means here, or why it means nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..keywords import Unused, check_unused

NO_OUTPUT = "a model's output is its logits and loss"
KNOWN = ("input_ids", "labels", "attention_mask", "position_ids", "past_key_values", "logits_to_keep", "seq_idx")
CALL_OPTIONS = {
    "use_cache": Unused("keys and values go into the cache that is given: past_key_values=KVCache(capacity)"),
    "return_dict": Unused(
        "an output has its parts as attributes, out.logits, and is a tuple where it is indexed", (True,)
    ),
    "output_hidden_states": Unused(NO_OUTPUT),
    "output_attentions": Unused(NO_OUTPUT),
    "inputs_embeds": Unused("a text is given by its ids, input_ids", ()),
    "token_type_ids": Unused("the models here read no token types: leave it out", ()),
    "cache_position": Unused("position_ids says where tokens stand", ()),
    "num_items_in_batch": Unused("the loss is a mean over the targets of the call: multiply it", ()),
    "head_mask": Unused("no head can be left out", ()),
    "encoder_hidden_states": Unused("the models here are decoders alone", ()),
    "encoder_attention_mask": Unused("the models here are decoders alone", ()),
}


def check_call(input_ids: Any, others: Mapping[str, Any], known: Iterable[str] = KNOWN) -> None:
    """TypeError for a call without ids or with a keyword that models do not have; ValueError for what is not here."""
    check_unused("the model", others, CALL_OPTIONS, known)
    if input_ids is None:
        raise TypeError("the model needs input_ids, integers (B, T): model(**tokenizer(text, return_tensors='np'))")
    refuse_text("the model", input_ids, "model(**tokenizer(text))")


def refuse_text(call: str, found: Any, instead: str) -> None:
    """TypeError for a text, a list of them, or what a tokenizer returns, where ids belong. instead: what to write."""
    texts = isinstance(found, str) or (isinstance(found, list | tuple) and any(isinstance(one, str) for one in found))
    if texts or hasattr(found, "keys"):
        raise TypeError(f"{call} takes ids, not a text or a tokenizer's result: write {instead}")
