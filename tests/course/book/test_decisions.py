"""Every number of the page of decisions stands in the output of the notebook that it names."""

import json
import re
from pathlib import Path

import pytest

COURSE = Path(__file__).parents[3] / "notebooks"
PAGE = (COURSE / "book" / "decisions.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]


def quoted(section):
    """The lines that a section quotes."""
    return [line for block in re.findall(r"```text\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]


def outputs(name):
    """All lines that a notebook has printed."""
    cells = json.loads((COURSE / name).read_text(encoding="utf-8"))["cells"]
    texts = ["".join(out["text"]) for cell in cells for out in cell.get("outputs", []) if "text" in out]
    return {line.rstrip() for text in texts for line in text.splitlines()}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_what_is_quoted_stands_in_a_notebook_that_is_named(section):
    named = set(re.findall(r"\((\d\d_\w+\.ipynb)\)", section))
    printed = set().union(*map(outputs, named))
    assert not [line for line in quoted(section) if line.rstrip() not in printed]


def test_most_answers_quote_a_number():
    assert sum(bool(quoted(section)) for section in SECTIONS) >= 8


def test_the_table_links_to_each_of_its_answers():
    anchors = {re.sub(r"[^\w -]", "", s.partition("\n")[0]).lower().replace(" ", "-") for s in SECTIONS}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors
