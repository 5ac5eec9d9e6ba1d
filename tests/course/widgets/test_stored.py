"""The widgets that the notebooks hold in their outputs are those of the sources: a page has no other copy of them."""

import json
import re
from pathlib import Path

import pytest

from lora_course.widgets.widget import script, source

COURSE = sorted((Path(__file__).parents[3] / "notebooks").glob("[01][0-9]_*.ipynb"))
WIDGET = re.compile(
    r'<div class="lora-widget" data-kind="(\w+)".*?<style>(.*?)</style>.*<script>(.*?)</script></div>', re.DOTALL
)


def stored(path):
    """[(kind, style, script)] of the widgets in a notebook's outputs."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [found for data in outputs for found in WIDGET.findall("".join(data.get("text/html", "")))]


EVERY = [(path.stem, *widget) for path in COURSE for widget in stored(path)]


def test_the_six_kinds_are_found():
    assert {kind for _, kind, _, _ in EVERY} == {"walk", "attention", "rates", "memory", "mixing", "rank"}


@pytest.mark.parametrize(("notebook", "kind", "style", "code"), EVERY, ids=[f"{one[0]}-{one[1]}" for one in EVERY])
def test_a_stored_widget_is_the_one_of_the_sources(notebook, kind, style, code):
    assert style == source("style.css"), f"{notebook} holds an old style: execute it again"
    assert code == script(kind), f"{notebook} holds an old script: execute it again"
