"""A Drawing is well-formed, says what it shows, and can stand several times on a page."""

import base64
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import nbformat
from nbconvert import HTMLExporter

from lora_course.drawings import Drawing, lora
from lora_course.drawings.parts import Canvas, text_width

SVG = "{http://www.w3.org/2000/svg}"


def shapes(canvas, tag):
    root = ET.fromstring(canvas.drawing("x", "A title", "What is seen").svg())
    return root.findall(f".//{SVG}{tag}")


class Images(HTMLParser):
    """The attributes of the images of a page."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.found.append(dict(attributes))


def test_signs_that_xml_reserves_are_escaped():
    drawing = Drawing("x", "a < b & c", 'says "d"', 100, "")
    root = ET.fromstring(drawing.svg())
    assert (root.find(f"{SVG}title").text, root.find(f"{SVG}desc").text) == ("a < b & c", 'says "d"')
    (image,) = Images(drawing._repr_html_()).found
    assert image["alt"] == 'a < b & c. says "d"'


def test_the_page_carries_the_svg_itself():
    drawing = lora()
    (image,) = Images(drawing._repr_html_()).found
    kind, packed = image["src"].split(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(packed).decode() == drawing.svg()


def test_shown_twice_it_has_other_ids():
    drawing = Drawing("twice", "A title", "What is seen", 100, "")
    ids = [re.findall(r' id="([^"]+)"', drawing._repr_mimebundle_()["image/svg+xml"]) for _ in range(3)]
    assert len({i for shown in ids for i in shown}) == 6


def test_nbconvert_keeps_the_alternative_text():
    output = nbformat.v4.new_output("execute_result", lora()._repr_mimebundle_(), execution_count=1)
    cell = nbformat.v4.new_code_cell("drawings.lora()", execution_count=1, outputs=[output])
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    (image,) = [image for image in Images(page).found if image.get("class") == "drawing"]
    assert "frozen matrix W" in image["alt"]


def test_a_saved_drawing_is_always_the_same(tmp_path):
    lora().save(tmp_path / "first.svg")
    lora()._repr_svg_()
    lora().save(tmp_path / "second.svg")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_an_arrow_ends_where_it_points():
    canvas = Canvas(100)
    canvas.arrow((10, 20), (10, 60), (80, 60), width=2)
    (head,) = shapes(canvas, "polygon")
    tip, *sides = [tuple(map(float, point.split(","))) for point in head.get("points").split()]
    assert tip == (80, 60)
    assert all(x < 80 for x, _ in sides)
    assert math.isclose(sum(y for _, y in sides), 120)


def test_a_bent_arrow_lies_on_the_left_of_its_way():
    canvas = Canvas(100)
    canvas.arrow((10, 50), (90, 50), bend=10)
    (path,) = shapes(canvas, "path")
    assert float(re.search(r"Q [\d.]+ ([\d.]+)", path.get("d"))[1]) == 30  # up, where y is smaller


def test_a_brace_is_as_wide_as_it_says():
    canvas = Canvas(100)
    canvas.brace(20, 40, 100, "width")
    (path,) = shapes(canvas, "path")
    numbers = [(kind, list(map(float, rest.split()))) for kind, rest in re.findall(r"([hq]) ([^hqM]+)", path.get("d"))]
    assert sum(values[-2] if kind == "q" else values[0] for kind, values in numbers) == 100


def test_wider_texts_are_estimated_wider():
    assert text_width("WWW", 16) > text_width("aaa", 16) > text_width("iii", 16)
    assert text_width("abc", 32) == 2 * text_width("abc", 16)
    assert text_width("abc", 16, bold=True) > text_width("abc", 16)
