"""Random sequences of operations on adapters, beside PEFT: the machine is in `tests/lora_sequences/`.

LORA_NP_SEQUENCES_SECONDS    how long it tries; at least one round of sequences is run
LORA_NP_SEQUENCES_SEED       the first round's number: each round has its own random numbers, the same in every run
LORA_NP_SEQUENCES_INTERRUPT  if it is set, exceptions are raised at random lines, too
"""

import itertools
import os
import time

import pytest
from hypothesis import HealthCheck, seed, settings

SECONDS = float(os.environ.get("LORA_NP_SEQUENCES_SECONDS", "10"))
FIRST = int(os.environ.get("LORA_NP_SEQUENCES_SEED", "0"))


@pytest.mark.parity
def test_any_sequence_of_operations_does_what_peft_does():
    from hypothesis.stateful import run_state_machine_as_test
    from lora_sequences.machine import Sequences

    unhurried = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    options = settings(max_examples=5, stateful_step_count=25, **unhurried)
    end = time.monotonic() + SECONDS
    for number in itertools.count(FIRST):
        print(f"round {number}: LORA_NP_SEQUENCES_SEED={number} runs it first")
        run_state_machine_as_test(seed(number)(type(f"Round{number}", (Sequences,), {})), settings=options)
        if time.monotonic() > end:
            break
