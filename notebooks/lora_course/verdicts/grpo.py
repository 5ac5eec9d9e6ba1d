r"""Learning from reward: GRPO (Shao et al., 2024, arXiv 2402.03300, section 4.1), on one page.

The model writes G answers to each prompt, and each gets a reward R. Against the others of its group it is better by

    Â = (R - mean(R)) / (std(R) + 1e-4)

Every token of an answer is made likelier in that measure, or less likely, until its probability has changed by a factor
of 1 ± ε since it was written:

    L = -mean over answers of the mean over tokens of min(ρ Â, clip(ρ, 1-ε, 1+ε) Â),    ρ = π(token) / π_old(token)

There is no second network that foretells the reward, and nothing holds the model near its start (β = 0).
"""

import numpy as np

from lora_np import no_grad
from lora_np.autograd import ops
from lora_np.autograd.devices import array_module
from lora_np.autograd.shape_ops import where

CLIP = 0.2
UPDATES = 2  # of the weights for each batch of answers


def advantages(rewards):
    """Rewards (prompts, G) less their group's mean, in units of its deviation; 0 where all of a group are alike."""
    return (rewards - rewards.mean(axis=1, keepdims=True)) / (rewards.std(axis=1, keepdims=True) + 1e-4)


def log_probabilities(model, ids, start):
    """ln π of the tokens from position `start` on, each given those before it: a Tensor (rows, tokens)."""
    logits = model(input_ids=ids[:, :-1]).logits[:, start - 1 :]  # (rows, tokens, V)
    shifted = logits - logits.data.max(axis=-1, keepdims=True)
    rows, places = np.indices(ids[:, start:].shape)
    return shifted[rows, places, ids[:, start:]] - ops.log(ops.exp(shifted).sum(axis=-1))


def clipped_loss(now, old, better, counts):
    """L of the module's docstring.

    now      ln π of the tokens, a Tensor (rows, tokens); old: the same as they were written, an array beside it
    better   Â of each answer (rows,)
    counts   which tokens were written (rows, tokens)
    """
    xp, ratio = array_module(old), ops.exp(now - old)
    a = xp.broadcast_to(xp.asarray(better, old.dtype)[:, None], old.shape)
    outside = xp.where(a > 0, ratio.data > 1 + CLIP, ratio.data < 1 - CLIP)  # there the smaller one is a constant
    bound = xp.where(a > 0, 1 + CLIP, 1 - CLIP).astype(old.dtype)
    share = xp.asarray(counts / counts.sum(axis=1, keepdims=True) / len(counts), old.dtype)
    return -(where(outside, bound, ratio) * a * share).sum()


def grpo_step(model, optimizer, prompts, reward, group, length, end, seed):
    """Write `group` answers to each prompt, judge them, and change the weights; returns the rewards (prompts, group).

    prompts   ids (prompts, T), all of one length
    reward    a function (prompts, answers) -> numbers, of ids repeated for each answer
    length    the most tokens of an answer; end: the token that ends it
    """
    asked = np.repeat(prompts, group, axis=0)
    start = asked.shape[1]
    model.eval()
    drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": seed}
    ids = model.generate(asked, max_new_tokens=length, eos_token_id=end, pad_token_id=end, **drawn)
    answers = np.full((len(asked), length), end)
    answers[:, : ids.shape[1] - start] = ids[:, start:]
    ids = np.concatenate([asked, answers], axis=1)
    ended = np.cumsum(answers == end, axis=1)
    counts = (ended == 0) | ((ended == 1) & (answers == end))
    rewards = reward(asked, answers).reshape(len(prompts), group)
    better = advantages(rewards).ravel()
    with no_grad():
        old = log_probabilities(model, ids, start).data
    model.train()
    for _ in range(UPDATES):
        clipped_loss(log_probabilities(model, ids, start), old, better, counts).backward()
        optimizer.step()
        optimizer.zero_grad()
    return rewards
