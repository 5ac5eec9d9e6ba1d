"""What `generate` and `chat` share: a model goes on from a text, and shows it as it is written."""

import argparse
import time
from collections.abc import Iterator
from typing import Any, TextIO

from ..lora import PeftModel
from ..models.base import CausalLM
from ..models.tokenizers.base import BaseTokenizer
from .arguments import HelpFormatter
from .model import check_vocabulary
from .parser import seed


def add_sampling_arguments(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """How the next token is chosen, and how many there are."""
    parser.formatter_class = HelpFormatter
    add = parser.add_argument
    add("--max-new-tokens", type=int, metavar="N", default=max_new_tokens, help="the most tokens that are written")
    add("--greedy", action="store_true", help="always the most likely token, instead of drawing one at random")
    add("--temperature", type=float, metavar="X", default=0.7, help="below 1, likely tokens become likelier")
    add("--top-k", type=int, metavar="N", help="draw from the N most likely tokens only")
    likeliest = "draw from the likeliest tokens with probability P together"
    add("--top-p", type=float, metavar="P", default=0.95, help=likeliest)
    likely = "draw from the tokens that are at least P times as likely as the likeliest"
    add("--min-p", type=float, metavar="P", help=likely)
    penalty = "above 1, tokens in the text become unlikelier"
    add("--repetition-penalty", type=float, metavar="X", default=1.0, help=penalty)
    add("--stop", action="append", metavar="TEXT", help="end after this text; may be given several times")
    add("--seed", type=seed, metavar="N", default=0, help="the same seed gives the same text")


def sampling_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `model.stream` is told, from the arguments that `add_sampling_arguments` added."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    sampling = {"do_sample": not options.greedy, **{name: getattr(options, name) for name in names}}
    return sampling if options.stop is None else {**sampling, "stop_strings": options.stop}


def chat_prompt(tokenizer: BaseTokenizer, messages: list[dict[str, Any]]) -> str:
    """The text of a conversation, up to where the model answers, by the tokenizer's chat template."""
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def write(
    model: CausalLM | PeftModel,
    tokenizer: BaseTokenizer,
    prompt: str,
    out: TextIO,
    templated: bool = False,
    **options: Any,
) -> tuple[str, int, float]:
    """Continue the text `prompt`, writing to the stream `out` as the tokens come; returns (text, tokens, seconds).

    templated: the prompt is a chat template's, which has the special tokens in it already, and has not been shown; what
    is written begins a text of its own. Without, it goes on from a prompt that has.
    options: those of `model.stream`. ValueError if the prompt is empty, or has a token that the model has not.
    """
    if not prompt:
        raise ValueError("the prompt is empty: there is nothing to go on from")
    ids = tokenizer.encode(prompt, add_special_tokens=not templated)
    check_vocabulary("prompt", max(ids, default=0), tokenizer, model.config.vocab_size)
    began, text = time.perf_counter(), ""
    tokens: list[int] = []
    written = _ids(model, tokenizer, ids, tokens, options)
    for piece in tokenizer.decode_stream(written, skip_special_tokens=True, before=[] if templated else ids):
        out.write(piece)
        out.flush()
        text += piece
    return text, len(tokens), time.perf_counter() - began


def _ids(
    model: CausalLM | PeftModel, tokenizer: BaseTokenizer, ids: list[int], tokens: list[int], options: dict[str, Any]
) -> Iterator[int]:
    """The ids that the model writes, one by one; each is also put into `tokens`."""
    for (token,) in model.stream(ids, tokenizer=tokenizer, **options):
        tokens.append(int(token))
        yield tokens[-1]
