"""Random sequences of operations on adapters, beside PEFT: the machine is in `tests/lora_sequences/`.

LORA_NP_SEQUENCES_SECONDS    how long it tries; at least one round of sequences is run
LORA_NP_SEQUENCES_SEED       the first round's number: each round has its own random numbers, the same in every run
LORA_NP_SEQUENCES_ROUNDS     how many rounds it tries at most, however fast the machine is
LORA_NP_SEQUENCES_SHRINK     1 looks for a short sequence that fails in the place of a long one, which takes minutes
LORA_NP_SEQUENCES_INTERRUPT  exceptions are raised at random lines, too, unless it is 0
"""

import ast
import itertools
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from lora_sequences.differences import REFUSED_HERE

import lora_np

SECONDS = float(os.environ.get("LORA_NP_SEQUENCES_SECONDS", "10"))
FIRST = int(os.environ.get("LORA_NP_SEQUENCES_SEED", "0"))
ROUNDS = float(os.environ.get("LORA_NP_SEQUENCES_ROUNDS", "inf"))
PHASES = tuple(Phase) if os.environ.get("LORA_NP_SEQUENCES_SHRINK", "0") != "0" else (Phase.generate,)


@pytest.mark.parity
def test_any_sequence_of_operations_does_what_peft_does():
    from hypothesis.stateful import run_state_machine_as_test
    from lora_sequences.machine import Sequences

    unhurried = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    options = settings(max_examples=5, stateful_step_count=25, phases=PHASES, **unhurried)
    end = time.monotonic() + SECONDS
    for number in itertools.count(FIRST):
        print(f"round {number}: LORA_NP_SEQUENCES_SEED={number} runs it first")
        run_state_machine_as_test(seed(number)(type(f"Round{number}", (Sequences,), {})), settings=options)
        if time.monotonic() > end or number + 1 - FIRST >= ROUNDS:
            break


def _texts(node):
    """All string literals below a node; an f-string as one, with its values as "_"."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "_" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def test_every_listed_refusal_is_a_message_of_this_library():
    files = (Path(lora_np.__file__).parent / "lora").rglob("*.py")
    texts = [text for file in files for text in _texts(ast.parse(file.read_text(encoding="utf-8")))]
    stale = [row for row, _ in REFUSED_HERE if not any(re.search(row, text) for text in texts)]
    assert not stale, f"no message says this any more: {stale}"
