"""How far one has to look to follow a call: `python tests/benchmarks/calls.py`.

Counts how many functions of lora_np are called, and how often a call goes to another file than the call before it, in
one training forward of a one-block GPT-2 with an adapter, and in giving it one and a second one. Each is counted the
second time it is done, on one thread: imports and what is made once are left out. A generator counts whenever it is
resumed, the first call as a change of file, and in Python 3.11 a comprehension as a call.
"""

import os
import sys
from pathlib import Path

import numpy as np

import lora_np
from lora_np import GPT2Config, GPT2LMHeadModel, LoraConfig, get_peft_model

PACKAGE = Path(lora_np.__file__).parent
LIMITS = {"training forward": 450, "get_peft_model": 900, "add_adapter, a second one": None}


def counted(work, folder=PACKAGE):
    """(calls, changes of file, what `work()` returns), of the functions whose source lies in `folder`."""
    inside, files = str(folder) + os.sep, []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(inside):
            files.append(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        result = work()
    finally:
        sys.setprofile(before)
    changes = sum(file != last for file, last in zip(files, [None, *files], strict=False))
    return len(files), changes, result


def measured():
    """{what is done: (calls, changes of file)}."""
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=31, n_positions=12, n_embd=16, n_layer=1, n_head=2, **off))
    config = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    *first, model = counted(lambda: get_peft_model(base, config))
    *second, _ = counted(lambda: model.add_adapter("second", config))
    ids = np.random.default_rng(0).integers(0, 31, (2, 9))
    model.train()
    model(input_ids=ids, labels=ids)
    *forward, _ = counted(lambda: model(input_ids=ids, labels=ids))
    return dict(zip(LIMITS, (forward, first, second), strict=True))


def main():
    """Print the table."""
    os.environ["LORA_NP_NUM_THREADS"] = "1"  # only one thread is counted
    measured()
    print(f"{'':<28}{'calls':>7}{'limit':>7}{'changes of file':>18}")
    for what, (calls, changes) in measured().items():
        print(f"{what:<28}{calls:>7}{LIMITS[what] or '':>7}{changes:>18}")


if __name__ == "__main__":
    main()
