"""Adapters that come and go under a budget: which go, what is refused, and that nothing is half done."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lora_helpers import peft_model, refusal, snapshot, some_ids, tiny_llama

from lora_np import LoraConfig, PeftModel, no_grad
from lora_np.lora import adapter_cache
from lora_np.lora.adapter_cache import AdapterCache

NUMBERS = 2 * 2 * 2 * (16 + 16)  # of r=2 on q_proj and o_proj, 16 -> 16, in two layers
NBYTES = 4 * NUMBERS


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{name: folder} of adapters of 1024 bytes each, all different; "large" takes twice as much."""
    root, found = tmp_path_factory.mktemp("adapters"), {}
    for seed, name in enumerate(["ann", "bob", "cem", "dan", "large"]):
        options = {"r": 4 if name == "large" else 2, "lora_alpha": 8}
        model = peft_model(["q_proj", "o_proj"], tiny_llama(), **options)
        for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
            p.data = 0.5 * np.random.default_rng([seed, i]).standard_normal(p.shape).astype(np.float32)
        found[name] = root / name
        model.save_pretrained(found[name])
    return found


@pytest.fixture(scope="module")
def alone(folders):
    """{name: logits of `IDS` with that adapter alone}."""
    return {n: PeftModel.from_pretrained(tiny_llama(), f)(IDS).logits.numpy()[0] for n, f in folders.items()}


IDS = some_ids(tiny_llama().config, batch=1)


def logits(cache, names):
    with no_grad():
        return cache.model(np.repeat(IDS, len(names), 0), adapter_names=names).logits.numpy()


def cache_for(adapters, **changes):
    return AdapterCache(tiny_llama(), adapters * NBYTES, **changes)


def loads(monkeypatch):
    """A list that gets the name of each folder that is read."""
    found, read = [], adapter_cache.read_adapter

    def reading(folder, *more):
        found.append(folder.name)
        return read(folder, *more)

    monkeypatch.setattr(adapter_cache, "read_adapter", reading)
    return found


def test_each_row_computes_with_its_adapter(folders, alone):
    cache = cache_for(3)
    with cache.use(folders["ann"], str(folders["bob"]), folders["ann"], "__base__") as names:
        assert names == ["ann", "bob", "ann", "__base__"]
        found = logits(cache, names)
    for row, name in zip(found, ["ann", "bob", "ann"], strict=False):
        np.testing.assert_allclose(row, alone[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[3], tiny_llama()(IDS).logits.numpy()[0], rtol=1e-4, atol=1e-5)
    assert cache.loaded == {"ann": NBYTES, "bob": NBYTES}
    assert cache.nbytes == 2 * NBYTES
    held = sum(p.data.nbytes for name, p in cache.model.named_parameters() if ".lora_" in name)
    assert held == cache.nbytes


def test_the_least_recently_used_goes(folders, monkeypatch):
    cache, read = cache_for(2), loads(monkeypatch)
    for name in ("ann", "bob", "ann", "cem", "ann", "bob"):
        with cache.use(folders[name]):
            assert cache.nbytes <= cache.budget_bytes
            assert set(cache.loaded) == set(cache.model.peft_config)
    assert read == ["ann", "bob", "cem", "bob"]
    assert list(cache.loaded) == ["ann", "bob"]


def test_the_end_of_a_block_is_a_use_too(folders):
    cache = cache_for(2)
    with cache.use(folders["ann"]), cache.use(folders["bob"]):
        pass
    with cache.use(folders["cem"]):
        assert list(cache.loaded) == ["ann", "cem"]


def test_what_leaves_the_cache_leaves_no_trace(folders):
    cache = cache_for(2)
    before = snapshot(cache.model)
    for name in ("ann", "bob", "cem"):
        with cache.use(folders[name]):
            pass
    cache.drop("bob")
    cache.drop(folders["cem"])
    assert cache.loaded == {}
    assert snapshot(cache.model) == before
    assert not cache.model._refuse_change("anything")


def test_what_is_in_use_stays(folders, alone):
    cache = cache_for(2)
    with cache.use(folders["ann"]) as (ann,):
        for name in ("bob", "cem", "dan", "bob"):
            with cache.use(folders[name]) as (other,):
                found = logits(cache, [ann, other])
            np.testing.assert_allclose(found[0], alone["ann"], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found[1], alone[name], rtol=1e-4, atol=1e-5)
        with cache.use(folders["ann"]):
            pass
        with cache.use(folders["bob"]):
            before = snapshot(cache.model)
            message = refusal(RuntimeError, lambda: cache.use(folders["cem"]).__enter__())
            assert f"there is no room for cem: {NBYTES:,d} bytes are lacking" in message
            assert "ann, bob" in message
            assert snapshot(cache.model) == before
            assert "ann is in use" in refusal(RuntimeError, lambda: cache.drop("ann"))
    with cache.use(folders["cem"]):
        pass


def test_the_active_one_stays(folders):
    cache = cache_for(2)
    with cache.use(folders["ann"]):
        cache.model.set_adapter("ann")
    for name in ("bob", "cem"):
        with cache.use(folders[name]):
            assert "ann" in cache.loaded
    assert "ann is in use" in refusal(RuntimeError, lambda: cache.drop("ann"))


def test_one_that_is_larger_than_the_budget_is_refused(folders):
    cache = cache_for(1)
    with cache.use(folders["ann"]):
        pass
    before = snapshot(cache.model)
    message = refusal(ValueError, lambda: cache.use(folders["large"]).__enter__())
    assert f"large takes {2 * NBYTES:,d} bytes, more than the whole budget_bytes={NBYTES:,d}" in message
    assert snapshot(cache.model) == before
    assert cache.loaded == {"ann": NBYTES}


def test_several_that_have_no_room_together_are_refused_and_nothing_goes(folders):
    cache = cache_for(2)
    with cache.use(folders["ann"]):
        pass
    message = refusal(RuntimeError, lambda: cache.use(*(folders[n] for n in ("bob", "cem", "dan"))).__enter__())
    assert f"no room for bob, cem, dan: {NBYTES:,d} bytes" in message
    assert cache.loaded == {"ann": NBYTES}


def test_if_one_of_several_cannot_be_read_nothing_has_changed(folders, tmp_path):
    cache = cache_for(2)
    with cache.use(folders["ann"], folders["bob"]):
        pass
    before = snapshot(cache.model)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text("{")
    for wrong, error in ((tmp_path / "nothing", FileNotFoundError), (tmp_path / "broken", ValueError)):
        assert wrong.name in str(refusal(error, lambda wrong=wrong: cache.use(folders["cem"], wrong).__enter__()))
        assert snapshot(cache.model) == before
        assert list(cache.loaded) == ["ann", "bob"]
    with cache.use(folders["cem"]):  # and nothing counts as in use
        assert "ann" not in cache.loaded


def test_an_interruption_while_they_change_places_leaves_those_from_before(folders, monkeypatch):
    cache = cache_for(1)
    with cache.use(folders["ann"]):
        pass
    before, attach = snapshot(cache.model), PeftModel._attach

    def interrupted(*args):
        attach(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(PeftModel, "_attach", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.use(folders["bob"]).__enter__()
    assert snapshot(cache.model) == before
    assert cache.loaded == {"ann": NBYTES}
    monkeypatch.setattr(PeftModel, "_attach", attach)
    with cache.use(folders["bob"]):
        assert list(cache.loaded) == ["bob"]


@pytest.mark.parametrize(
    "options", [{"modules_to_save": ["norm"]}, {"bias": "all"}, {"init_lora_weights": "olora"}], ids=str
)
def test_adapters_that_change_others_are_refused(options, tmp_path):
    base = tiny_llama(attention_bias=True)
    peft_model(["q_proj"], tiny_llama(attention_bias=True), **options).save_pretrained(tmp_path / "selfish")
    cache = AdapterCache(base, 10**9)
    before = snapshot(cache.model)
    message = refusal(ValueError, lambda: cache.use(tmp_path / "selfish").__enter__())
    assert "selfish changes what other adapters" in message
    assert snapshot(cache.model) == before


def test_adapters_of_the_models_own_are_used_and_neither_counted_nor_dropped(folders):
    model = peft_model(["q_proj"], tiny_llama(), "own")
    cache = AdapterCache(model, NBYTES)
    assert cache.model is model
    for name in ("ann", "bob"):
        with cache.use("own", folders[name]) as names, cache.use(name) as again:
            assert names == ["own", *again] == ["own", name]
            assert list(cache.loaded) == [name]
    assert set(model.peft_config) == {"own", "bob"}
    assert "no adapter 'own'" in refusal(KeyError, lambda: cache.drop("own"))


def test_what_the_model_was_told_in_between_is_noticed(folders, monkeypatch):
    cache, read = cache_for(2), loads(monkeypatch)
    with cache.use(folders["ann"], folders["bob"]):
        pass
    cache.model.delete_adapter("ann")
    cache.model.rename_adapter("bob", "robert")
    assert cache.loaded == {}
    with cache.use(folders["ann"]) as names:
        assert names == ["ann"]
    assert read == ["ann", "bob", "ann"]


def test_folders_of_one_name_and_names_that_are_none(folders, tmp_path):
    cache = cache_for(9)
    with cache.use(folders["ann"]):
        pass
    paths = [tmp_path / "x" / "ann", tmp_path / "7 of 9", tmp_path / "forward", tmp_path / "²"]
    model = PeftModel.from_pretrained(tiny_llama(), folders["bob"])
    for path in paths:
        model.save_pretrained(path)
    with cache.use(*paths, paths[0].parent / ".." / "x" / "ann") as names:
        assert names == ["ann_2", "_7_of_9", "forward_2", "_²", "ann_2"]


def test_it_is_refused_while_merged_or_disabled(folders):
    cache = cache_for(2)
    with cache.use(folders["ann"]):
        cache.model.set_adapter("ann")
        cache.model.merge_adapter()
        assert "unmerge_adapter() first" in refusal(RuntimeError, lambda: cache.use(folders["bob"]).__enter__())
        cache.model.unmerge_adapter()
        with cache.model.disable_adapter():
            assert "inside disable_adapter()" in refusal(RuntimeError, lambda: cache.use(folders["bob"]).__enter__())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AdapterCache("gpt2", 10), TypeError, "model should be a model"),
        (lambda: AdapterCache(tiny_llama(), 0), ValueError, "budget_bytes must be at least 1, got 0"),
        (lambda: AdapterCache(tiny_llama(), 1e9), TypeError, "budget_bytes should be a whole number"),
        (lambda: AdapterCache(peft_model().get_base_model(), 10), ValueError, "has adapters already"),
        (lambda: cache_for(1).use(["a", "b"]).__enter__(), TypeError, r"use\(\*several\)"),
        (lambda: cache_for(1).drop("ann"), KeyError, "no adapter 'ann'"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_threads_load_and_compute_at_once(folders, alone):
    cache, start = cache_for(3), threading.Barrier(3)

    def serve(seed):
        start.wait()
        rng = np.random.default_rng(seed)
        for _ in range(12):
            name = rng.choice(["ann", "bob", "cem", "dan"])
            with cache.use(folders[name]) as names:
                found = logits(cache, [*names, "__base__"])
            np.testing.assert_allclose(found[0], alone[name], rtol=1e-4, atol=1e-5)
            assert cache.nbytes <= cache.budget_bytes

    with ThreadPoolExecutor(3) as pool:
        for outcome in [pool.submit(serve, seed) for seed in range(3)]:
            outcome.result(60)
    with cache.use(*(folders[name] for name in ("ann", "bob", "cem"))):
        assert len(cache.loaded) == 3
    assert not cache._uses


def test_a_text_is_written_while_others_come_and_go(folders):
    cache, ids = cache_for(2), np.repeat(IDS[:, :3], 2, 0)
    with cache.use(folders["ann"], "__base__") as names:
        expected = cache.model.generate(ids, adapter_names=names, max_new_tokens=6)[:, 3:]
        found = []
        for step, tokens in enumerate(cache.model.stream(ids, adapter_names=names, max_new_tokens=6)):
            found.append(tokens)
            with cache.use(folders[["bob", "cem", "dan"][step % 3]]):
                pass
    np.testing.assert_array_equal(np.stack(found, 1), expected)


def test_kinds_with_shared_tensors_are_counted_whole(tmp_path):
    from lora_np import VeraConfig, get_peft_model

    config = VeraConfig(r=4, target_modules=["q_proj"])
    get_peft_model(tiny_llama(), config).save_pretrained(tmp_path / "vera")
    cache = AdapterCache(tiny_llama(), 10**6)
    with cache.use(tmp_path / "vera"):
        held = cache.model.state_dict()
        assert cache.nbytes == sum(array.nbytes for name, array in held.items() if "vera_" in name)


def test_an_adapter_of_another_kind_is_refused(folders, tmp_path):
    from lora_np import VeraConfig, get_peft_model

    get_peft_model(tiny_llama(), VeraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "vera")
    cache = AdapterCache(tiny_llama(), 10**6)
    with cache.use(folders["ann"]):
        before = snapshot(cache.model)
        assert "adapters of one kind" in refusal(ValueError, lambda: cache.use(tmp_path / "vera").__enter__())
        assert snapshot(cache.model) == before


def test_dora_goes_along(tmp_path):
    model = peft_model(["q_proj"], tiny_llama(), use_dora=True)
    model.add_adapter("plain", LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "dora")
    model.save_pretrained(tmp_path)
    cache = AdapterCache(tiny_llama(), 10**6)
    with cache.use(tmp_path / "dora", tmp_path / "plain") as names:
        found = logits(cache, names)
    for row, name in zip(found, ["default", "plain"], strict=True):
        model.set_adapter(name)
        np.testing.assert_allclose(row, model(IDS).logits.numpy()[0], rtol=1e-4, atol=1e-5)
