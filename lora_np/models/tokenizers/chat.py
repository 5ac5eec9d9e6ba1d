"""Conversations as one text, by a model's own Jinja template.

A template comes with the model, from whoever made that: it runs in Jinja's sandbox, on plain values only.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text of a conversation, as Transformers' `apply_chat_template` renders it.

    ValueError if the messages are not a list of dicts with "role" and "content", or the template has an error or
    refuses them (templates often want user and assistant to take turns).
    """
    compiled = _compiled(template)
    values = {"messages": _checked(messages), "tools": _plain("tools", tools), "documents": None}
    try:
        return compiled.render(**{**values, "add_generation_prompt": add_generation_prompt, **(variables or {})})
    except Exception as error:  # a template is a program: whatever it does wrong, it says so here
        raise ValueError(f"the chat template cannot render these messages: {error}") from error


@functools.lru_cache(maxsize=16)
def _compiled(template):
    """The compiled template, with the functions that templates written for Transformers call."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"the chat template has an error in line {error.lineno}: {error.message}") from None


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}, the mark of what the model wrote: here it shows its content."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(["name:endgeneration"], drop_needle=True), lineno=line)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """JSON as it is; Jinja's own filter would replace <, > and & for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


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
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be made of strings, numbers, lists and dicts: {error}") from None
