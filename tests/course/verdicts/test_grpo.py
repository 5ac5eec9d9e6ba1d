"""GRPO on one page: its formulas against plain NumPy, and that it makes the rewarded answer likelier."""

import numpy as np

from lora_course.verdicts.grpo import CLIP, advantages, clipped_loss, grpo_step, log_probabilities
from lora_np import AdamW, GPT2Config, GPT2LMHeadModel, Tensor, no_grad
from lora_np.autograd import manual_seed


def tiny():
    manual_seed(0)
    shape = {"n_positions": 6, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=5, **shape, **still))


def test_advantages_are_within_a_group():
    found = advantages(np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(found[0], np.array([0.75, -0.25, -0.25, -0.25]) / (np.sqrt(3) / 4 + 1e-4))
    np.testing.assert_array_equal(found[1], 0.0)


def test_log_probabilities_are_those_of_a_softmax():
    model, ids = tiny(), np.array([[1, 2, 3, 4], [4, 4, 0, 1]])
    with no_grad():
        logits = model(input_ids=ids).logits.numpy().astype(float)
        found = log_probabilities(model, ids, 2).numpy()
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = [[np.log(p[row, at - 1, ids[row, at]]) for at in (2, 3)] for row in (0, 1)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_loss_is_clipped_on_the_side_that_a_reward_pulls_to():
    ratios = np.array([[1.5, 0.5], [1.5, 0.5]])
    old, better = np.zeros((2, 2)), np.array([2.0, -1.0])
    counts = np.array([[True, True], [True, False]])
    now = Tensor(np.log(ratios), requires_grad=True)
    loss = clipped_loss(now, old, better, counts)
    first = (2.0 * (1 + CLIP) + 2.0 * 0.5) / 2  # above the bound, and going back to it
    second = -1.0 * 1.5  # one token of this answer counts
    assert np.isclose(loss.item(), -(first + second) / 2)
    loss.backward()
    np.testing.assert_allclose(now.grad, [[0.0, -2.0 * 0.5 / 4], [1.5 / 2, 0.0]])


def test_at_first_the_gradient_is_that_of_the_policy():
    model, ids = tiny(), np.array([[1, 2, 3], [1, 4, 0]])
    counts, better = np.ones((2, 1), bool), np.array([1.0, -0.5])
    log_p = log_probabilities(model, ids, 2)
    clipped_loss(log_p, log_p.numpy().copy(), better, counts).backward()
    found = model.transformer.wte.weight.grad.copy()
    model.zero_grad()
    (-(log_probabilities(model, ids, 2).reshape(-1) * better.astype("float32")).sum() / 2).backward()
    np.testing.assert_allclose(found, model.transformer.wte.weight.grad, rtol=1e-4, atol=1e-7)


def test_what_is_rewarded_becomes_likelier():
    model, prompts = tiny(), np.array([[1, 2], [3, 4]])
    optimizer = AdamW(model.parameters(), lr=1e-2)
    seen = [
        grpo_step(model, optimizer, prompts, lambda asked, answers: (answers[:, 0] == 3).astype(float), 16, 3, 0, seed)
        for seed in range(20)
    ]
    assert seen[0].shape == (2, 16)
    assert np.mean(seen[:3]) < 0.5 < 0.9 < np.mean(seen[-3:])
