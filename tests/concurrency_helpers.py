"""A model that several threads and processes use at once, and what each of them does with it."""

import pickle

import numpy as np
from lora_helpers import peft_model, randomize, some_ids, tiny_llama, tiny_model

from lora_np import AdamW, LoraConfig, evaluate, manual_seed, nn, no_grad
from lora_np.autograd import threads
from lora_np.autograd.tensor import collect_gradients

ROWS = ["b", "__base__", "c", "b"]
STEPS = 12  # of training, after which it begins anew


def shared_model(family, checkpointing=False):
    """A model in training, with dropout. Its adapter "trained" is trained, by naming it; the active one is "b"."""
    base = tiny_llama(attention_dropout=0.2) if family == "llama" else tiny_model(resid_pdrop=0.2, attn_pdrop=0.2)
    targets = ["q_proj", "v_proj", "down_proj"] if family == "llama" else ["c_attn", "c_fc"]
    model = peft_model(targets, base, "b", lora_dropout=0.3)
    for name, dora in (("c", True), ("trained", False)):
        config = {"r": 4, "target_modules": targets, "init_lora_weights": False, "use_dora": dora}
        model.add_adapter(name, LoraConfig(**config, lora_dropout=0.3, fan_in_fan_out=family == "gpt2"))
    randomize(model, seed=3)
    for p in trained(model):
        p.requires_grad = True
    if checkpointing:
        model.gradient_checkpointing_enable()
    return model.train()


def trained(model):
    """The parameters of the adapter that is trained."""
    return [p for name, p in model.named_parameters() if name.endswith(".trained.weight")]


def losses(model):
    """An endless iterator over the losses of training; every STEPS steps it begins anew."""
    parameters, ids = trained(model), some_ids(model.config, batch=4)
    first = [p.data.copy() for p in parameters]
    while True:
        for p, array in zip(parameters, first, strict=True):
            p.data = array.copy()
        optimizer = AdamW(parameters, lr=0.05)
        for step in range(STEPS):
            manual_seed((7, step))  # dropout
            loss = model(input_ids=ids, labels=ids, adapter_names=["trained"] * 4).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield loss.item()


def uses(model):
    """{what it is called: a function without arguments, whose result is always the same}: none reads "trained"."""
    ids, prompt = some_ids(model.config, batch=4), some_ids(model.config, time=4)

    def logits(**told):
        with no_grad(), nn.evaluating():
            return model(ids, **told).logits.data

    def gradients(**told):
        manual_seed(11)  # dropout
        loss = model(input_ids=ids, labels=ids, **told).loss
        found = collect_gradients(loss, np.ones_like(loss.data))
        return [loss.item(), *(found[id(p)] for p in model.parameters() if id(p) in found and found[id(p)] is not None)]

    def without(use):
        with model.disable_adapter():
            return use()

    def written(**options):
        return model.generate(prompt, max_new_tokens=5, **options)

    def step_by_step():
        return [tokens for steps in (model.stream(prompt, max_new_tokens=5), without(start)) for tokens in steps]

    def start():
        return model.stream(prompt, max_new_tokens=5)

    return {
        "logits": logits,
        "base": lambda: without(logits),
        "base, gradient mode": lambda: without(lambda: model(ids).logits.shape),
        "rows": lambda: logits(adapter_names=ROWS),
        "generate": written,
        "sample": lambda: written(do_sample=True, seed=3),
        "generate, base": lambda: without(written),
        "stream": step_by_step,
        "evaluate": lambda: evaluate(model, ids),
        "evaluate, base": lambda: without(lambda: evaluate(model, ids)),
        "gradients": gradients,
        "gradients of rows": lambda: gradients(adapter_names=ROWS),
        "copy": lambda: copied_logits(model, ids),
    }


def copied_logits(model, ids):
    """What a copy of the model computes."""
    with no_grad(), nn.evaluating():
        return pickle.loads(pickle.dumps(model))(ids).logits.data


def same(found, expected):
    """Are these, arrays, numbers or lists of them, the same to the last bit?"""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(same(*pair) for pair in zip(found, expected, strict=True))
    return np.array_equal(found, expected)


def in_shards(model):
    """Loss, gradients and text of a model, each batch cut into two shards."""
    threads.LEAST_TOKENS = 1
    with threads.limit_threads(2):
        ids = some_ids(model.config, batch=4)
        manual_seed(2)
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return [loss.item(), *gradients, model.generate(ids, max_new_tokens=3)]
