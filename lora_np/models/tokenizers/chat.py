"""Conversations as one text, by a model's own Jinja template.

A template comes with the model, from whoever made that: it runs in a sandbox (sandbox.py), on plain values only.
"""

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension

from .batch import marks_answers
from .sandbox import Environment, note_span, run

LONGEST_TEMPLATE = 1_000_000  # characters
TAG = "CONTINUE HERE "  # stands in the last message where the model is to go on


class Chat(NamedTuple):
    """A conversation's `text`, and where in it stands what {% generation %} marks: `generated`, [(begin, end)]."""

    text: str
    generated: list[tuple[int, int]]


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    special: Mapping[str, str] | None = None,
    variables: Mapping[str, Any] | None = None,
    continued: bool | str = False,
    tracked: bool = False,
) -> Chat:
    """The text of a conversation, as Transformers' `apply_chat_template` renders it.

    `special`: {"bos_token": ...}. `variables`: what the template reads besides, by name. `continued`: end inside the
    last message. `tracked`: what is in {% generation %} is wanted.
    ValueError if the messages are not a list of dicts with "role" and "content", or the template has an error, takes
    too much, or refuses them (templates often want user and assistant to take turns). TypeError for a variable that the
    template does not read.
    """
    compiled, read = _compiled(template)
    if unknown := sorted((variables or {}).keys() - read):
        raise TypeError(
            f"{unknown[0]!r} is neither an option of apply_chat_template nor a variable of this chat template, "
            f"which reads {', '.join(sorted(read))}"
        )
    if tracked and not marks_answers(template):
        raise ValueError("this chat template does not mark with {% generation %} what the model writes")
    values = {"messages": _checked(messages), "tools": _plain("tools", tools)}
    values = {**values, "documents": _plain("documents", documents), **(special or {})}
    values |= {"add_generation_prompt": add_generation_prompt, **_plain("variables", dict(variables or {}))}
    if not continued:
        return _rendered(compiled, values)
    if add_generation_prompt or tracked:
        raise ValueError("continue_final_message goes with neither add_generation_prompt nor an assistant mask")
    return Chat(_continued(compiled, values, "content" if continued is True else continued), [])


def _rendered(compiled, values):
    try:
        return Chat(*run(compiled, values))
    except Exception as error:  # a template is a program: whatever it does wrong, it says so here
        raise ValueError(f"the chat template cannot render these messages: {_what(error)}") from error


def _continued(compiled, values, field):
    """The conversation up to where the last message's `field` ends, without the space behind it if that was trimmed."""
    last = values["messages"][-1]
    if not isinstance(last.get(field), str):
        raise ValueError(f"continue_final_message: the last message has no text {field!r} to go on from")
    text = _rendered(
        compiled, {**values, "messages": [*values["messages"][:-1], {**last, field: last[field] + TAG}]}
    ).text
    shown = text.count(TAG.strip())
    if not shown or last[field].strip() not in text:
        raise ValueError(
            f"continue_final_message: this chat template does not show the last message's {field!r} as it is"
        )
    if shown > 1 + str(values["messages"]).count(TAG.strip()):
        raise ValueError(f"continue_final_message: this chat template shows the last message's {field!r} {shown} times")
    end = text.rindex(TAG.strip())
    return text[:end] if text[end : end + len(TAG)] == TAG else text[:end].rstrip()


@functools.lru_cache(maxsize=16)
def _compiled(template):
    """(compiled template, the names of the variables that it reads), with the functions that templates written for
    Transformers call."""
    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(f"the chat template has {len(template):,} characters, more than {LONGEST_TEMPLATE:,}")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.set_filter("tojson", _tojson)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    try:
        return environment.from_string(template), meta.find_undeclared_variables(environment.parse(template))
    except TemplateSyntaxError as error:
        raise ValueError(f"the chat template has an error in line {error.lineno}: {error.message}") from None
    except Exception as error:  # what Jinja lets through, Python refuses: a break outside of a loop, too deep a nesting
        raise ValueError(f"the chat template has an error: {_what(error)}") from None


def _what(error):
    """What an exception says, in words where it says nothing."""
    if isinstance(error, (RecursionError, MemoryError)):
        return "it is nested too deeply, or too large"
    return error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}, the mark of what the model wrote: shows it, and notes where it is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_noted"), [], [], body, lineno=line)

    def _noted(self, caller):
        text = caller()
        note_span(len(text))
        return text


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """JSON as it is; Jinja's own filter would replace <, > and & for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form):
    """The date and time, by a format of strftime."""
    if len(form) > 100 or re.search(r"\d{3}", form):
        raise TemplateError(f"{form!r:.60} is no format for a date")
    return datetime.datetime.now().strftime(form)


def _raise(message):
    """What a template calls to refuse a conversation."""
    raise TemplateError(message)


def _checked(messages):
    """Plain copies of the messages, without fields that are None (templates would print "None")."""
    if not isinstance(messages, (list, tuple)) or not messages:
        what = "an empty one" if isinstance(messages, (list, tuple)) else type(messages).__name__
        raise ValueError(f"messages must be a list of {{'role': ..., 'content': ...}}, not {what}")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"message {i} must be a dict with 'role' and 'content', not {type(message).__name__}")
        if not isinstance(message.get("role"), str):
            raise ValueError(f"message {i} has no 'role' (such as 'user'); its keys are {sorted(map(str, message))}")
        if message.get("content") is None and not message.get("tool_calls"):
            raise ValueError(f"message {i} ({message['role']}) has no 'content'")
    return _plain("messages", [{k: v for k, v in message.items() if v is not None} for message in messages])


def _plain(name, value):
    """A copy made of JSON's types: an object's methods are no business of a template."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be made of strings, numbers, lists and dicts: {error}") from None
