"""Conversations as training data: which tokens of a chat are the assistant's.

The ids are those of the whole conversation, as the chat template renders it: where a text is cut decides its tokens, so
nothing is tokenised apart. What is learnt is laid over the ids by characters. A template that marks what the model
writes, {% generation %}, says itself what that is. For any other it is found by rendering parts:

    an answer begins   where the rendering of all before it, with the header for an answer, ends: this is what the model
                       is given when it is asked
    and ends           behind its content and what the template puts there whether or not another message follows
"""

import itertools

from ..models.tokenizers.batch import marks_answers, overlapping
from .protocols import Tokenizer

Messages = list[dict[str, str]]
PRIVATE = range(0xE000, 0xF8FF)  # characters that mean nothing, so that no template changes them


def tokenize_chat(messages: Messages, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """(ids, whether each is a target) of a conversation.

    ValueError if there is no template, or it does not show where an answer begins and ends.
    """
    if getattr(tokenizer, "chat_template", "") is None:
        raise ValueError(
            "the examples are conversations, and this tokenizer has no chat template: choose a model trained on "
            "chats (lora-np fetch smollm2 brings one), give prompt and completion, or set tokenizer.chat_template"
        )
    if hasattr(tokenizer, "get_chat_template") and marks_answers(tokenizer.get_chat_template()):
        marked = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True)
        return list(marked["input_ids"]), [bool(inside) for inside in marked["assistant_masks"]]
    text = _rendered(messages, tokenizer)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoding["input_ids"]), overlapping(encoding["offset_mapping"], _answers(messages, tokenizer, text))


def unlearnt_end(messages: Messages, tokenizer: Tokenizer) -> str | None:
    """Why a model that learns this conversation does not learn where an answer ends, or None if it does.

    Some templates put the end of a turn into the next message, where it is not the assistant's.
    """
    text = _rendered(messages, tokenizer)
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    content_end, _ = _end(messages, last, tokenizer, text)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    learnt = zip(encoding["offset_mapping"], tokenize_chat(messages, tokenizer)[1], strict=True)
    learnt_end = max((end for (_, end), is_target in learnt if is_target), default=0)
    if content_end is None or text[content_end:learnt_end].strip():
        return None
    return "the chat template puts no end of turn behind an answer (some have it in the next message)"


def _answers(messages: Messages, tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """[(begin, end)] of the assistant's turns in the rendered conversation."""
    spans = [(0, 0)]
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            asked = _rendered(messages[:i], tokenizer, add_generation_prompt=True)
            _, end = _end(messages, i, tokenizer, text)
            if not text.startswith(asked) or end is None or not spans[-1][1] <= len(asked) <= end:
                raise ValueError(
                    f"the chat template does not allow completion-only loss: with message {i + 1} it changes what it "
                    "rendered before, so where the answer begins and ends is unknown; give prompt and completion "
                    "instead"
                )
            spans.append((len(asked), end))
    return spans[1:]


def _end(messages: Messages, i: int, tokenizer: Tokenizer, text: str) -> tuple[int | None, int | None]:
    """Where in the text the content of message `i` ends, and where its turn does; None if it is not shown.

    A sign in the place of the content shows what comes behind it.
    """
    sign = next(sign for sign in map(chr, PRIVATE) if sign not in text)
    before, marked, after = messages[:i], {**messages[i], "content": sign}, messages[i + 1 :]
    _, found, behind = _rendered([*before, marked, *after], tokenizer).rpartition(sign)
    if not found or not text.endswith(behind):
        return None, None
    content_end = len(text) - len(behind)
    own = _rendered([*before, marked], tokenizer).rpartition(sign)[2] if after else behind
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(own, behind, strict=False))
    return content_end, content_end + sum(1 for _ in same)


def _rendered(messages: Messages, tokenizer: Tokenizer, add_generation_prompt: bool = False) -> str:
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False))
