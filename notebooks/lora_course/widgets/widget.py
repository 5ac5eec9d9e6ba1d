"""A widget as a piece of HTML: data, our script and style, and a table for readers without scripts."""

import base64
import html
import json
from importlib.resources import files

import numpy as np


class Widget:
    """What a notebook's cell shows: interactive where scripts run, a table elsewhere.

    kind    the name of its script, such as "memory" for memory.js
    data    what the script gets, ready for JSON
    title   one line, said to every reader
    static  HTML of the form without a script
    """

    def __init__(self, kind, data, title, static):
        self.kind, self.data, self.title, self.static = kind, data, title, static

    def _repr_html_(self):
        data = json.dumps(self.data, separators=(",", ":"), ensure_ascii=True, allow_nan=False).replace("</", "<\\/")
        title = html.escape(self.title)
        return (
            f'<div class="lora-widget" data-kind="{self.kind}" role="group" aria-label="{title}">'
            f"<style>{source('style.css')}</style>"
            f'<p class="lw-title">{title}</p><div class="lw-static">{self.static}</div>'
            f'<script type="application/json">{data}</script>'
            f"<script>{script(self.kind)}</script></div>"
        )

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self._repr_html_(), "text/plain": f"{self.title} (interactive where scripts run)"}


def script(kind):
    """What runs in the page: what all widgets share, and the widget's own, in a scope of their own."""
    return f"(() => {{\n{source('core.js')}\n{source(f'{kind}.js')}\nmountAll({kind!r}, mount);\n}})();"


def source(name):
    """The text of one of this folder's scripts or styles."""
    return files("lora_course.widgets").joinpath(name).read_text(encoding="utf-8").strip()


def table(caption, head, rows):
    """An HTML table; every entry is escaped."""

    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><caption>{html.escape(caption)}</caption>{line('th', head)}{body}</table>"


def packed(values, most, signed=False):
    """An array as base64: of uint8, `most` being 255, or signed of int8, `most` being 127."""
    steps, kind = (127, np.int8) if signed else (255, np.uint8)
    whole = np.rint(np.asarray(values, dtype=np.float64) / most * steps).clip(-steps if signed else 0, steps)
    return base64.b64encode(whole.astype(kind).tobytes()).decode()
