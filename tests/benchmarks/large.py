"""Llama-3-8B's shape on one GPU: `python tests/benchmarks/large.py`. Needs CuPy; torch, Transformers and PEFT for the
rows of theirs, and bitsandbytes for the one in NF4.

Random weights are made on the GPU, layer by layer. LoRA r=16 on all linear layers, AdamW, dropout 0. Each system runs
in a process of its own. For each batch, with and without gradient checkpointing: the median of ROUNDS steps, the
allocator's peak, and what of it are weights. For full fine-tuning the bytes are computed, not measured.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial

import numpy as np

SHAPE = {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
SHAPE |= {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192}
SHAPE |= {"rms_norm_eps": 1e-5, "tie_word_embeddings": False}
SHAPE |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}
CELLS = [(1, 512), (1, 2048), (4, 1024)]
SYSTEMS = ("lora_np bfloat16", "lora_np NF4", "torch bfloat16", "torch NF4")
ROUNDS, RANK, STD, ROWS = 5, 16, 0.02, 4096


def random_model(four_bit):
    """The model on the GPU: in bfloat16, or its linear layers in NF4; never whole in float32."""
    import cupy

    import lora_np
    from lora_np import nn

    narrow = nn.float_type("bfloat16")
    with nn.weightless():
        model = lora_np.LlamaForCausalLM(lora_np.LlamaConfig(**SHAPE))
    cupy.random.seed(0)
    for name, module in list(model.named_modules()):
        for p in (p for p in vars(module).values() if isinstance(p, nn.Parameter)):
            p.data = (
                random_array(cupy, p.shape, narrow) if p.ndim == 2 else cupy.ones(p.shape, np.float32).astype(narrow)
            )
        if four_bit and type(module) is nn.Linear and name != "lm_head":
            model.set_submodule(name, nn.Linear4bit.from_linear(module))
            module.weight.data = np.zeros(0, np.float32)
    cupy.get_default_memory_pool().free_all_blocks()
    return model


def random_array(cupy, shape, dtype):
    out = cupy.empty(shape, dtype)
    for start in range(0, shape[0], ROWS):
        part = out[start : start + ROWS]
        part[...] = (cupy.random.standard_normal(part.shape, dtype=np.float32) * STD).astype(dtype)
    return out


def lora_np_rows(four_bit):
    """Measure ours, cell by cell."""
    import cupy

    import lora_np
    from lora_np.training.parallel import RecordedStep

    pool = cupy.get_default_memory_pool()
    lora_np.manual_seed(0)
    base = random_model(four_bit)
    weights = pool.used_bytes()
    config = lora_np.LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False)
    model = lora_np.get_peft_model(base, config).train()
    for checkpointing in (True, False):
        base.gradient_checkpointing = checkpointing
        for batch, length in CELLS:
            optimizer = lora_np.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
            step = RecordedStep(model, optimizer)
            ids = batch_of(batch, length)
            try:
                one = partial(step, {"input_ids": ids, "labels": ids})
                seconds, loss = measured(one, cupy.cuda.Device().synchronize)
            except cupy.cuda.memory.OutOfMemoryError as error:
                print(json.dumps({"failed": str(error)}), flush=True)
                continue
            peak = pool.total_bytes() + step.nbytes()
            report(checkpointing, batch, length, seconds, peak, weights, loss)
            del one, step, optimizer
            pool.free_all_blocks()


def torch_model(four_bit):
    """Theirs on the GPU, in bfloat16, or its linear layers in bitsandbytes' NF4, made layer by layer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta" if four_bit else "cuda"):
        base = LlamaForCausalLM(LlamaConfig(**SHAPE))
    torch.set_default_dtype(torch.float32)
    if four_bit:
        fill_in_four_bits(base)
    return base


def fill_in_four_bits(base):
    """Random weights for a model of theirs that has none: norms of ones, NF4 for the linear layers but the head."""
    import bitsandbytes
    import torch

    base.model.rotary_emb = type(base.model.rotary_emb)(base.config).cuda()  # its angles are no parameter
    linear = [(n, m) for n, m in base.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    for name, module in linear:
        four = bitsandbytes.nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
        numbers = torch.randn(module.weight.shape, device="cuda").mul_(STD).to(torch.bfloat16)
        four.weight = bitsandbytes.nn.Params4bit(numbers.cpu(), requires_grad=False, quant_type="nf4").cuda()
        base.set_submodule(name, four)
    for name, p in list(base.named_parameters()):
        if p.is_meta:
            numbers = torch.randn(p.shape, device="cuda").mul_(STD) if p.ndim == 2 else torch.ones(p.shape).cuda()
            owner, _, last = name.rpartition(".")
            setattr(base.get_submodule(owner), last, torch.nn.Parameter(numbers.to(torch.bfloat16)))
    base.is_loaded_in_4bit = True  # for PEFT


def torch_rows(four_bit):
    """Measure PyTorch + PEFT, eager. In NF4 without PEFT's prepare_model_for_kbit_training, which would take the
    embeddings and the head to float32, 4 GiB more."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = torch_model(four_bit)
    torch.cuda.empty_cache()
    weights = torch.cuda.memory_allocated()
    model = get_peft_model(base, LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False)).train()
    for checkpointing in (True, False):
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable()
        else:
            model.gradient_checkpointing_disable()
        for batch, length in CELLS:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
            ids = torch.from_numpy(batch_of(batch, length)).cuda()

            def step(ids=ids, optimizer=optimizer):
                loss = model(input_ids=ids, labels=ids).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                return loss

            seconds, loss = measured(step, torch.cuda.synchronize)
            report(checkpointing, batch, length, seconds, torch.cuda.max_memory_reserved(), weights, loss)


def batch_of(batch, length):
    return np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (batch, length))


def measured(step, wait):
    """(the median seconds of a step, the first loss)."""
    loss = float(step().item())
    step(), step(), wait()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), loss


def report(checkpointing, batch, length, seconds, peak, weights, loss):
    found = {"checkpointing": checkpointing, "batch": batch, "length": length, "ms": 1e3 * seconds}
    print(json.dumps({**found, "peak": peak / 2**30, "weights": weights / 2**30, "loss": loss}), flush=True)


def full_fine_tuning():
    """(parameters, bytes of each: weight and gradient in 16 bits, and in float32 AdamW's two and the weight itself)."""
    C, inner, V, L = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["vocab_size"], SHAPE["num_hidden_layers"]
    kv = C // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]
    return 2 * V * C + C + L * (2 * C * C + 2 * C * kv + 3 * C * inner + 2 * C), 2 + 2 + 3 * 4


def main():
    """Run each system in a process of its own, print a line for each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--work", choices=SYSTEMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        (torch_rows if options.work.startswith("torch") else lora_np_rows)(options.work.endswith("NF4"))
        return
    count, size = full_fine_tuning()
    print(f"{count:,} parameters; full fine-tuning, without activations: {count * size / 2**30:.0f} GiB ({size} each)")
    print(f"{'system':<20}{'checkpoints':>12}{'batch':>9}{'ms':>9}{'peak GiB':>10}{'weights':>9}{'loss':>8}")
    for system in options.systems:
        command = [sys.executable, __file__, "--work", system]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if not line.startswith("{"):
                    continue
                found = json.loads(line)
                if "failed" in found:
                    print(f"{system:<20} {found['failed']}", flush=True)
                    continue
                cell, kept = f"{found['batch']}x{found['length']}", "yes" if found["checkpointing"] else "no"
                numbers = f"{found['ms']:>9.1f}{found['peak']:>10.2f}{found['weights']:>9.2f}{found['loss']:>8.3f}"
                print(f"{system:<20}{kept:>12}{cell:>9}{numbers}", flush=True)


if __name__ == "__main__":
    main()
