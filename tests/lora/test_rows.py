"""Rows with adapters of their own, computed together: the plain form, one adapter after the other, and PEFT."""

import gc
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lora_helpers import (
    hugging_face_twin,
    peft_model,
    relative,
    rows_as_on_a_gpu,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import SGD, KVCache, LoraConfig, hotswap_adapter, no_grad
from lora_np.autograd import changes
from lora_np.autograd.devices import array_module, to_device
from lora_np.lora import rows
from lora_np.lora.adapter import Adapter
from lora_np.lora.kinds import KINDS
from lora_np.lora.layer import LoraAdapter
from lora_np.lora.rows import Rows, one_by_one
from lora_np.nn import evaluating, quantize_model

LINEAR = {"gpt2": ["c_attn", "c_fc", "c_proj"], "llama": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]}
NAMES = ["b", "c", "a", "__base__", "b", "d", "a", "b", "__base__", "e"]

# What the adapters a, b, c, ... have apart from r=2 and alpha 3.
ADAPTERS = {
    "alike": [{}] * 5,
    "ranks": [{"r": 1}, {"r": 3}, {"r": 2}, {"r": 8}, {"r": 4}],
    "alphas": [{"lora_alpha": 1}, {"lora_alpha": 9}, {"use_rslora": True}, {"lora_alpha": 0.5}, {}],
    "rank_pattern": [{"rank_pattern": {r".*\.0\..*": 4}}, {}, {"alpha_pattern": {r".*\.1\..*": 7}}, {}, {}],
    "other layers": [
        *({"layers_to_transform": [0]}, {"layers_to_transform": [1]}, {"targets": ["c_fc", "v_proj"]}, {}),
        {"targets": ["c_attn", "q_proj"]},
    ],
    "embeddings": [{"targets": ["wte", "wpe", "embed_tokens"]}, {}, {"targets": ["c_fc", "embed_tokens"]}, {}, {}],
    "other kinds": [{"use_dora": True}, {}, {"lora_bias": True}, {}, {}],
    "parts": [{"targets": ["c_attn.q", "c_fc", "o_proj"]}, {}, {}, {"targets": ["c_attn.v", "v_proj"]}, {}],
    "dropout": [{"lora_dropout": 0.5}, {}, {"lora_dropout": 0.4}, {}, {}],
}


def many(kind="llama", adapters="ranks", base=None):
    """A model with the adapters a to e, random and far from each other."""
    base = {"gpt2": tiny_model, "llama": tiny_llama}[kind]() if base is None else base
    there = [name for name, _ in base.named_modules()]
    model = None
    for name, given in zip("abcde", ADAPTERS[adapters], strict=True):
        options = {"r": 2, "lora_alpha": 3, "init_lora_weights": False, "fan_in_fan_out": kind == "gpt2", **given}
        targets = [t for t in options.pop("targets", LINEAR[kind]) if any(n.endswith(t.split(".")[0]) for n in there)]
        if model is None:
            model = peft_model(targets, base, name, **options)
        else:
            model.add_adapter(name, LoraConfig(target_modules=targets, **options))
    for seed, (name, p) in enumerate(model.named_parameters()):
        if "lora_" in name:
            p.data = (0.3 * np.random.default_rng(seed).standard_normal(p.shape)).astype(p.dtype)
    return model.eval()


def plainly(monkeypatch):
    """Have every layer take one adapter after the other."""
    monkeypatch.setattr(Rows, "forward", lambda self, layer, x: one_by_one(layer, broadcast(x, self.names), self.names))


def broadcast(x, names):
    return np.broadcast_to(x, (len(names), len(x))) if x.ndim == 1 else x


def computed(model, names=NAMES, **told):
    """{"logits" or a parameter's name: array}: the logits, and the gradients of all that any adapter has."""
    ids = some_ids(model.config, batch=len(names), time=5)
    for name in model.peft_config:
        model.set_requires_grad(name)
    model.zero_grad()
    out = model(input_ids=ids, labels=ids, adapter_names=names, **told)
    found = {"logits": out.logits.numpy().copy()}
    out.loss.backward()
    return found | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_plain(model, monkeypatch, tolerance, names=NAMES):
    found = computed(model, names)
    with monkeypatch.context() as patch:
        plainly(patch)
        expected = computed(model, names)
    assert found.keys() == expected.keys()
    assert len(found) > 1
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert relative(found[name], array) < tolerance, name


@pytest.mark.parametrize(
    ("kind", "adapters"),
    [
        *(("gpt2", adapters) for adapters in ("ranks", "embeddings", "parts", "other kinds")),
        *(("llama", adapters) for adapters in ADAPTERS if adapters not in ("dropout", "parts")),
    ],
)
def test_logits_and_gradients_are_those_of_the_plain_form(kind, adapters, monkeypatch):
    assert_plain(many(kind, adapters), monkeypatch, 2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("adapters", ["alike", "ranks", "alphas", "embeddings", "other layers", "other kinds"])
def test_on_a_gpu_prompts_and_texts_are_those_of_the_cpu(kind, adapters, tf32):
    from lora_np.autograd.precision import set_tf32

    model = many(kind, adapters)
    ids = some_ids(model.config, batch=len(NAMES), time=5)

    def results():
        with no_grad():
            logits = model(input_ids=ids, adapter_names=NAMES).logits.numpy()
        return logits, np.asarray(model.generate(ids, adapter_names=NAMES, max_new_tokens=3, do_sample=False))

    expected = results()
    model.to("cuda")
    set_tf32(tf32)
    try:
        found = results()
    finally:
        set_tf32(False)
    assert relative(found[0], expected[0]) < (2e-2 if tf32 else 1e-4)
    assert tf32 or (found[1] == expected[1]).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_on_a_gpu_adapters_in_16_bits_are_read_at_once_too(dtype, monkeypatch):
    model = many("llama", "ranks")
    ids = some_ids(model.config, batch=len(NAMES), time=5)
    model.to("cuda").to(dtype)
    at_once = counted(monkeypatch, rows, "_at_once")
    with no_grad():
        found = model(input_ids=ids, adapter_names=NAMES).logits.astype(np.float32).numpy()
        assert at_once
        plainly(monkeypatch)
        expected = model(input_ids=ids, adapter_names=NAMES).logits.astype(np.float32).numpy()
    assert relative(found, expected) < 0.03


@pytest.mark.parametrize("adapters", ["ranks", "other layers", "other kinds"])
def test_in_float64_to_ten_digits(adapters, monkeypatch):
    assert_plain(many("llama", adapters, tiny_llama().to(np.float64)), monkeypatch, 1e-10)


@pytest.mark.parametrize("base", ["float16", "4 bits", "checkpointing"])
def test_on_other_bases(base, monkeypatch):
    model = tiny_model()
    if base == "4 bits":
        model = quantize_model(model)
    model = many("gpt2", "ranks", model.to(np.float16) if base == "float16" else model)
    if base == "checkpointing":
        model.gradient_checkpointing_enable()
    assert_plain(model, monkeypatch, 2e-2 if base == "float16" else 2e-5)


@pytest.mark.parametrize(
    "names",
    [["c"], ["__base__"], ["b"] * 3, list("aabbccddee"), list("eddccbba"), ["a"] * 7 + ["b"]],
    ids=len,
)
def test_any_batch(names, monkeypatch):
    assert_plain(many(), monkeypatch, 2e-5, names) if set(names) != {"__base__"} else None
    model = many()
    with no_grad():
        ids = some_ids(model.config, batch=len(names))
        found = model(ids, adapter_names=names).logits.numpy().copy()
        plainly(monkeypatch)
        assert relative(found, model(ids, adapter_names=names).logits.numpy()) < 2e-5


def test_a_layer_that_only_other_adapters_have_gives_the_bases_result(monkeypatch):
    model = many("gpt2", "alike")
    model.add_adapter("elsewhere", LoraConfig(target_modules=["wpe", "wte"], r=2, init_lora_weights=False))
    ids = some_ids(model.config, batch=3)
    with no_grad():
        found = model(ids, adapter_names=["a", "__base__", "b"]).logits.numpy().copy()
        plainly(monkeypatch)
        assert relative(found, model(ids, adapter_names=["a", "__base__", "b"]).logits.numpy()) < 2e-5


def test_dropout_is_drawn_as_in_the_plain_form_and_off_in_evaluation(monkeypatch):
    model = many("llama", "dropout")
    assert_plain(model, monkeypatch, 2e-5)
    calls = counted(monkeypatch, rows, "one_by_one")
    computed(model.train())
    assert calls
    calls.clear()
    computed(model.eval())
    assert not calls


def counted(monkeypatch, place, name):
    """A list that gets the result of each call of a function."""
    found, function = [], getattr(place, name)

    def counting(*args, **kwargs):
        found.append(function(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(place, name, counting)
    return found


def test_a_layer_is_one_product_of_the_base_and_one_of_the_adapters(monkeypatch):
    model = many("llama", "alike")
    updates, bases = counted(monkeypatch, rows.F, "lora_rows"), counted(monkeypatch, rows.F, "linear")
    model(some_ids(model.config, batch=5), adapter_names=list("dbace"))
    assert len(updates) == len(model.base_model.adapted) == 10
    assert len(bases) == 15  # those of the layers without adapters, and the head's, among them


def test_ranks_that_lie_far_apart_are_not_padded_to_the_largest():
    model = many("llama", "ranks")
    layer = next(iter(model.base_model.adapted.values()))
    adapters = [layer.adapters[name] for name in "abcde"]
    groups = rows.grouped(adapters, [[i] for i in range(5)], 5, np.float32)
    assert sorted(sorted(a.r for a in group.adapters) for group in groups) == [[1], [2], [3, 4], [8]]


def test_what_kinds_say_of_stacking_is_so():
    """`stacks` promises LoRA's own update: a kind that computes another one must not inherit it."""
    for _, kinds in KINDS.values():
        for kind in kinds:
            same = getattr(kind, "update", None) is LoraAdapter.update and kind.fused is LoraAdapter.fused
            assert not kind.stacks or same, kind
    assert LoraAdapter.stacks
    assert not Adapter.stacks


def parameters(model, name="b"):
    return [p for a in model.base_model.adapter(name).adapters.values() for p in a.matrices()]


def random_like(p):
    array = np.random.default_rng(p.size).standard_normal(p.shape).astype(np.float32)
    return to_device(array, p.device)


def set_scale(model):
    model.set_scale("b", -20)


def scaling(model):
    for layer in model.base_model.adapted.values():
        layer.scaling["a"] *= -20


def weights(model):
    for p in parameters(model):
        p.data = p.data[::-1].copy() * 5


def optimizer(model):
    for p in parameters(model):
        p.grad = random_like(p)
    SGD(parameters(model), lr=2.0).step()


def in_place(model):
    with no_grad():
        for p in parameters(model):
            p *= -3


def load_state_dict(model):
    for adapter in model.base_model.adapter("b").adapters.values():
        adapter.load_state_dict({name: -3 * p.data for name, p in adapter.named_parameters()})


def swapped(model):
    with tempfile.TemporaryDirectory() as folder:
        other = many("llama", "dropout")
        for p in parameters(other):
            p.data = -5 * p.data
        other.save_pretrained(folder)
        hotswap_adapter(model, f"{folder}/b", "b")


def deleted(model):
    model.delete_adapter("b")
    model.add_adapter("b", LoraConfig(r=4, lora_alpha=40, target_modules=["q_proj"], init_lora_weights=False))
    for p in parameters(model):
        p.data = random_like(p)


def exchanged(model):
    for old, new in (("b", "once"), ("c", "b"), ("once", "c")):
        model.rename_adapter(old, new)


def in_columns(model):
    """No kernel reads such a matrix where it lies."""
    for p in parameters(model):
        p.data = array_module(p.data).asfortranarray(2 * p.data)


def merged_and_back(model):
    model.set_adapter("b")
    model.merge_adapter()
    model.unmerge_adapter()


def train(model):
    model.train()  # a text is written without dropout all the same


def to_float64(model):
    for p in parameters(model):
        p.data = p.data.astype(np.float64)


CHANGES = (set_scale, scaling, weights, optimizer, in_place, in_columns, load_state_dict, swapped, deleted, exchanged)
CHANGES = (*CHANGES, merged_and_back, train, to_float64)
NO_OTHER_RESULT = (merged_and_back, train, to_float64)


class TestCalls:
    """Calls with the same names: what the first found out about each layer serves until something changes."""

    def logits(self, model):
        with no_grad():
            return model(some_ids(model.config, len(NAMES), 4), adapter_names=NAMES).logits.numpy().copy()

    @pytest.mark.parametrize("device", ["cpu", "as a gpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    @pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
    def test_a_change_counts_from_the_next_call_on(self, change, device, monkeypatch):
        model = many("llama", "alike")
        model.set_requires_grad("b")
        if device == "cuda":
            model.to("cuda")
        if device == "as a gpu":
            rows_as_on_a_gpu(monkeypatch)
        before = [self.logits(model) for _ in range(2)]
        np.testing.assert_array_equal(*before)
        change(model)
        if change is in_columns:
            self.logits(model)
            in_place(model)  # what a kernel would read elsewhere
        found = [self.logits(model) for _ in range(2)]
        plainly(monkeypatch)
        expected = self.logits(model)
        for logits in found:
            assert relative(logits, expected) < 2e-5
        assert change in NO_OTHER_RESULT or relative(found[0], before[0]) > 1e-3

    def test_a_model_that_is_moved(self):
        model, expected = many("llama", "alike"), None
        expected = self.logits(model)
        assert self.logits(model.to(np.float64)).dtype == np.float64
        assert relative(self.logits(model), expected) < 1e-5
        np.testing.assert_array_equal(self.logits(model.to(np.float32)), expected)

    def test_dropout_comes_and_goes_with_training(self):
        model = many("llama", "dropout")
        expected = self.logits(model)
        model.train()
        assert relative(self.logits(model), expected) > 1e-2
        with evaluating():
            np.testing.assert_array_equal(self.logits(model), expected)
        assert relative(self.logits(model), expected) > 1e-2
        np.testing.assert_array_equal(self.logits(model.eval()), expected)

    def test_a_layer_is_looked_at_once(self, monkeypatch):
        model, made = many("llama", "alike"), counted(monkeypatch, Rows, "_updates")
        counts = []
        for names in (NAMES, NAMES, NAMES, NAMES[::-1], NAMES[::-1]):
            with no_grad():
                model(some_ids(model.config, len(NAMES), 4), adapter_names=names)
            counts.append(len(made))
        assert counts == [10, 10, 10, 20, 20]
        model.set_scale("b", 2)
        self.logits(model)
        assert len(made) == 30

    @pytest.mark.parametrize("adapters", ADAPTERS)
    @pytest.mark.parametrize("kind", LINEAR)
    def test_as_on_a_gpu_results_are_those_of_the_plain_form(self, kind, adapters, monkeypatch):
        model = many(kind, adapters)
        with monkeypatch.context() as patch:
            plainly(patch)
            expected = self.logits(model), self.text(model)
        made = rows_as_on_a_gpu(monkeypatch)
        assert relative(self.logits(model), expected[0]) < 2e-5
        np.testing.assert_array_equal(self.text(model), expected[1])
        assert made or adapters == "embeddings"

    def test_as_on_a_gpu_what_a_layer_has_kept_of_its_results_stays(self, monkeypatch):
        """Of one whose forward was replaced to look at them."""
        model, results = many("llama", "alike"), []
        layer = model.get_submodule("base_model.model.model.layers.0.mlp.gate_proj.base_layer")
        forward = layer.forward
        layer.forward = lambda x: results.append(forward(x)) or results[-1]
        expected = self.logits(model)
        rows_as_on_a_gpu(monkeypatch)
        assert relative(self.logits(model), expected) < 2e-5
        assert relative(results[1].data, results[0].data) < 2e-5

    def text(self, model):
        return model.generate(some_ids(model.config, len(NAMES), 4), adapter_names=NAMES, max_new_tokens=4)

    def test_as_on_a_gpu_one_text_knows_what_another_found_out(self, monkeypatch):
        model, made = many("llama", "alike"), rows_as_on_a_gpu(monkeypatch)
        first = self.text(model)
        layers = len(made)
        assert layers
        np.testing.assert_array_equal(self.text(model), first)
        with evaluating():
            self.logits(model)
        assert len(made) == layers
        model.set_scale("b", 2)
        self.text(model)
        assert len(made) == 2 * layers

    def test_as_on_a_gpu_layers_that_read_one_input_are_computed_together(self, monkeypatch):
        model, made = many("llama", "other layers"), rows_as_on_a_gpu(monkeypatch)
        self.logits(model)
        layers = len(model.base_model.adapted)
        assert sum(made) <= layers
        assert max(made) == 1  # beside a layer without adapters each is called by itself
        model = many("llama", "alike")
        model.add_adapter("all", LoraConfig(r=2, target_modules="all-linear"))
        made.clear()
        self.logits(model)
        assert sorted(made) == [1, 1, 1, 1, 2, 2, 3, 3]  # o, down; gate and up; q, k and v
        monkeypatch.setattr(rows.F, "swiglu", None)  # it comes with the updates
        self.logits(model)
        assert len(made) == 8

    def test_what_was_kept_of_an_adapter_goes_with_it(self):
        model = many("llama", "alike")
        self.logits(model)
        arrays = [weakref.ref(p.data) for p in parameters(model)]
        model.delete_adapter("b")
        gc.collect()
        assert len(arrays) == 20
        assert not any(array() is not None for array in arrays)

    def test_with_the_model_goes_what_was_kept_of_it(self):
        model = many("llama", "alike")
        self.logits(model)
        unchanged, arrays = changes.watch(), [weakref.ref(p.data) for p in parameters(model)]
        del model
        gc.collect()
        assert unchanged()
        assert not any(array() is not None for array in arrays)

    def test_threads_call_with_their_own_names(self):
        model, names = many(), [NAMES, NAMES[::-1], list("abcde") * 2, ["b", "__base__"] * 5]
        ids = some_ids(model.config, len(NAMES), 4)

        def logits(names):
            with no_grad():
                return model(ids, adapter_names=names).logits.numpy().copy()

        expected = [logits(own) for own in names]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(logits, names * 3))
        for one, right in zip(found, expected * 3, strict=True):
            np.testing.assert_array_equal(one, right)


class TestText:
    """Writing: the stacks are made once for each text, and anew where an adapter has changed."""

    def stream(self, model, change=None, after=1, names=NAMES, steps=3, **options):
        """The tokens (rows, steps); `change(model)` comes after so many."""
        found, ids = [], some_ids(model.config, batch=len(names), time=3)
        told = {"max_new_tokens": steps, "eos_token_id": [], "adapter_names": names, **options}
        for step, tokens in enumerate(model.stream(ids, **told), start=1):
            found.append(tokens)
            if step == after and change is not None:
                change(model)
        return np.stack(found, axis=1)

    def test_stacks_are_made_once(self, monkeypatch):
        model, made = many("llama", "alike"), counted(monkeypatch, rows, "stack_padded")
        counts = []
        for steps in (1, 2, 6):  # the first token follows from the prompt, which is read at once
            made.clear()
            model.generate(some_ids(model.config, 5, 3), max_new_tokens=steps, adapter_names=list("abcde"))
            counts.append(len(made))
        assert counts == [0] + [2 * len(model.base_model.adapted)] * 2

    def test_so_they_are_beside_adapters_of_other_kinds(self, monkeypatch):
        model, made = many("llama", "other kinds"), counted(monkeypatch, rows, "stack_padded")
        stream = model.stream(some_ids(model.config, 5, 3), max_new_tokens=5, adapter_names=list("abcde"))
        next(stream)
        assert not made
        next(stream)
        assert len(made) == 2 * len(model.base_model.adapted)
        made.clear()
        assert len(list(stream)) == 3
        assert not made

    def test_stacks_go_when_the_text_is_written(self, monkeypatch):
        model, made = many("llama", "alike"), counted(monkeypatch, rows, "stack_padded")
        result = model.generate(
            some_ids(model.config, 5, 3), max_new_tokens=3, adapter_names=list("abcde"), return_dict_in_generate=True
        )
        stacks = [weakref.ref(stack.data) for stack in made]
        made.clear()
        gc.collect()
        assert len(stacks) == 20
        assert not any(stack() is not None for stack in stacks)
        assert result.past_key_values is not None

    def test_a_loop_of_ones_own_has_them_as_long_as_its_cache(self, monkeypatch):
        model, made = many(), counted(monkeypatch, rows, "stack_padded")
        ids, cache, logits, counts = some_ids(model.config, len(NAMES), 6), KVCache(6), [], []
        with no_grad():
            for t in range(6):
                out = model(ids[:, t : t + 1], past_key_values=cache, adapter_names=NAMES)
                logits.append(out.logits.numpy()[:, -1].copy())
                counts.append(len(made))
            expected = model(ids, adapter_names=NAMES).logits.numpy()
            assert relative(np.stack(logits, 1), expected) < 2e-5
            assert set(counts) == {len(made)}  # what reads the whole at once makes none
            stacks = [weakref.ref(stack.data) for stack in made[: counts[0]]]
            cache.length = 5
            model(ids[:, 5:], past_key_values=cache, adapter_names=NAMES[::-1])  # other rows: other stacks
        del cache, out
        made.clear()
        gc.collect()
        assert not any(stack() is not None for stack in stacks)

    @pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
    def test_a_change_between_two_tokens_counts_from_the_next_on(self, change, monkeypatch):
        def make():
            model = many("llama", "dropout")
            model.set_requires_grad("b")
            return model

        told = {"after": 2, "steps": 4}  # the second token is the first with stacks
        found, unchanged = (self.stream(make(), how, **told) for how in (change, None))
        plainly(monkeypatch)
        np.testing.assert_array_equal(found, self.stream(make(), change, **told))
        if change not in NO_OTHER_RESULT:
            assert (found != unchanged).any()

    @pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
    def test_beams_are_those_of_the_plain_form(self, options, monkeypatch):
        model, ids = many(), some_ids(many().config, len(NAMES), 3)
        told = {"max_new_tokens": 4, "eos_token_id": [], "adapter_names": NAMES, **options}
        found = model.generate(ids, **told)
        plainly(monkeypatch)
        np.testing.assert_array_equal(found, model.generate(ids, **told))

    def test_threads_write_their_own_texts(self):
        model = many()
        batches = [NAMES, NAMES[::-1], list("abcde") * 2, ["b", "__base__"] * 5]
        expected = [self.stream(model, names=names) for names in batches]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda names: self.stream(model, names=names), batches * 2))
        for tokens, right in zip(found, expected * 2, strict=True):
            np.testing.assert_array_equal(tokens, right)


@pytest.mark.parity
@pytest.mark.parametrize("kind", LINEAR)
def test_logits_and_gradients_are_pefts(kind, tmp_path):
    import peft
    import torch

    model = many(kind, "ranks")
    model.save_pretrained(tmp_path)
    twin = peft.PeftModel.from_pretrained(
        hugging_face_twin({"gpt2": tiny_model, "llama": tiny_llama}[kind]()), tmp_path / "a", adapter_name="a"
    )
    for name in "bcde":
        twin.load_adapter(tmp_path / name, adapter_name=name)
    for name, p in twin.named_parameters():
        p.requires_grad_(".lora_" in name)
    ids = some_ids(model.config, batch=len(NAMES), time=5)
    tensor = torch.tensor(ids)
    expected = twin.eval()(input_ids=tensor, labels=tensor, adapter_names=NAMES)
    expected.loss.backward()
    found = computed(model)
    assert relative(found.pop("logits"), expected.logits.detach()) < 2e-5
    theirs = {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
    assert found.keys() == theirs.keys()
    for name, gradient in found.items():
        assert relative(gradient, theirs[name]) < 2e-5, name
