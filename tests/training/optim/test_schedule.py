"""The learning rate's course, against PyTorch's and its formula."""

import math
from itertools import pairwise

import numpy as np
import pytest

from lora_np.training import warmup_cosine
from lora_np.training.optim.schedule import rate_fraction


@pytest.mark.parametrize(("total", "warmup", "floor"), [(100, 10, 0.1), (100, 0, 0.0), (7, 3, 0.5), (1000, 999, 0.2)])
def test_the_learning_rate_rises_peaks_and_falls(total, warmup, floor):
    rates = [warmup_cosine(step, total, warmup, floor) for step in range(total + 5)]
    assert rates[warmup] == 1.0
    assert max(rates) == 1.0
    assert min(rates[: total + 1]) > 0 or floor == 0
    assert all(a < b for a, b in pairwise(rates[: warmup + 1]))
    assert all(a > b for a, b in pairwise(rates[warmup : total + 1]))
    np.testing.assert_allclose(np.diff([0, *rates[: warmup + 1]]), 1 / (warmup + 1))
    assert rates[total:] == pytest.approx([floor] * 5, abs=1e-15)


def test_half_way_down_is_half_way_between():
    assert warmup_cosine(60, 100, 20, 0.2) == pytest.approx(0.6)
    assert warmup_cosine(40, 100, 20, 0.2) == pytest.approx(0.2 + 0.8 * (0.5 + math.sqrt(2) / 4))


@pytest.mark.parity
def test_the_fall_is_torchs_cosine():
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.1)
    for step in range(31):
        assert warmup_cosine(step, 30, 0, 0.1) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parity
@pytest.mark.parametrize(("total", "warmup"), [(30, 0), (30, 7), (30, 30), (1, 0), (5, 4), (4, 6)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", {}),
        ("cosine", {}),
        ("cosine", {"num_cycles": 1.5}),
        ("cosine_with_restarts", {}),
        ("cosine_with_restarts", {"num_cycles": 3}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ("cosine_with_min_lr", {"min_lr": 0.005, "num_cycles": 1.5}),
        ("polynomial", {}),
        ("polynomial", {"power": 2.0, "lr_end": 1e-3}),
        ("constant", {}),
        ("constant_with_warmup", {}),
        ("inverse_sqrt", {}),
        ("inverse_sqrt", {"timescale": 5}),
    ],
)
def test_each_course_is_transformers_step_by_step(name, options, total, warmup):
    import torch
    from transformers import get_scheduler

    if name == "polynomial" and total <= warmup:
        warmup = total - 1  # Transformers divides by zero there
    rate = 0.02
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    kwargs = {"num_warmup_steps": warmup, "num_training_steps": total, "scheduler_specific_kwargs": options}
    schedule = get_scheduler(name, optimizer, **kwargs)
    for step in range(total + 3):
        ours = rate * rate_fraction(name, step, total, warmup, rate, options)
        assert ours == pytest.approx(schedule.get_last_lr()[0], rel=1e-12, abs=1e-15), step
        optimizer.step()
        schedule.step()
