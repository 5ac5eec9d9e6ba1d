"""What measures the kernel of attention by tiles: on a pretended GPU here, on a real one with -m gpu."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lora_course import flash_times
from lora_course.flash_times import CUDNN, KERNEL, SCORES, SHAPES
from lora_np.autograd.fused import reference


def numpys_way(q, k, v, dout):
    """The plain formula."""
    q, k, v, dout = (x.swapaxes(1, 2) for x in (q, k, v, dout))
    out, cache = reference.attention_forward(q, k, v)
    return lambda: out.swapaxes(1, 2), lambda: [x.swapaxes(1, 2) for x in reference.attention_backward(dout, cache)]


def half_of_dv(*arrays):
    """The same with a mistake in one gradient."""
    forward, backward = numpys_way(*arrays)

    def wrong():
        dq, dk, dv = backward()
        return dq, dk, dv / 2

    return forward, wrong


@pytest.fixture
def pretended_gpu(monkeypatch):
    """Arrays are NumPy's; a second for each look at the clock, and for each thing done. What was done, in order."""
    done = []
    monkeypatch.setattr(flash_times, "SHAPES", {"small": (1, 4, 2, 3), "large": (2, 5, 2, 3)})
    monkeypatch.setattr(flash_times, "DISTANCES_ON", (1, 6, 2, 3))
    monkeypatch.setattr(flash_times, "draw", lambda shape: list(np.random.default_rng(0).standard_normal((4, *shape))))
    monkeypatch.setattr(flash_times, "_exact", lambda x: x)
    monkeypatch.setattr(flash_times, "_long_product", lambda: lambda: done.append("product"))
    monkeypatch.setattr(flash_times, "moment", lambda device: len(done))
    monkeypatch.setattr(flash_times, "seconds_between", lambda start, end: end - start + 1)
    monkeypatch.setattr(flash_times, "peak_mib", lambda make, arrays: 7.0)
    monkeypatch.setattr(flash_times, "device_name", lambda device: "a GPU")
    return done


def test_only_the_calls_are_timed(pretended_gpu):
    assert flash_times.milliseconds(lambda: pretended_gpu.append("call"), rounds=2) == [1100, 1100]
    assert pretended_gpu == ["call", *2 * ["product", *flash_times.CALLS * ["call"]]]


def test_each_way_is_measured_on_each_shape(pretended_gpu, tmp_path):
    ways = {"plain": numpys_way, "not installed": lambda *arrays: None, "wrong": half_of_dv}
    result = flash_times.measure(rounds=3, ways=ways)
    assert [(row["way"], row["shape"]) for row in result["times"]] == [
        (way, shape) for way in ("plain", "wrong") for shape in flash_times.SHAPES.values()
    ]
    assert all(len(row["forward"]) == len(row["backward"]) == 3 and row["peak"] == 7 for row in result["times"])
    plain, wrong = result["distances"]
    assert plain == {"way": "plain", "out": 0, "gradients": 0}
    assert wrong == {"way": "wrong", "out": 0, "gradients": pytest.approx(0.5)}
    flash_times.write(result, tmp_path / "times.json")
    assert json.loads((tmp_path / "times.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))


def test_the_command_measures_and_writes(pretended_gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(flash_times, "WAYS", {"plain": numpys_way})
    monkeypatch.setattr(sys, "argv", ["flash_times", "--out", str(tmp_path / "times.json"), "--rounds", "1"])
    flash_times.main()
    assert len(json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))["times"]) == 2
    assert "a GPU" in capsys.readouterr().out


def test_the_shipped_figures_have_all_ways_and_the_kernel_is_as_exact_as_the_others():
    result = flash_times.shipped()
    rows = {(row["way"], tuple(row["shape"])) for row in result["times"]}
    ways = (KERNEL, CUDNN, SCORES, "PyTorch", "PyTorch, FlashAttention")
    assert rows == {(way, shape) for way in ways for shape in SHAPES.values()}
    away = {row["way"]: row for row in result["distances"]}
    for kind in ("out", "gradients"):
        assert away[KERNEL][kind] < 1.1 * away[CUDNN][kind] < 2**-8


def test_the_table_has_medians_and_rates():
    result = flash_times.shipped()
    head, *lines = flash_times.format_times(result).splitlines()
    assert len(lines) == len(result["times"])
    assert max(map(len, lines)) == len(head) <= 88
    row = flash_times.row_of(result, KERNEL, "GPT-2 124M")
    *_, forward, backward, rate, peak = lines[0].split()
    assert forward == f"{row['forward']:.3f}"
    assert backward == f"{row['backward']:.3f}"
    assert peak == f"{row['peak']:.0f}"
    assert float(rate) == pytest.approx(2 * 8 * 12 * 512 * 512 * 64 / (row["forward"] / 1e3) / 1e12, abs=0.5)


def test_the_readme_tells_the_shipped_figures():
    result = flash_times.shipped()
    page = Path(__file__).parents[2] / "notebooks" / "book" / "speed.md"
    words = page.read_text(encoding="utf-8").split("flash_attention.cu`, takes")[1]
    told = re.findall(r"([\d.]+) to ([\d.]+) times as long", words.partition("\n\n")[0])

    def times(way, part, shape):
        return flash_times.row_of(result, way, shape)[part]

    for way, other, range_told in ((KERNEL, CUDNN, told[0]), (SCORES, KERNEL, told[1])):
        ratios = [times(way, p, x) / times(other, p, x) for p in ("forward", "backward") for x in SHAPES]
        assert range_told == (f"{min(ratios):.1f}", f"{max(ratios):.1f}")
    assert len(told) == 2


@pytest.mark.gpu
def test_on_a_real_gpu(monkeypatch):
    monkeypatch.setattr(flash_times, "SHAPES", {"small": (2, 100, 2, 64)})
    monkeypatch.setattr(flash_times, "DISTANCES_ON", (1, 100, 2, 64))
    result = flash_times.measure(rounds=1)
    assert [row["way"] for row in result["times"]] in ([KERNEL, CUDNN, SCORES], [KERNEL, SCORES])
    for row in result["times"]:
        assert 0 < row["forward"][0] < 10
        assert 0 < row["peak"] < 100
    assert all(row["out"] < 0.01 and row["gradients"] < 0.01 for row in result["distances"])
