"""A docstring of the library, which is plain text with `code` in backticks, in the markup that Sphinx reads."""

import re
import textwrap
from collections.abc import Iterable, Iterator

CODE = re.compile(r"``([^`]+)``|`([^`]+)`")
SPECIAL = re.compile(r"([\\*_|<>])")  # what would be read as markup
ITEM = re.compile(r"(- |\d+\. )")
ROW = re.compile(r"( *)(\S(?:.{0,64}?\S)?)( {2,})(\S.*)$")  # "name     what it is", as arguments are described
NAMES = re.compile(r"[\w*]+(, [\w*]+)*")


def marked_up(lines: Iterable[str]) -> list[str]:
    """The lines in reStructuredText that shows the same text.

    Paragraphs are filled, lists stay lists, rows of names and what they are become definitions, and what is
    indented (formulas, programs) is shown as it stands.
    """
    found: list[str] = []
    for kind, block in _blocks(lines):
        found += [*MAKERS[kind](block), ""]
    return found


def _blocks(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """(kind, lines) of each stretch of lines of one kind: "text", "rows", "items" or "literal"."""
    kind, block, column = "", [], 0
    for line in [*lines, ""]:
        now, column = _kind(line, kind, column)
        if block and now != kind:
            yield kind, block
            block = []
        kind = now
        if kind:
            block.append(line)


def _kind(line, before, column):
    """(the kind of a line after one of the kind `before`, where the descriptions of rows begin)."""
    indent = len(line) - len(line.lstrip())
    if not line.strip():
        return "", 0
    row = ROW.match(line)
    if before == "rows" and _long_name(line, column):
        return "rows", column
    if before == "rows" and indent >= 2 and (indent >= column - 1 or not row or row.start(4) != column):
        return "rows", column
    if row and (indent == 0 or before == "rows"):
        return "rows", row.start(4)
    if before == "items" and indent:
        return "items", 0
    if ITEM.match(line):
        return "items", 0
    return ("literal" if indent >= 4 or line.startswith(">>>") else "text"), 0


def _long_name(line, column):
    """The names of a row that leave only one space before what they are, or None."""
    name = line[: column - 1]
    return name if line[column - 1 : column] == " " and NAMES.fullmatch(name) else None


def _text(block):
    return [inline(line.strip()) for line in block]


def _items(block):
    return [inline(line) if ITEM.match(line) else "  " + inline(line.strip()) for line in block]


def _rows(block):
    """A definition for each row; lines without a name go on with the one before."""
    found, column = [], ROW.match(block[0]).start(4)
    for line in block:
        if name := _long_name(line, column):
            found += ["", f"``{name}``", f"    {inline(line[column:])}"]
            continue
        row = ROW.match(line)
        new = (row and row.start(4) == column) or not line.startswith(" ")
        if new and row:
            column = row.start(4)
            found += ["", f"``{row.group(2).strip('`')}``", f"    {inline(row.group(4))}"]
        else:
            found.append(f"    {inline(line.strip())}")
    return found[1:]


def _literal(block):
    program = textwrap.dedent("\n".join(block))
    try:
        compile(program, "docstring", "exec")
        language = "python"
    except (SyntaxError, ValueError):
        language = "pycon" if program.startswith(">>>") else "text"
    return [f".. code-block:: {language}", "", *(f"    {line}" for line in program.splitlines())]


MAKERS = {"text": _text, "items": _items, "rows": _rows, "literal": _literal}


def inline(line: str) -> str:
    """One line: code stays code, everything else is text."""
    made, end = "", 0
    for found in CODE.finditer(line):
        made += _plain(line[end : found.start()])
        made += "\\ " if made[-1:].isalnum() else ""  # code must stand apart from letters: a space that is not shown
        end = found.end()
        made += f"``{found.group(1) or found.group(2)}``" + ("\\ " if line[end : end + 1].isalnum() else "")
    return made + _plain(line[end:])


def _plain(text):
    return SPECIAL.sub(r"\\\1", text).replace("`", r"\`")
