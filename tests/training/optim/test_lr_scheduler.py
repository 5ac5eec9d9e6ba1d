"""Courses of the learning rate against torch's and Transformers'."""

import numpy as np
import pytest

from lora_np import SGD, Tensor
from lora_np.training import optim

COURSES = {
    "get_linear_schedule_with_warmup": [(0, 10), (3, 10), (5, 5), (7, 5), (0, 0)],
    "get_cosine_schedule_with_warmup": [(0, 10), (3, 10), (2, 9, 1.5), (5, 5), (7, 5)],
    "get_constant_schedule": [()],
    "get_constant_schedule_with_warmup": [(0,), (4,)],
}


def leaves():
    return [Tensor(np.zeros(2), requires_grad=True) for _ in range(2)]


def ours():
    first, second = leaves()
    return SGD([{"params": [first], "lr": 0.3}, {"params": [second]}], lr=0.1)


def theirs():
    import torch

    first, second = (torch.zeros(2, requires_grad=True) for _ in range(2))
    return torch.optim.SGD([{"params": [first], "lr": 0.3}, {"params": [second]}], lr=0.1)


def rates(scheduler, steps=12):
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr())
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parity
@pytest.mark.parametrize(("name", "args"), [(name, args) for name, all_args in COURSES.items() for args in all_args])
def test_like_transformers(name, args):
    import transformers

    found, expected = getattr(optim, name)(ours(), *args), getattr(transformers, name)(theirs(), *args)
    np.testing.assert_allclose(rates(found), rates(expected), rtol=1e-12)


NAMED = [
    ("linear", {"num_warmup_steps": 0, "num_training_steps": 10}),
    ("cosine", {"num_warmup_steps": 3, "num_training_steps": 10, "scheduler_specific_kwargs": {"num_cycles": 1.5}}),
    ("constant", {}),
    ("constant_with_warmup", {"num_warmup_steps": 4}),
    ("inverse_sqrt", {"num_warmup_steps": 4}),
    ("polynomial", {"num_warmup_steps": 2, "num_training_steps": 9, "scheduler_specific_kwargs": {"lr_end": 1e-3}}),
    (
        "cosine_with_min_lr",
        {"num_warmup_steps": 0, "num_training_steps": 9, "scheduler_specific_kwargs": {"min_lr": 0.02}},
    ),
]


@pytest.mark.parity
@pytest.mark.parametrize(("name", "options"), NAMED)
def test_by_its_name_as_in_transformers(name, options):
    import transformers

    given = {"name": name, **options}
    found = optim.get_scheduler(optimizer=ours(), **given)
    expected = transformers.get_scheduler(optimizer=theirs(), **given)
    np.testing.assert_allclose(rates(found), rates(expected), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear", {"num_warmup_steps": 3}, "the course 'linear' needs num_training_steps"),
        ("cosine", {}, "the course 'cosine' needs num_warmup_steps and num_training_steps"),
        ("linaer", {}, "name must be one of constant, inverse_sqrt, linear, .*, got 'linaer'"),
    ],
)
def test_a_course_that_is_not_told_enough_says_what_it_needs(name, options, message):
    with pytest.raises(ValueError, match=message):
        optim.get_scheduler(name, ours(), **options)


@pytest.mark.parity
@pytest.mark.parametrize("courses", [lambda step: 0.9**step, [lambda step: 0.5, lambda step: 1 / (step + 1)]])
def test_courses_of_ones_own_like_torch(courses):
    import torch

    found, expected = optim.LambdaLR(ours(), courses), torch.optim.lr_scheduler.LambdaLR(theirs(), courses)
    np.testing.assert_allclose(rates(found), rates(expected), rtol=1e-12)
    assert found.last_epoch == expected.last_epoch


def test_a_state_goes_on():
    first = optim.get_linear_schedule_with_warmup(ours(), 2, 10)
    rates(first, 5)
    second = optim.get_linear_schedule_with_warmup(ours(), 2, 10)
    second.load_state_dict(first.state_dict())
    assert second.get_last_lr() == first.get_last_lr()
    assert rates(second, 3) == rates(first, 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="lr_lambda has 1 functions, the optimizer 2 parameter groups"):
        optim.LambdaLR(ours(), [lambda step: 1.0])
    with pytest.raises(TypeError, match=r"optimizer should be an optimizer, such as AdamW\(model.parameters"):
        optim.LambdaLR([0.1], lambda step: 1.0)
