"""The book's questions, as they stand in its pages: what each asks, its program, and what that prints."""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "notebooks" / "book" / "confusions"
PROGRAM = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Question:
    page: str
    title: str
    text: str
    program: str
    printed: str


def questions():
    """All of them. ValueError for one that has not one program with what it prints."""
    found = []
    for path in sorted(FOLDER.glob("*.md")):
        for part in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            title, _, text = part.partition("\n")
            programs = PROGRAM.findall(text)
            if len(programs) != 1:
                raise ValueError(f"{path.name}, {title!r} has {len(programs)} programs with what they print")
            found.append(Question(path.stem, title, text, *programs[0]))
    return found
