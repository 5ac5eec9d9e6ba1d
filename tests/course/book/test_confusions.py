"""Each question's program is short, runs as it stands in the page, and prints what the page shows."""

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from questions import FOLDER, questions

ALL = questions()
DECIMAL = re.compile(r"-?\d+\.\d+|\d+(?=%)")  # measured: rounded elsewhere on another machine
MOST_LINES, WIDEST = 20, 88


def ids(question):
    return f"{question.page}: {question.title[:40]}"


def test_there_are_25_and_each_page_is_listed():
    assert len(ALL) == len({question.title for question in ALL}) == 25
    listed = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert all(f"\n{question.page}\n" in listed for question in ALL)


@pytest.mark.parametrize("question", ALL, ids=ids)
def test_it_prints_what_the_page_shows(question):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(question.program, question.title, "exec"), {"__name__": "__main__"})
    ours, shown = printed.getvalue(), question.printed
    assert DECIMAL.sub("#", ours) == DECIMAL.sub("#", shown)
    for found, expected in zip(DECIMAL.findall(ours), DECIMAL.findall(shown), strict=True):
        assert float(found) == pytest.approx(float(expected), rel=0.05, abs=0.051), f"{found} for {expected}:\n{ours}"


@pytest.mark.parametrize("question", ALL, ids=ids)
def test_it_is_short_and_fits_the_page(question):
    lines = [line for line in question.program.splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= WIDEST


@pytest.mark.parametrize("question", ALL, ids=ids)
def test_it_says_where_to_read_on(question):
    assert "Where people ask: [" in question.text or "More: [" in question.text
