"""What a call used and was told holds for its backward pass too, whatever is changed in between."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from lora_helpers import peft_model, randomize, relative, some_ids, tiny_llama

from lora_np import SGD, AdamW, LoraConfig, get_peft_model, manual_seed, no_grad
from lora_np.autograd import threads


def two_adapters(**options):
    """A Llama with two random adapters, the first of which is active; with checkpointing."""
    options = {"r": 3, "target_modules": ["q_proj", "v_proj", "down_proj"], "init_lora_weights": False, **options}
    base = tiny_llama(attention_bias=True, mlp_bias=True)
    model = get_peft_model(base, LoraConfig(**options))
    model.add_adapter("b", LoraConfig(**options))
    model.gradient_checkpointing_enable()
    return model


def merge(model):
    model.eval()  # merged weights are refused in training, where they would be learnt beside
    model.merge_adapter()


def write_adapters(model):
    for layer in model.base_model.adapted.values():
        for adapter in layer.adapters.values():
            adapter.load_state_dict({name: p.data * 2 for name, p in adapter.named_parameters()})


def scale_layers(model):
    for layer in model.base_model.adapted.values():
        layer.scaling["default"] *= 3


def replace_a_layer(model):
    layer = model.base_model.model.model.layers[1]
    layer.mlp = randomize(tiny_llama(), seed=9).model.layers[0].mlp


CHANGES = {
    "set_scale": lambda model: model.set_scale("default", 5),
    "scale of layers": scale_layers,
    "eval": lambda model: model.eval(),
    "set_adapter": lambda model: model.set_adapter("b"),
    "both active": lambda model: model.set_adapter(["b", "default"]),
    "merge": merge,
    "merge the other": lambda model: (model.eval(), model.merge_adapter(["b"])),
    "delete": lambda model: model.delete_adapter("default"),
    "rename": lambda model: model.rename_adapter("default", "new"),
    "add": lambda model: model.add_adapter("c", LoraConfig(r=2, target_modules=["q_proj", "o_proj"])),
    "add PiSSA": lambda model: model.add_adapter(
        "c", LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights="pissa")
    ),
    "unload": lambda model: model.unload(),
    "merge and unload": lambda model: model.merge_and_unload(),
    "freeze": lambda model: model.requires_grad_(False),
    "unfreeze": lambda model: model.requires_grad_(True),
    "load weights": write_adapters,
    "float64": lambda model: model.to(dtype="float64"),
    "another layer": replace_a_layer,
    "checkpointing off": lambda model: model.gradient_checkpointing_disable(),
    "no change": lambda model: None,
}


def gradients_with(change, make, train=True, **told):
    """{name: gradient} of a forward pass, a change, and the backward pass, of the parameters from before the change."""
    manual_seed(5)
    model = make().train(train)
    parameters = dict(model.named_parameters())
    ids = some_ids(model.config)
    loss = model(input_ids=ids, labels=ids, **told).loss
    change(model)
    for p in parameters.values():
        p.grad = None
    loss.backward()
    return {name: p.grad for name, p in parameters.items()}


def assert_same(found, expected):
    for name, g in expected.items():
        assert (found[name] is None) == (g is None), name
        if g is not None:
            np.testing.assert_array_equal(found[name], g, err_msg=name)
    assert any(g is not None and g.any() for g in expected.values())


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_a_checkpointed_forward_does_not_reach_its_gradients(change):
    assert_same(*(gradients_with(CHANGES[c], lambda: two_adapters(lora_dropout=0.3)) for c in (change, "no change")))


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}, {"modules_to_save": ["norm"]}], ids=str)
@pytest.mark.parametrize("change", ["set_scale", "set_adapter", "merge", "eval", "delete"])
def test_of_other_kinds_of_adapters_neither(change, options):
    assert_same(*(gradients_with(CHANGES[c], lambda: two_adapters(**options)) for c in (change, "no change")))


@pytest.mark.parametrize("change", CHANGES)
def test_nor_does_it_without_checkpointing(change):
    def make():
        model = two_adapters(lora_dropout=0.3)
        model.gradient_checkpointing_disable()
        return model

    assert_same(*(gradients_with(CHANGES[c], make) for c in (change, "no change")))


@pytest.mark.parametrize("told", ["rows", "disabled", "both"])
def test_what_the_call_was_told_holds_for_what_is_computed_again(told):
    model = two_adapters(bias="none")
    ids = some_ids(model.config)
    names = {} if told == "disabled" else {"adapter_names": ["b", "default"]}
    model.base_model.model.lm_head.requires_grad_(True)  # so that there is a gradient also without adapters
    model.base_model.model.model.layers[0].requires_grad_(True)

    def gradients():
        model.zero_grad()
        with nullcontext() if told == "rows" else model.disable_adapter():
            loss = model(input_ids=ids, labels=ids, **names).loss
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}

    found = gradients()
    model.gradient_checkpointing_disable()
    expected = gradients()
    for name, g in expected.items():
        assert (g is None) == (found[name] is None), name
        assert g is None or relative(found[name], g) < 1e-5, name
    of_b = [g for name, g in expected.items() if ".lora_B.b." in name and "layers.0" in name]
    assert of_b
    assert all((g is not None) == (told == "rows") for g in of_b)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_a_step_of_the_optimizer_between_forward_and_backward_is_refused(optimizer, checkpointing, shards, monkeypatch):
    monkeypatch.setattr(threads, "LEAST_TOKENS", 1)
    model = peft_model()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = some_ids(model.config)
    trained = [p for p in model.parameters() if p.requires_grad]
    with threads.limit_threads(shards):
        first, second = (model(input_ids=ids, labels=ids).loss for _ in range(2))
        first.backward()
        step = optimizer(trained, lr=0.1)
        step.step()
        step.zero_grad()
        with pytest.raises(RuntimeError, match="used weights that have changed: run the forward pass again"):
            second.backward()
        assert all(p.grad is None for p in trained)
        model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in trained)


def test_a_disabled_block_is_its_threads_own():
    model = two_adapters()
    ids = some_ids(model.config)
    with no_grad():
        expected = {False: model(ids).logits.data}
        with model.disable_adapter():
            expected[True] = model(ids).logits.data
    everybody = threading.Barrier(4)

    def work(number):
        for turn in range(40):
            disabled = (number + turn) % 2 == 0
            with model.disable_adapter() if disabled else nullcontext():
                everybody.wait()  # the blocks of half the threads begin while those of the others are open
                with no_grad():
                    np.testing.assert_array_equal(model(ids).logits.data, expected[disabled])
                assert model.base_model.is_disabled == disabled
            everybody.wait()

    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(work, number) for number in range(4)]:
            outcome.result(60)
    assert not model.base_model.is_disabled


def test_text_is_written_as_asked_for_also_after_the_block():
    model = two_adapters()
    ids = some_ids(model.config, time=4)
    with model.disable_adapter():
        expected = model.generate(ids, max_new_tokens=6)[:, 4:]
        steps = model.stream(ids, max_new_tokens=6)
        first = next(steps)
    np.testing.assert_array_equal(np.stack([first, *steps], axis=1), expected)
    assert (model.generate(ids, max_new_tokens=6)[:, 4:] != expected).any()
