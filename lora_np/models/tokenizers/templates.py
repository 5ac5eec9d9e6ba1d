"""Which chat template: a tokenizer may have several, by name, for chats with tools or with documents.

A tokenizer's `chat_template` is Jinja source, or {name: source}, or None. Files have one as a text in
tokenizer_config.json or in chat_template.jinja; several as a list of {"name", "template"}, or each in a file,
additional_chat_templates/NAME.jinja. Where there are such files, they alone count.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...storage import is_there, read_text, remove, write_text

Templates = str | dict[str, str] | None
FILE, MORE, DEFAULT = "chat_template.jinja", "additional_chat_templates", "default"


def chosen(own: Templates, wanted: str | None = None, tools: Any = None) -> str:
    """The template that is meant: `wanted`, a name or Jinja source; without, that for tools if there are any, or the
    default. ValueError if there is none."""
    if wanted is None and own is None:
        raise ValueError("this tokenizer has no chat template: its model is not trained on chats")
    if not isinstance(own, dict):
        return own if wanted is None else wanted  # type: ignore[return-value]  # one of the two is none
    if wanted is not None:
        return own.get(wanted, wanted)
    name = "tool_use" if tools is not None and "tool_use" in own else DEFAULT
    if name not in own:
        raise ValueError(
            f"this tokenizer has several chat templates and no default: give chat_template={next(iter(own), '')!r}, "
            f"or another of {', '.join(own)}"
        )
    return own[name]


def read_templates(directory: Path, config: Mapping[str, Any]) -> Templates:
    """The template or templates of a model's folder. ValueError for what is none."""
    files = {path.stem: read_text(path) for path in sorted((directory / MORE).glob("*.jinja"))}
    if is_there(directory / FILE):
        files = {DEFAULT: read_text(directory / FILE), **files}
    found = files or _listed(directory, config)
    return found[DEFAULT] if isinstance(found, dict) and set(found) == {DEFAULT} else found


def _listed(directory: Path, config: Mapping[str, Any]) -> Templates:
    """What tokenizer_config.json says."""
    template = config.get("chat_template")
    if isinstance(template, list) and all(isinstance(entry, dict) for entry in template):
        pairs = [(entry.get("name"), entry.get("template")) for entry in template]
        template = dict(pairs) if all(isinstance(name, str) for name, _ in pairs) else template
    texts = [*template, *template.values()] if isinstance(template, dict) else [template]
    if template is not None and not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{directory / 'tokenizer_config.json'}: chat_template should be a text, or a list of "
            f"{{'name', 'template'}}, not {type(config['chat_template']).__name__}"
        )
    return template


def listed(template: Templates) -> Any:
    """The templates as tokenizer_config.json has them."""
    return [{"name": n, "template": t} for n, t in template.items()] if isinstance(template, dict) else template


def write_templates(directory: Path, template: Templates) -> None:
    """Have the files of an older tokenizer in this folder, which would go before the config, not say another thing."""
    if isinstance(template, str) and template and is_there(directory / FILE):
        write_text(directory / FILE, template)
    else:
        remove(directory / FILE)
    for path in sorted((directory / MORE).glob("*.jinja")):
        remove(path)
