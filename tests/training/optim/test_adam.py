"""Adam by its name."""

import numpy as np
import pytest

from lora_np import Adam, AdamW, Tensor


@pytest.mark.parity
def test_like_torch(rng):
    import torch

    start, grads = rng.standard_normal(5), rng.standard_normal((4, 5))
    ours, theirs = Tensor(start.copy(), requires_grad=True), torch.tensor(start, requires_grad=True)
    first, second = Adam([ours], lr=0.1, betas=(0.8, 0.9)), torch.optim.Adam([theirs], lr=0.1, betas=(0.8, 0.9))
    for grad in grads:
        ours.grad, theirs.grad = grad.copy(), torch.tensor(grad)
        first.step()
        second.step()
    np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-12)


def test_its_weight_decay_is_refused():
    assert issubclass(Adam, AdamW)
    with pytest.raises(ValueError, match=r"Adam has no weight decay here, got weight_decay=0\.1: use AdamW"):
        Adam([Tensor([1.0], requires_grad=True)], weight_decay=0.1)
