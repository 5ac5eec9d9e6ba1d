"""Every drawing: readable, nothing out of its box; and what it shows are the numbers, to scale."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from lora_course import drawings
from lora_course.drawings.__main__ import FILES, PICTURES, main
from lora_course.drawings.models import SCORES, causal_softmax
from lora_course.drawings.parts import KINDS, text_width
from lora_course.drawings.training import LLAMA_2_7B, example, walk
from lora_course.gpu import shipped
from lora_np import Tensor
from lora_np.autograd.tensor import reachable
from lora_np.costs.memory import memory

SVG = "{http://www.w3.org/2000/svg}"
SEVEN_HUNDRED, SMALLEST = 700 / 600, 11  # units become pixels where the drawing is 700 px wide
every_drawing = pytest.mark.parametrize("draw", drawings.ALL, ids=lambda draw: draw.__name__)


def parsed(drawing):
    return ET.fromstring(drawing.svg())


def number(element, name):
    return float(element.get(name))


def text_box(text):
    """(left, top, right, bottom) of a text, by estimate, a tenth narrower: the estimate is for wide fonts."""
    size, x, y = number(text, "font-size"), number(text, "x"), number(text, "y")
    width = 0.9 * text_width(text.text, size, text.get("font-weight") == "bold")
    left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor")]
    return left, y - 0.7 * size, left + width, y + 0.1 * size


@every_drawing
def test_it_says_what_it_shows(draw):
    root = parsed(draw())
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
    assert 10 < len(title.text) < 80
    assert len(description.text) > 100
    assert description.text.endswith(".")


def test_ids_are_unique_on_a_page_with_all_of_them():
    ids = [identifier for draw in drawings.ALL for identifier in re.findall(r' id="([^"]+)"', draw().svg())]
    assert len(ids) == len(set(ids)) == 2 * len(drawings.ALL)


@every_drawing
def test_there_is_no_script_and_nothing_from_elsewhere(draw):
    svg = draw().svg().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"<script|<foreignObject|href|url\(|http", svg)


@every_drawing
def test_texts_are_large_enough_and_stay_on_the_panel(draw):
    root = parsed(draw())
    _, _, width, height = map(float, root.get("viewBox").split())
    for text in root.iter(f"{SVG}text"):
        left, top, right, bottom = text_box(text)
        assert number(text, "font-size") * SEVEN_HUNDRED >= SMALLEST
        assert left >= 0, text.text
        assert top >= 0, text.text
        assert right <= width, text.text
        assert bottom <= height, text.text


@every_drawing
def test_texts_fit_their_boxes(draw):
    for box in parsed(draw()).iter(f"{SVG}g"):
        frame = box.find(f"{SVG}rect")
        for text in box.findall(f"{SVG}text"):
            left, top, right, bottom = text_box(text)
            assert left >= number(frame, "x"), text.text
            assert right <= number(frame, "x") + number(frame, "width"), text.text
            assert top >= number(frame, "y"), text.text
            assert bottom <= number(frame, "y") + number(frame, "height"), text.text


@every_drawing
def test_no_text_lies_on_another(draw):
    texts = [(text.text, text_box(text)) for text in parsed(draw()).iter(f"{SVG}text")]
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, other)


def brightness(colour):
    """The relative luminance of "#rrggbb", as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@every_drawing
def test_texts_stand_out_from_what_is_behind_them(draw):
    backgrounds = [fill for fill, _, _ in KINDS.values()]
    for text in parsed(draw()).iter(f"{SVG}text"):
        if text.get("fill") != "#ffffff":  # white on a dark cell
            colours = ["#ffffff"] if text.get("fill") != "#1e2329" else backgrounds
            assert all((brightness(c) + 0.05) / (brightness(text.get("fill")) + 0.05) >= 4.5 for c in colours)


def matrices(drawing):
    return {m.get("data-name"): m for m in parsed(drawing).iter(f"{SVG}rect") if m.get("class") == "matrix"}


@pytest.mark.parametrize(("d_out", "d_in", "r"), [(768, 768, 8), (2304, 768, 16), (128, 512, 4), (64, 64, 64)])
def test_areas_are_as_the_counts(d_out, d_in, r):
    drawing = drawings.lora(d_out, d_in, r)
    found = matrices(drawing)
    area = {name: number(m, "width") * number(m, "height") for name, m in found.items()}
    assert area["A"] / area["W"] == pytest.approx(r * d_in / (d_out * d_in), rel=1e-4)
    assert area["B"] / area["W"] == pytest.approx(r * d_out / (d_out * d_in), rel=1e-4)
    assert number(found["W"], "height") / number(found["W"], "width") == pytest.approx(d_out / d_in, rel=1e-4)
    assert f"{r * (d_in + d_out):,}" in drawing.description


@pytest.mark.parametrize("r", [0, 769])
def test_an_impossible_rank_is_refused(r):
    with pytest.raises(ValueError, match=f"r must be from 1 to 768, got {r}"):
        drawings.lora(r=r)


def product():
    """y = w w (a square), then y + y: another graph than the default."""
    w = Tensor([3.0], requires_grad=True)
    y = w * w
    return {"w": w, "y": y, "z": y + y}


@pytest.mark.parametrize("make", [example, product])
def test_the_graph_is_the_real_one(make):
    named = make()
    names = {tensor.node(): name for name, tensor in named.items()}
    root = named[list(named)[-1]].node()
    real = sorted(f"{names[parent]}>{names[node]}" for node in reachable(root) for parent in node.parents)
    drawing = parsed(drawings.graph(named))
    assert sorted(e.get("data-edge") for e in drawing.iter(f"{SVG}path") if e.get("data-edge")) == real
    nodes = {g.get("data-node"): float(g.get("data-gradient")) for g in drawing.iter(f"{SVG}g") if g.get("data-node")}
    assert set(nodes) == set(named)

    again = make()
    list(again.values())[-1].backward()
    leaf = next(iter(named))
    assert nodes[leaf] == again[leaf].grad.item()


def test_a_graph_of_another_shape_is_refused():
    a, b = Tensor([1.0], requires_grad=True), Tensor([2.0], requires_grad=True)
    with pytest.raises(ValueError, match="by two edges"):
        drawings.graph({"a": a, "y": a * b})
    named = example()
    with pytest.raises(ValueError, match="up to three"):
        drawings.graph(named | {"d": named["c"] + named["c"]})


def test_the_walk_adds_up_what_comes_back():
    steps = walk(example()["c"].node())
    assert [(gradient, sent) for _, gradient, sent in steps] == [(1, [1, 1]), (2, [2, 2]), (4, [])]


def test_attention_weights_are_the_softmax_of_what_is_allowed():
    weights = np.array(causal_softmax(SCORES))
    allowed = np.where(np.tri(5, dtype=bool), np.exp(np.array(SCORES, dtype=float)), 0)
    np.testing.assert_allclose(weights, allowed / allowed.sum(-1, keepdims=True))
    texts = [text.text for text in parsed(drawings.attention()).iter(f"{SVG}text")]
    assert texts.count("−∞") == texts.count("0") - sum(s == 0 for i, row in enumerate(SCORES) for s in row[: i + 1])
    assert texts.count("−∞") == 10


def test_memory_bars_are_to_scale():
    bars = [bar for bar in parsed(drawings.training_memory()).iter(f"{SVG}rect") if bar.get("class") == "bar"]
    width = {(bar.get("data-method"), bar.get("data-part")): number(bar, "width") for bar in bars}
    full = memory(LLAMA_2_7B, 8, "all-linear", length=512, method="full")["weights"]
    for method in ("full", "lora", "qlora"):
        parts = memory(LLAMA_2_7B, 8, "all-linear", length=512, method=method)
        parts.pop("total")
        for part, needed in parts.items():
            expected = needed / full * width["full", "weights"]
            assert width[method, part] == pytest.approx(expected, abs=2e-3)


def test_times_are_those_that_were_measured():
    result = shipped()
    bars = [g for g in parsed(drawings.gpu_time(result)).iter(f"{SVG}g") if g.get("data-ms")]
    for model in ("tiny-python", "GPT-2 124M"):
        first, second = (g for g in bars if g.get("data-model") == model)
        ratio = number(first, "data-ms") / number(second, "data-ms")
        widths = [number(g.find(f"{SVG}rect"), "width") for g in (first, second)]
        assert widths[0] / widths[1] == pytest.approx(ratio, rel=1e-4)


def test_singular_values_are_those_of_the_matrix():
    matrix = np.outer(np.arange(1, 13), np.ones(12)) / 12  # of rank 1
    drawing = drawings.singular_values(matrix)
    bars = [number(bar, "height") for bar in parsed(drawing).iter(f"{SVG}rect") if bar.get("class") == "value"]
    assert bars[0] == pytest.approx(80)
    assert max(bars[1:]) < 1e-3
    assert "k = 1, 100% kept" in drawing.description


def test_qlora_draws_one_block():
    cells = [rect for rect in parsed(drawings.qlora()).iter(f"{SVG}rect") if rect.get("class") == "weight"]
    assert len(cells) == 64
    assert "4.127 bits" in drawings.qlora().description


@pytest.mark.parametrize("r", [2, 3])
def test_the_rank_is_the_number_of_products(r):
    assert set(matrices(drawings.rank(r))) == {f"{side}{k}" for side in "ab" for k in range(1, r + 1)}


def test_labels_count_only_where_there_is_an_answer():
    drawing = drawings.prompt_and_completion(("a", "b", "c"), ("d", "e"))
    texts = [text.text for text in parsed(drawing).iter(f"{SVG}text")]
    assert texts.count("−100") == 3
    assert (texts.count("c"), texts.count("d"), texts.count("e")) == (1, 2, 2)


def test_the_pictures_of_the_readme_are_what_the_command_writes(tmp_path):
    main(tmp_path)
    for name in FILES:
        assert (PICTURES / name).read_bytes() == (tmp_path / name).read_bytes()
