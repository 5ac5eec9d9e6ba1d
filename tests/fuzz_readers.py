"""Every reader, given files that are wrong: `python tests/fuzz_readers.py NAME SECONDS [CASE]`.

A case is a sound file, changed by random numbers that follow from the reader's name and the case's number. What the
reader may do: read it, or raise a ValueError or OSError that names the file. Anything else is printed and is a failure,
as is more than three seconds of CPU time, or more memory than three times the files' with what a small model needs.
"""

import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fuzz_gguf import mutated_gguf, parts
from fuzz_mutations import mutated_json, mutated_lines, mutated_safetensors

SECONDS = 3  # of CPU time for one case
HANG = 60  # seconds until a case that stands still is given up
ROOM = 64 << 20  # bytes that reading may take besides three times the files' size
READERS = {}


class Reader(NamedTuple):
    """A reader under test: see `reader`."""

    make: Callable
    mutations: tuple
    needs: tuple


def reader(*mutations, needs=()):
    """Register a reader: a function (directory) that makes the sound files there and returns what reads them.

    mutations: (name of a file, how its bytes are changed), of which one is chosen in each case.
    """

    def register(function):
        READERS[function.__name__] = Reader(function, mutations, needs)
        return function

    return register


def tiny_gpt2():
    from lora_helpers import tiny_model

    return tiny_model(n_embd=4, n_layer=1, n_head=2, vocab_size=5, n_positions=6)


def tiny_llama():
    from lora_helpers import tiny_llama

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 5}
    return tiny_llama(**sizes, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=8)


def used(path):
    """Load a model and write a token with it."""
    from lora_np.models import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path)
    with np.errstate(all="ignore"):
        model(np.zeros((1, 1), np.int64))
    return model


def _config(directory, model):
    model.save_pretrained(directory)
    return lambda: used(directory)


@reader(("config.json", mutated_json))
def config_gpt2(directory):
    return _config(directory, tiny_gpt2())


@reader(("config.json", mutated_json))
def config_llama(directory):
    read = _config(directory, tiny_llama())
    fields = json.loads((directory / "config.json").read_text())
    older = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 500.0}
    (directory / "config.json").write_text(json.dumps(fields | older))
    return read


@reader(("config.json", mutated_json))
def config_qwen3(directory):
    from lora_np.models.qwen3 import Qwen3Config, Qwen3ForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 5, "head_dim": 4}
    return _config(directory, Qwen3ForCausalLM(Qwen3Config(**sizes, num_attention_heads=2, num_key_value_heads=1)))


@reader(("config.json", mutated_json))
def params(directory):
    from lora_np.cli import main

    tiny_llama().save_pretrained(directory)

    def read():
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            status = main(["params", "--base", str(directory)])
        if status and str(directory) not in said.getvalue():
            raise AssertionError(f"the message of `params` does not name the file: {said.getvalue()}")

    return read


@reader(("generation_config.json", mutated_json))
def generation_config(directory):
    fields = {"do_sample": True, "temperature": 0.7, "top_k": 3, "top_p": 0.9, "repetition_penalty": 1.1}
    fields |= {"max_new_tokens": 3, "max_length": 20, "eos_token_id": [1, 2], "pad_token_id": 0, "num_beams": 1}
    tiny_gpt2().save_pretrained(directory)
    (directory / "generation_config.json").write_text(json.dumps(fields))

    def read():
        model = used(directory)
        model.generation_config.max_new_tokens = 3
        try:
            model.generate([[1, 2]])
        except ValueError as error:
            if "generation_config.json" not in str(error):
                raise AssertionError(f"the message of `generate` does not name the file: {error}") from error

    return read


@reader(("model.safetensors", mutated_safetensors))
def safetensors(directory):
    tiny_gpt2().save_pretrained(directory)
    return lambda: used(directory)


@reader(
    ("model.safetensors.index.json", mutated_json),
    ("0.safetensors", mutated_safetensors),
    ("1.safetensors", mutated_safetensors),
)
def sharded_safetensors(directory):
    from lora_np.storage import write_json, write_safetensors

    model = tiny_llama()
    model.save_pretrained(directory)
    (directory / "model.safetensors").unlink()
    files = {name: f"{i % 2}.safetensors" for i, name in enumerate(model.state_dict())}
    for file in set(files.values()):
        write_safetensors(directory / file, {n: a for n, a in model.state_dict().items() if files[n] == file})
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": files})
    return lambda: used(directory)


def _gguf(directory, model, **options):
    from gguf_helpers import write_gguf

    path = directory / "model.gguf"
    write_gguf(path, model, **options)
    sound = parts(path)
    return path, lambda raw, rng: mutated_gguf(sound, rng)


@reader(("model.gguf", None), needs=("gguf",))
def gguf_llama(directory):
    factors = {"rope_freqs.weight": np.ones(2, "f4")}
    path, change = _gguf(directory, tiny_llama(), tensors=factors, metadata={"llama.attention.key_length": 4})
    return (lambda: used(path)), change


@reader(("model.gguf", None), needs=("gguf",))
def gguf_gpt2(directory):
    path, change = _gguf(directory, tiny_gpt2())
    return (lambda: used(path)), change


@reader(("model.gguf", None), needs=("gguf", "tokenizers"))
def gguf_tokenizer(directory):
    from gguf_helpers import write_gguf
    from tokenizer_helpers import trained

    from lora_np.models import AutoTokenizer

    backend, path = trained(300), directory / "model.gguf"
    fields = json.loads(backend.to_str())
    tokens = sorted(backend.get_vocab(), key=backend.get_vocab().get)
    metadata = {"model": "gpt2", "pre": "llama-bpe", "tokens": tokens, "token_type": [3] * 4 + [1] * (len(tokens) - 4)}
    metadata |= {"merges": [" ".join(pair) for pair in fields["model"]["merges"]], "add_bos_token": True}
    metadata |= {"unknown_token_id": 0, "padding_token_id": 3, "add_eos_token": False}
    named = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    write_gguf(path, tiny_llama(), metadata={**named, "tokenizer.chat_template": "{{ messages }}"})
    sound = parts(path)

    def read():
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokenizer.encode("hello world")
        tokenizer.save_pretrained(directory / "saved")

    return read, lambda raw, rng: mutated_gguf(sound, rng)


def _tokenizer(directory):
    from lora_np.models import AutoTokenizer

    def read():
        tokenizer = AutoTokenizer.from_pretrained(directory)
        tokenizer.encode("hello world", add_special_tokens=False)
        tokenizer.save_pretrained(directory / "saved")

    return read


CONFIG = {
    "added_tokens_decoder": {"0": {"content": "<unk>", "special": True, "lstrip": False}, "1": {"content": "<s>"}},
    "additional_special_tokens": ["<x>"],
    "bos_token": "<s>",
    "eos_token": {"content": "</s>"},
    "unk_token": "<unk>",
    "pad_token": None,
    "add_bos_token": True,
    "add_prefix_space": False,
    "padding_side": "left",
    "model_max_length": 10**30,
    "chat_template": [{"name": "default", "template": "{{ messages }}"}],
    "tokenizer_class": "GPT2Tokenizer",
}


@reader(
    ("tokenizer.json", mutated_json),
    ("tokenizer_config.json", mutated_json),
    ("special_tokens_map.json", mutated_json),
    ("added_tokens.json", mutated_json),
    ("chat_template.jinja", mutated_lines),
    needs=("tokenizers",),
)
def tokenizer(directory):
    from tokenizer_helpers import trained

    (directory / "tokenizer.json").write_text(trained(300, bos="<s>").to_str())
    older = {key: value for key, value in CONFIG.items() if key != "added_tokens_decoder"}
    (directory / "tokenizer_config.json").write_text(json.dumps(older))
    (directory / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    (directory / "added_tokens.json").write_text(json.dumps({"<y>": 300, "<z>": 301}))
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    return _tokenizer(directory)


@reader(
    ("vocab.json", mutated_json),
    ("merges.txt", mutated_lines),
    ("tokenizer_config.json", mutated_json),
    needs=("tokenizers",),
)
def vocab_and_merges(directory):
    from tokenizer_helpers import trained

    fields = json.loads(trained(300).to_str())
    (directory / "vocab.json").write_text(json.dumps(fields["model"]["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in fields["model"]["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (directory / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    return _tokenizer(directory)


@reader(("adapter_config.json", mutated_json), ("adapter_model.safetensors", mutated_safetensors))
def adapter(directory):
    from lora_helpers import peft_model

    from lora_np.lora import PeftModel

    peft_model(model=tiny_gpt2(), r=2, rank_pattern={"h.0": 3}).save_pretrained(directory)
    return lambda: PeftModel.from_pretrained(tiny_gpt2(), directory)


@reader(("checkpoint.safetensors", mutated_safetensors))
def checkpoint(directory):
    from training_helpers import ARGS, lora, run

    run(lora(), directory, steps=4)
    del ARGS["steps"]
    return lambda: run(lora(), directory, resume=True, steps=4)


@reader(("prompts.jsonl", mutated_lines), ("chats.jsonl", mutated_lines))
def examples(directory):
    from lora_np.training.examples import load_examples

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    prompts, chats = [{"prompt": "a", "completion": "b"}] * 3, [{"messages": turns * n} for n in (1, 2, 3)]
    (directory / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    (directory / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    return lambda: [load_examples(directory / name) for name in ("prompts.jsonl", "chats.jsonl")]


@reader(("data.txt", mutated_lines))
def text(directory):
    from lora_np.training.data import load_text

    (directory / "data.txt").write_text("Some prose.\n\nMore of it, ü.\n" * 20)
    return lambda: load_text(directory / "data.txt")


@reader(("data.txt", mutated_lines))
def broken(directory):
    """A reader that does what none may do, from its second call on: so it is seen that this would be found."""
    (directory / "data.txt").write_text("x")
    kept = []

    def read():
        kind, began = os.environ["BROKEN_READER"] if kept else "", time.process_time()
        kept.append(bytearray(b"x" * (ROOM + 2**20)) if kind == "memory" else None)
        if kind == "crash":
            raise KeyError("x")
        if kind == "nameless":
            raise ValueError("x")
        while kind == "slow" and time.process_time() < began + 2 * SECONDS:
            pass

    return read


class TooSlowError(BaseException):
    """A case took more CPU time than it may."""


def _stop(*_):
    raise TooSlowError


def fuzz(name, seconds, only=None):
    """Run cases for so many seconds; prints the failures and returns (cases, how many failed)."""
    make, mutations = READERS[name].make, READERS[name].mutations
    faulthandler.enable()
    signal.signal(signal.SIGPROF, _stop)
    warnings.simplefilter("ignore")
    sound, began, cases, failed = Path(tempfile.mkdtemp()), time.monotonic(), 0, 0
    made = make(sound)
    read, change = made if isinstance(made, tuple) else (made, None)
    files = {file: (sound / file).read_bytes() for file, _ in mutations}
    read()  # what is loaded with the first use does not count
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.RLIM_INFINITY))
    while time.monotonic() - began < seconds or cases == 0:
        number = cases if only is None else only
        rng = random.Random(f"{name} {number}")
        file, mutation = rng.choice(mutations)
        shutil.rmtree(sound / "saved", ignore_errors=True)
        (sound / file).write_bytes((change or mutation)(files[file], rng))
        problem = _problem(read, sound)
        if problem:
            failed += 1
            print(f"{name}, case {number}, {file}: {problem}\n", flush=True)
        (sound / file).write_bytes(files[file])
        cases += 1
        if only is not None or failed >= 20:
            break
    shutil.rmtree(sound)
    return cases, failed


def _problem(read, directory):
    """What was wrong with reading, in words; None if nothing was."""
    size, before = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file()), _reset_peak()
    faulthandler.dump_traceback_later(HANG, exit=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read()
    except TooSlowError:
        return f"more than {SECONDS} s\n{traceback.format_exc(limit=-6)}"
    except (ValueError, OSError) as error:
        if str(directory) not in str(error):
            return f"an error that does not name the file\n{traceback.format_exc(limit=-6)}"
    except BaseException:
        return traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    taken = _peak() - before
    return f"{taken >> 20} MiB of memory for {size} bytes" if taken > 3 * size + ROOM else None


def _reset_peak():
    """Forget the highest use of memory so far, where Linux allows it; returns the present one in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak():
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    count, bad = fuzz(sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:4]))
    print(f"{sys.argv[1]}: {count} cases, {bad} failed")
    sys.exit(bool(bad))
