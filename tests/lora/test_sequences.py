"""Random sequences of operations on adapters, beside PEFT: the machine is in `tests/lora_sequences/`."""

import os
import time

import pytest

SECONDS = float(os.environ.get("LORA_NP_SEQUENCES_SECONDS", "20"))  # how long it tries; in .ci/run two minutes


@pytest.mark.parity
def test_any_sequence_of_operations_does_what_peft_does():
    from hypothesis import HealthCheck, seed, settings
    from hypothesis.stateful import run_state_machine_as_test
    from lora_sequences.machine import Sequences

    options = settings(
        max_examples=20, stateful_step_count=15, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    first = int(os.environ.get("LORA_NP_SEQUENCES_SEED", "0"))
    end, number = time.monotonic() + SECONDS, first
    while number == first or time.monotonic() < end:
        run_state_machine_as_test(seed(number)(type(f"Sequences{number}", (Sequences,), {})), settings=options)
        number += 1
