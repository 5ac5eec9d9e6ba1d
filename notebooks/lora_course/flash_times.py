"""How fast is the kernel in flash_attention.cu, beside cuDNN's and beside attention that has all scores in memory?

`python -m lora_course.flash_times --out FILE` measures on an NVIDIA GPU, in some seconds. Notebook 11 does so where
there is a GPU, and elsewhere shows flash_times.json, the figures that are shipped here. Those have PyTorch's too:
`python tests/benchmarks/attention.py`.
"""

import argparse
import json
import platform
import statistics
from importlib.resources import files
from pathlib import Path

import numpy as np

from lora_np.autograd.devices import load_cupy
from lora_np.autograd.fused import reference
from lora_np.nn import float_type
from lora_np.storage import replacing

from . import flash
from .device import device_name, moment, seconds_between

SHAPES = {  # B texts of T tokens, H heads of D channels; all causal, in bfloat16
    "GPT-2 124M": (8, 512, 12, 64),
    "longer": (4, 2048, 16, 64),
    "longest": (1, 8192, 16, 128),
}
DISTANCES_ON = (1, 1000, 2, 64)
CALLS = 10  # between two looks at the clock
KERNEL, CUDNN, SCORES = "this kernel", "cuDNN", "all scores in memory"


def kernel_way(q, k, v, dout):
    """(forward, backward) of the kernel: forward() -> O, backward() -> dQ, dK, dV, all (B, T, H, D)."""
    out, log_sum = flash.attention(q, k, v)
    return lambda: flash.attention(q, k, v)[0], lambda: flash.attention_backward(dout, q, k, v, out, log_sum)


def cudnn_way(q, k, v, dout):
    """The same of cuDNN, as the library calls it for models in 16 bits; None where it is not installed."""
    from lora_np.autograd.cuda import flash as cudnn

    *given, dout = (x.swapaxes(1, 2) for x in (q, k, v, dout))

    def forward():
        return cudnn.forward(*given, True, q.shape[-1] ** -0.5, (True, True, True))

    if (done := forward()) is None:
        return None
    return lambda: _heads_back(forward()[0]), lambda: tuple(map(_heads_back, cudnn.backward(dout, done[1])))


def scores_way(q, k, v, dout):
    """The same of the library's other kernels, which it takes where texts are padded: P is kept for the backward pass.

    The heads are moved together first. That is not timed; the copies count as memory.
    """
    from lora_np.autograd import cuda

    cupy = load_cupy()
    *given, dout = (cupy.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v, dout))
    seen = cupy.ones((q.shape[0], q.shape[1]), bool)

    def forward():
        return cuda.attention_forward(*given, key_mask=seen)

    _, cache = forward()
    return lambda: _heads_back(forward()[0]), lambda: tuple(map(_heads_back, cuda.attention_backward(dout, cache)))


def _heads_back(x):
    return x.swapaxes(1, 2)


WAYS = {KERNEL: kernel_way, CUDNN: cudnn_way, SCORES: scores_way}


def draw(shape):
    """q, k, v, dO in bfloat16 on the GPU; the same each time."""
    cupy = load_cupy()
    cupy.random.seed(0)
    return [cupy.random.standard_normal(shape, dtype=np.float32).astype(float_type("bfloat16")) for _ in range(4)]


# How near, how fast, how large?


def distances(forward, backward):
    """{"out", "gradients"}: ‖x - x₆₄‖ / ‖x₆₄‖ for O, and the worst of the gradients, on DISTANCES_ON's arrays.

    x₆₄: the plain formula in float64 on the CPU, of the same numbers.
    """
    q, k, v, dout = (_exact(x).swapaxes(1, 2) for x in draw(DISTANCES_ON))
    out, cache = reference.attention_forward(q, k, v)
    right = [x.swapaxes(1, 2) for x in (out, *reference.attention_backward(dout, cache))]
    found = [_exact(x) for x in (forward(), *backward())]
    away = [float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in zip(found, right, strict=True)]
    return {"out": away[0], "gradients": max(away[1:])}


def _exact(x):
    return x.astype(np.float64).get()


def milliseconds(call, rounds):
    """The time of a call on the GPU, a number for each round of CALLS.

    The GPU is first given a product that takes a while. So Python has handed over all the calls before the first
    begins, and what is measured is the GPU's time alone.
    """
    product = _long_product()
    call()
    times = []
    for _ in range(rounds):
        product()
        start = moment("cuda")
        for _ in range(CALLS):
            call()
        times.append(round(1e3 * seconds_between(start, moment("cuda")) / CALLS, 5))
    return times


def _long_product(size=8192):
    cupy = load_cupy()
    x, y = cupy.ones((size, size), np.float32), cupy.empty((size, size), np.float32)
    return lambda: cupy.matmul(x, x, out=y)


def peak_mib(make, arrays):
    """What forward and backward hold at most beside q, k, v and dO, in MiB: so far a memory pool of their own grows."""
    cupy = load_cupy()
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        _, backward = make(*arrays)
        gradients = backward()
        peak = pool.total_bytes() / 2**20
        del backward, gradients
    return round(peak, 1)


def measure_way(name, make, rounds, peak=None):
    """[{"way", "shape", "forward" and "backward" in ms, "peak" in MiB}] for each of SHAPES; empty if it cannot.

    peak: what measures memory, in the place of `peak_mib`.
    """
    rows = []
    for shape in SHAPES.values():
        arrays = draw(shape)
        if (made := make(*arrays)) is None:
            return []
        forward, backward = (milliseconds(call, rounds) for call in made)
        del made
        rows.append({"way": name, "shape": shape, "forward": forward, "backward": backward})
        rows[-1]["peak"] = (peak or peak_mib)(make, arrays)
    return rows


def measure(rounds=5, ways=None):
    """{"about", "distances", "times"} on this machine's GPU, of WAYS or others."""
    result = {"about": {"gpu": device_name("cuda"), "python": platform.python_version()}, "distances": [], "times": []}
    for name, make in (ways or WAYS).items():
        rows = measure_way(name, make, rounds)
        if rows:
            result["times"] += rows
            result["distances"].append({"way": name, **distances(*make(*draw(DISTANCES_ON)))})
    return result


# The file that is shipped, and the table


def shipped():
    """The figures that come with the package, as `measure` gives them."""
    return json.loads(files("lora_course").joinpath("flash_times.json").read_text(encoding="utf-8"))


def row_of(result, way, shape):
    """What was measured of one way on one of SHAPES: medians. {"forward", "backward" in ms, "peak" in MiB}."""
    (row,) = [row for row in result["times"] if row["way"] == way and tuple(row["shape"]) == SHAPES[shape]]
    return {**{name: statistics.median(row[name]) for name in ("forward", "backward")}, "peak": row["peak"]}


def operations(shape):
    """How many the products of a causal forward pass are: half of two products with T·T numbers for each head."""
    B, T, H, D = shape
    return 2 * B * H * T * T * D


def format_times(result):
    """A table: milliseconds forward and backward, how many operations a second that is forward, memory."""
    lines = [f"{'B x T x H x D':<19} {'':<24} {'forward':>8} {'backward':>8}  {'TFLOP/s':>7} {'MiB':>7}"]
    for name, shape in SHAPES.items():
        for way in dict.fromkeys(row["way"] for row in result["times"]):
            row = row_of(result, way, name)
            rate = operations(shape) / row["forward"] / 1e9
            times = f"{row['forward']:>8.3f} {row['backward']:>8.3f}"
            lines.append(f"{' x '.join(map(str, shape)):<19} {way:<24} {times}  {rate:>7.0f} {row['peak']:>7.0f}")
    return "\n".join(lines)


def write(result, path):
    """The result as JSON, one measurement a line."""
    rows = {name: ",\n".join(json.dumps(row) for row in result[name]) for name in ("distances", "times")}
    lists = ",\n".join(f'"{name}": [\n{lines}\n]' for name, lines in rows.items())
    with replacing(Path(path)) as temporary:
        temporary.write_text(f'{{"about": {json.dumps(result["about"])},\n{lists}}}\n', encoding="utf-8")


def main():
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/flash_times.json", help="where the figures go (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind (default %(default)s)")
    options = parser.parse_args()
    result = measure(options.rounds)
    write(result, options.out)
    print(f"{result['about']['gpu']}\n{format_times(result)}\nWritten to {options.out}")


if __name__ == "__main__":
    main()
