"""aLoRA: the adapter acts from its invocation tokens on, so that the base model's cache of what is before serves it."""

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    gradients,
    load_in_peft,
    logits_of,
    peft_model,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import KVCache, LoraConfig, PeftModel, Tensor, get_peft_model, no_grad
from lora_np.lora.invocations import acting_on, starts_in
from lora_np.training import SGD

IDS = some_ids(tiny_model().config)
TOKENS = IDS[0, 3:5].tolist()  # the first row has them, the second has not
AFTER = np.s_[0, 3:]
LONG = {"max_position_embeddings": 40}
BASES = {"gpt2": (tiny_model, ["c_attn", "mlp.c_proj"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}
each_base = pytest.mark.parametrize("base", BASES)


def alora_config(base="gpt2", **options):
    options = {"r": 3, "alora_invocation_tokens": TOKENS, "init_lora_weights": False, **options}
    return LoraConfig(target_modules=BASES[base][1], fan_in_fan_out=base == "gpt2", task_type="CAUSAL_LM", **options)


def alora(base="llama", changes=LONG, **options):
    return get_peft_model(BASES[base][0](**changes), alora_config(base, **options))


def test_the_last_occurrence_counts():
    ids = np.array([[1, 2, 1, 2, 3], [2, 1, 1, 3, 2], [1, 1, 1, 1, 2]])
    assert starts_in(ids, (1, 2)).tolist() == [2, -1, 3]
    assert starts_in(ids, (1,)).tolist() == [2, 2, 3]
    assert starts_in(ids, (1, 2, 1, 2, 3)).tolist() == [0, -1, -1]
    assert starts_in(ids, (1, 2, 1, 2, 3, 4)).tolist() == [-1, -1, -1]


@each_base
def test_it_acts_from_the_tokens_on_and_nowhere_else(base):
    model, plain = alora(base, {}), logits_of(BASES[base][0](), IDS)
    found = logits_of(model, IDS)
    assert relative(found[0, :3], plain[0, :3]) < 1e-6
    assert relative(found[1], plain[1]) < 1e-6
    assert relative(found[AFTER], plain[AFTER]) > 1e-2
    always = peft_model(BASES[base][1], BASES[base][0](), r=3)
    always.load_state_dict(model.state_dict())
    model.peft_config["default"].alora_invocation_tokens[:] = IDS[0, :2].tolist()
    assert relative(logits_of(model, IDS)[0], logits_of(always, IDS)[0]) < 1e-6
    assert relative(logits_of(model, IDS)[AFTER], found[AFTER]) > 1e-3


def test_before_them_a_layer_gives_what_the_base_gives_bit_for_bit():
    _, layer = alora().base_model.layers()[0]
    x = Tensor(np.random.default_rng(0).standard_normal((2, 9, 16)).astype(np.float32))
    with acting_on({tuple(TOKENS): np.array([6, 0])}):
        found = layer(x).data
    base = layer.base_layer(x).data
    assert np.array_equal(found[0, :3], base[0, :3])
    assert np.array_equal(found[1], base[1])
    assert (found[AFTER] != base[AFTER]).all()
    assert np.array_equal(layer(x).data, base)  # and where no call says anything, nowhere


@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "num_return_sequences": 2}, {"max_new_tokens": 28}])
def test_generating_with_the_cache_is_recomputing(options):
    options = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True, **options}
    model = alora()
    runs = [
        model.generate(IDS, use_cache=cached, output_logits=True, output_scores=True, **options)
        for cached in (True, False)
    ]
    assert np.array_equal(runs[0].sequences, runs[1].sequences)
    assert max(relative(*pair) for pair in zip(runs[0].logits, runs[1].logits, strict=True)) < 1e-5
    plain = tiny_llama(**LONG).generate(IDS, **{**options, "return_dict_in_generate": False})
    assert (runs[0].sequences[: len(plain) // 2] != plain[: len(plain) // 2]).any()
    assert np.array_equal(runs[0].sequences[len(plain) // 2 :], plain[len(plain) // 2 :])


class TestTheCacheOfTheBase:
    """What is before the invocation tokens has been read by the model without the adapter."""

    ids = IDS[:1]

    def read(self, model, stop=3):
        cache = KVCache(40)
        with no_grad(), model.disable_adapter():
            model(self.ids[:, :stop], past_key_values=cache)
        return cache

    def test_serves_the_adapter(self):
        model = alora()
        cache = self.read(model)
        with no_grad():
            rest = model(self.ids[:, 3:], past_key_values=cache).logits.numpy()
        assert relative(rest[0], logits_of(model, self.ids)[0, 3:]) < 1e-5

    def test_goes_on_token_by_token(self):
        """The tokens are in one call, and hold in the later ones."""
        model = alora()
        cache, expected = self.read(model), logits_of(model, self.ids)
        with no_grad():
            model(self.ids[:, 3:5], past_key_values=cache)
            for t in range(5, 9):
                step = model(self.ids[:, t : t + 1], past_key_values=cache).logits.numpy()
                assert relative(step[0, 0], expected[0, t]) < 1e-5
            cache.length = 3
            other = model(self.ids[:, 5:6], past_key_values=cache).logits.numpy()
            cache.length = 3
            with model.disable_adapter():
                assert relative(other, model(self.ids[:, 5:6], past_key_values=cache).logits.numpy()) < 1e-6

    def test_serves_generate(self):
        model = alora()
        expected = model.generate(self.ids, max_new_tokens=9, do_sample=False)
        found = model.generate(self.ids, max_new_tokens=9, do_sample=False, past_key_values=self.read(model))
        assert np.array_equal(found, expected)

    def test_serves_two_adapters_one_after_the_other(self):
        model = alora()
        model.add_adapter("other", alora_config("llama", alora_invocation_tokens=IDS[0, 6:7].tolist()))
        for name, start in (("default", 3), ("other", 6)):
            model.set_adapter(name)
            cache = self.read(model, start)
            with no_grad():
                rest = model(self.ids[:, start:], past_key_values=cache).logits.numpy()
            assert relative(rest[0], logits_of(model, self.ids)[0, start:]) < 1e-5


def test_offsets_can_be_given_as_in_peft():
    model = alora()
    found = model(IDS, alora_offsets=[6, None]).logits.numpy()
    assert np.array_equal(found, logits_of(model, IDS))
    other = model(IDS, alora_offsets=[2, 20]).logits.numpy()
    assert relative(other[0, :7], logits_of(tiny_llama(**LONG), IDS)[0, :7]) < 1e-6
    generated = model.generate(IDS, alora_offsets=[6, None], max_new_tokens=5, do_sample=False)
    assert np.array_equal(generated, model.generate(IDS, max_new_tokens=5, do_sample=False))
    for wrong in ([6], [6, -1], [6, "a"], [1.5, 2]):
        assert "alora_offsets must list for each of 2 rows" in refusal(
            ValueError, lambda wrong=wrong: model(IDS, alora_offsets=wrong)
        )


def test_rows_with_adapters_of_their_own():
    model = alora()
    model.add_adapter("always", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.add_adapter("late", alora_config("llama", alora_invocation_tokens=IDS[1, 7:8].tolist()))
    ids, names = IDS[[0, 1, 0, 1]], ["default", "late", "always", "__base__"]
    found = model(ids, adapter_names=names).logits.numpy()
    written = model.generate(ids, adapter_names=names, max_new_tokens=6, do_sample=False)
    for row, name in enumerate(names):
        own = [name] * 1
        assert relative(found[row], model(ids[row : row + 1], adapter_names=own).logits.numpy()[0]) < 1e-6
        alone = model.generate(ids[row : row + 1], adapter_names=own, max_new_tokens=6, do_sample=False)
        assert np.array_equal(written[row], alone[0])
    model.set_adapter("default")
    assert relative(found[0], logits_of(model, ids)[0]) < 1e-6
    model.set_adapter(["default", "late"])
    assert relative(logits_of(model, IDS)[0, :3], logits_of(tiny_llama(**LONG), IDS)[0, :3]) < 1e-6


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_what_is_after_them_trains_it(checkpointing):
    model = alora("gpt2", {}, init_lora_weights=True).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    optimizer, losses = SGD([p for p in model.parameters() if p.requires_grad], lr=0.5), []
    for _ in range(6):
        loss = model(IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-3
    without = alora("gpt2", {}, alora_invocation_tokens=[30, 30, 30])
    assert not any(gradient.any() for gradient in gradients(without).values())


def test_a_batch_on_several_cores_is_not_cut_apart(monkeypatch):
    from lora_np.autograd import threads

    model = alora("gpt2", {}, init_lora_weights=False).train()
    expected = model(IDS, labels=IDS).loss.item()
    monkeypatch.setattr(threads, "LEAST_TOKENS", 1)
    monkeypatch.setenv("LORA_NP_NUM_THREADS", "2")
    assert model(IDS, labels=IDS).loss.item() == expected


def test_it_comes_back_from_a_file_bit_for_bit(tmp_path):
    model = alora()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(**LONG), tmp_path, is_trainable=True)
    assert loaded.peft_config["default"].alora_invocation_tokens == TOKENS
    assert snapshot(loaded) == snapshot(model)
    assert np.array_equal(logits_of(loaded, IDS), logits_of(model, IDS))


def test_it_cannot_be_merged():
    model = alora()
    before = snapshot(model)
    for action in (model.merge_adapter, model.merge_and_unload):
        assert "aLoRA acts on some tokens only" in refusal(ValueError, action)
    assert snapshot(model) == before


@pytest.mark.parametrize("tokens", [5, "ab", [1.5], [-1], [True], [[1, 2]], {"a": 1}])
def test_tokens_that_are_none(tokens):
    assert "alora_invocation_tokens must be a list" in refusal(
        ValueError, lambda: alora_config(alora_invocation_tokens=tokens)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "alora_invocation_tokens and use_dora do not go together"),
        ({"lora_bias": True}, "alora_invocation_tokens and lora_bias do not go together"),
        ({"target_modules": ["wte"]}, "wte is an Embedding"),
        ({"target_modules": ["c_attn.q"]}, "c_attn.q is a part"),
    ],
)
def test_what_does_not_go_with_it(options, message):
    options = {"alora_invocation_tokens": [5], "target_modules": ["c_attn"], "fan_in_fan_out": True, **options}
    assert message in refusal(ValueError, lambda: get_peft_model(tiny_model(), LoraConfig(**options)))


@pytest.mark.parity
@each_base
class TestAgainstPeft:
    def test_names_logits_and_gradients(self, base):
        assert_equal_to_peft(alora_config(base, lora_alpha=5), BASES[base][0]())

    def test_files(self, base, tmp_path):
        assert_exchanged_with_peft(alora_config(base), BASES[base][0](), tmp_path)

    def test_generated_text(self, base, tmp_path):
        import torch

        changes = {"n_positions": 40} if base == "gpt2" else LONG
        ours = alora(base, changes, lora_alpha=40)
        ours.save_pretrained(tmp_path)
        theirs = load_in_peft(BASES[base][0](**changes), tmp_path)
        options = {"max_new_tokens": 20, "do_sample": False}
        expected = theirs.generate(
            input_ids=torch.tensor(IDS),
            attention_mask=torch.ones(IDS.shape, dtype=torch.long),
            pad_token_id=0,
            **options,
        )
        assert np.array_equal(ours.generate(IDS, **options)[:, : expected.shape[1]], expected.numpy())


def test_rows_of_several_texts_are_refused():
    """The tokens of one text would be looked for in all of the row."""
    model, texts = alora(), np.repeat([[0, 1]], IDS.shape[1] // 2 + 1, axis=1)[:, : IDS.shape[1]].repeat(len(IDS), 0)
    with pytest.raises(ValueError, match=r"aLoRA .* give each text a row of its own, without seq_idx"):
        model(IDS, seq_idx=texts)
    with model.disable_adapter():
        assert model(IDS, seq_idx=texts).logits.shape[:2] == IDS.shape
