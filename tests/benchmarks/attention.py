"""Attention alone, on an NVIDIA GPU: `python tests/benchmarks/attention.py --out FILE`; flash_times.json comes from it.

The course's kernel, cuDNN and the kernels with all scores, as `lora_course.flash_times` measures them, and PyTorch's
scaled_dot_product_attention: the one that it takes by itself, and its FlashAttention-2, which has the tensor cores'
instructions that the course's kernel has too.
"""

import argparse

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from lora_course import flash_times

BACKENDS = {"PyTorch": None, "PyTorch, FlashAttention": SDPBackend.FLASH_ATTENTION}


def torch_way(backend):
    """`flash_times.kernel_way` of PyTorch."""

    def make(*arrays):
        *given, dout = (torch.from_dlpack(x.view("uint16")).view(torch.bfloat16).transpose(1, 2) for x in arrays)
        given = [x.detach().requires_grad_() for x in given]

        def forward():
            if backend is None:
                return scaled_dot_product_attention(*given, is_causal=True)
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(*given, is_causal=True)

        out = forward()
        return forward, lambda: torch.autograd.grad(out, given, dout, retain_graph=True)

    return make


def in_cupy(calls):
    """PyTorch's (forward, backward) with results as the kernel has them."""
    import cupy

    from lora_np import nn

    def changed(x):
        x = x.detach().transpose(1, 2).contiguous().view(torch.uint16)
        return cupy.from_dlpack(x).view(nn.float_type("bfloat16"))

    return lambda: changed(calls[0]()), lambda: tuple(map(changed, calls[1]()))


def torch_peak(make, arrays):
    """`flash_times.peak_mib` of PyTorch."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    make(*arrays)[1]()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def main():
    """Measure, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/flash_times.json")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    result = flash_times.measure(options.rounds)
    result["about"]["torch"] = torch.__version__
    for name, backend in BACKENDS.items():
        make = torch_way(backend)
        result["times"] += flash_times.measure_way(name, make, options.rounds, torch_peak)
        found = flash_times.distances(*in_cupy(make(*flash_times.draw(flash_times.DISTANCES_ON))))
        result["distances"].append({"way": name, **found})
    flash_times.write(result, options.out)
    print(flash_times.format_times(result))


if __name__ == "__main__":
    main()
