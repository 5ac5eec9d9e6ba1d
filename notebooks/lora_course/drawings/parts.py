"""What drawings are made of: a `Canvas` with boxes, arrows, labels, braces, matrices to scale; and the `Drawing`.

A canvas is 600 units wide, so that its texts can be read on a telephone and on a wide page. Colours are those of the
plots (Okabe and Ito's, which the colour-blind tell apart), and what they say is said in words, too. The panel is
white, with a border: it looks the same on light and dark pages.
"""

import base64
import hashlib
import math
from collections import Counter
from html import escape
from pathlib import Path

WIDTH, MARGIN = 600, 12
INK, MUTED, PANEL = "#1e2329", "#4a5058", "#ffffff"
ORANGE, BLUE, GREEN, GREY = "#b84a00", "#00619e", "#00694d", "#6b7178"
KINDS = {  # fill, border, thickness of the border
    "frozen": ("#e4e6e9", GREY, 1.5),
    "trained": ("#fbd5b5", ORANGE, 3),
    "data": ("#d5e9f7", BLUE, 1.5),
    "gradient": ("#cfeee2", GREEN, 1.5),
    "plain": ("#ffffff", "#3f454d", 1.5),
    "empty": ("#ffffff", "#b5babf", 1),
}
SOLID = {"frozen": "#b9bec5", "trained": "#d55e00", "data": "#56b4e9", "gradient": "#009e73"}  # matrices: no border
FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
NARROW, WIDE = set("iljtfrI.,:;'|!()[] ·"), set("mwMW@%∂→←")
_shown = Counter()


def text_width(text, size, bold=False):
    """About how wide a text is, in units, in the widest of the usual sans-serif fonts."""
    em = sum(0.36 if c in NARROW else 0.92 if c in WIDE else 0.7 if c.isupper() else 0.61 for c in text)
    return em * size * (1.1 if bold else 1.0)


class Drawing:
    """An SVG with a title and a description, which are its alternative text. Shown where a cell ends in it.

    name         begins the ids inside; unique together with the content, and when shown several times on a page
    title        one line
    description  what a reader who does not see it needs to know
    """

    def __init__(self, name, title, description, height, body):
        self.title, self.description, self.height, self.body = title, description, height, body
        self.key = f"{name}-{hashlib.sha256((title + description + body).encode()).hexdigest()[:8]}"

    def svg(self, key=None):
        """The SVG's text. key: what its ids begin with."""
        key = key or self.key
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}"'
            f' height="{self.height}" role="img" aria-labelledby="{key}-title {key}-desc"'
            f' style="max-width: 100%; height: auto" font-family="{FONT}">\n'
            f'<title id="{key}-title">{escape(self.title)}</title>\n'
            f'<desc id="{key}-desc">{escape(self.description)}</desc>\n'
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{self.height - 1}" rx="8" fill="{PANEL}"'
            f' stroke="#c9cdd2"/>\n{self.body}\n</svg>\n'
        )

    def _key_of_next(self):
        _shown[self.key] += 1
        return self.key if _shown[self.key] == 1 else f"{self.key}-{_shown[self.key]}"

    def _html(self, svg):
        """An image that carries the SVG: it survives where inline SVG is taken out of a page, alternative text too."""
        packed = base64.b64encode(svg.encode()).decode()
        alt = escape(f"{self.title}. {self.description}")
        style = "width: 100%; max-width: 680px; height: auto"
        return f'<img class="drawing" style="{style}" alt="{alt}" src="data:image/svg+xml;base64,{packed}">'

    def _repr_svg_(self):
        return self.svg(self._key_of_next())

    def _repr_html_(self):
        return self._html(self.svg())

    def _repr_mimebundle_(self, include=None, exclude=None):
        svg = self._repr_svg_()
        return {"text/html": self._html(svg), "image/svg+xml": svg, "text/plain": repr(self)}

    def __repr__(self):
        return f"{self.title}. {self.description}"

    def save(self, path):
        """Write the SVG to a file. The same drawing is always the same bytes."""
        Path(path).write_text(self.svg(), encoding="utf-8", newline="\n")


class Canvas:
    """Collects the elements of a drawing. Coordinates are units from the top left; y points down."""

    def __init__(self, height):
        self.height, self.elements = height, []

    def add(self, element):
        self.elements.append(element)

    def label(self, x, y, text, size=16, anchor="middle", colour=INK, bold=False):
        """Lines of text whose middle is at height y. anchor: "start", "middle" or "end" is at x."""
        lines = text.split("\n")
        top = y - 0.62 * size * (len(lines) - 1)
        for i, line in enumerate(lines):
            weight = ' font-weight="bold"' if bold else ""
            self.add(
                f'<text x="{x:g}" y="{top + 1.24 * size * i + 0.35 * size:.1f}" font-size="{size:g}" fill="{colour}"'
                f' text-anchor="{anchor}"{weight}>{escape(line)}</text>'
            )

    def box(self, x, y, width, height, text="", kind="plain", size=16, bold=False, data=""):
        """A rectangle with text in its middle. kind: one of KINDS. data: more attributes, for who reads the SVG."""
        fill, border, thick = KINDS[kind]
        dash = ' stroke-dasharray="4 3"' if kind == "empty" else ""
        self.add(f'<g class="box"{data}>')
        self.add(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="{border}"'
            f' stroke-width="{thick}"{dash}/>'
        )
        if text:
            self.label(x + width / 2, y + height / 2, text, size, bold=bold)
        self.add("</g>")

    def arrow(self, *points, colour=INK, width=2, head=True, data="", bend=0):
        """A line through the points with a head at the last. bend: how far a line of two points curves to its left."""
        (x0, y0), (x1, y1) = points[-2:]
        if bend:
            dx, dy = x1 - x0, y1 - y0
            length = math.hypot(dx, dy)
            cx, cy = (x0 + x1) / 2 + 2 * bend * dy / length, (y0 + y1) / 2 - 2 * bend * dx / length
            angle = math.atan2(y1 - cy, x1 - cx)
            middle = f"Q {cx:.1f} {cy:.1f}"
        else:
            angle = math.atan2(y1 - y0, x1 - x0)
            middle = "L"
        size = (5 + 2 * width) if head else 0
        end = f"{x1 - 0.8 * size * math.cos(angle):.1f} {y1 - 0.8 * size * math.sin(angle):.1f}"
        through = " ".join(f"L {x:g} {y:g}" for x, y in points[1:-1])
        path = f"M {points[0][0]:g} {points[0][1]:g} {through} {middle} {end}"
        self.add(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{data}/>')
        if head:
            sides = [(x1, y1)]
            for turn in (-0.4, 0.4):
                sides.append((x1 - size * math.cos(angle + turn), y1 - size * math.sin(angle + turn)))
            self.add(f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in sides)}" fill="{colour}"/>')

    def brace(self, x, y, length, text, side="below", size=14):
        """A curly brace over `length` units to the right, with its text on its outer side."""
        up = -1 if side == "above" else 1
        half, d = length / 2, 7 * up
        path = f"M {x:g} {y:g} q 0 {d} {d * up} {d} h {half - 14:g} q 7 0 7 {d} q 0 {-d} 7 {-d} h {half - 14:g}"
        self.add(f'<path d="{path} q 7 0 7 {-d}" fill="none" stroke="{MUTED}" stroke-width="1.5"/>')
        lines = text.count("\n")
        self.label(x + half, y + up * (24 + 0.62 * size * lines), text, size, colour=MUTED)

    def matrix(self, x, y, rows, columns, scale, kind, name):
        """A filled rectangle of rows x columns numbers, `scale` units for each, with no border: its area is exact."""
        self.add(
            f'<rect class="matrix" data-name="{name}" data-rows="{rows}" data-columns="{columns}" x="{x:g}" y="{y:g}"'
            f' width="{columns * scale:.6g}" height="{rows * scale:.6g}" fill="{SOLID[kind]}"/>'
        )

    def circle(self, x, y, text, radius=15, size=20):
        """A small operation, such as a sum."""
        self.add(f'<circle cx="{x:g}" cy="{y:g}" r="{radius}" fill="#ffffff" stroke="{INK}" stroke-width="2"/>')
        self.label(x, y, text, size)

    def cell(self, x, y, side, strength, text="", size=14):
        """A square of a heat map. strength: from 0, white, to 1, dark blue; -1 is orange."""
        full = (0, 97, 158) if strength >= 0 else (184, 74, 0)
        mixed = [round(255 + (c - 255) * min(1, abs(strength))) for c in full]
        self.add(
            f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" fill="rgb({mixed[0]},{mixed[1]},{mixed[2]})"'
            ' stroke="#c9cdd2" stroke-width="0.7"/>'
        )
        if text:
            self.label(x + side / 2, y + side / 2, text, size, colour="#ffffff" if abs(strength) > 0.55 else INK)

    def drawing(self, name, title, description):
        """The finished Drawing; its title stands on top of it."""
        head = Canvas(0)
        head.label(WIDTH / 2, 24, title, 17, bold=True)
        return Drawing(name, title, description, self.height, "\n".join(head.elements + self.elements))
