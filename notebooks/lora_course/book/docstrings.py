"""A docstring of the library, which is plain text with `code` in backticks, in the markup that Sphinx reads."""

import re
from collections.abc import Iterable

CODE = re.compile(r"``([^`]+)``|`([^`]+)`")
SPECIAL = re.compile(r"([\\*_|<>])")  # what would be read as markup
ITEM = re.compile(r"- |\d+\. ")


def marked_up(lines: Iterable[str]) -> list[str]:
    """The lines in reStructuredText that shows the same text.

    Paragraphs are filled, lists stay lists, and what is indented (formulas, tables, programs) is shown as it stands.
    """
    found: list[str] = []
    for block in _blocks(lines):
        if block[0].startswith("    ") or block[0].startswith(">>>"):
            found += ["::", "", *(f"    {line}" for line in block), ""]
        else:
            found += [*_paragraph(block), ""]
    return found


def _blocks(lines):
    """Lines between empty ones; those that begin to be indented, or end to be, begin a new block, too."""
    block: list[str] = []
    for line in [*lines, ""]:
        changes = block and line.startswith("    ") != block[0].startswith("    ") and not ITEM.match(block[0])
        if block and (not line.strip() or changes):
            yield block
            block = []
        if line.strip():
            block.append(line)


def _paragraph(block):
    """A paragraph, or a list, whose items may go on in indented lines."""
    if not ITEM.match(block[0]):
        return [inline(line.strip()) for line in block]
    return [inline(line) if ITEM.match(line) else "  " + inline(line.strip()) for line in block]


def inline(line: str) -> str:
    """One line: code stays code, everything else is text."""
    parts, end = [], 0
    for found in CODE.finditer(line):
        parts += [SPECIAL.sub(r"\\\1", line[end : found.start()]), f"``{found.group(1) or found.group(2)}``"]
        end = found.end()
    rest = SPECIAL.sub(r"\\\1", line[end:]).replace("`", r"\`")
    return _apart("".join([*parts, rest]))


def _apart(line):
    """Code must stand apart from letters: a backslash before a letter that follows it ends it without a space."""
    return re.sub(r"(``[^`]+``)(?=[\w(])", r"\1\\ ", re.sub(r"(?<=[\w)])(``[^`]+``)", r"\\ \1", line))
