"""OFT: what goes into a layer is rotated, block by block."""

import json

import numpy as np
import pytest
from family_checks import (
    adapted,
    assert_comes_back,
    assert_gradients_are_slopes,
    assert_peft_computes_the_same,
    assert_reads_peft,
    assert_starts_at_the_base,
    assert_two_are_peft_s,
)
from family_tests import FamilyTests
from lora_helpers import (
    assert_merges,
    hugging_face_twin,
    logits_of,
    perturbed,
    refusal,
    relative,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import PeftModel, Tensor, get_peft_model
from lora_np.lora import OFTConfig
from lora_np.lora.family.oft import neumann, shortened_to


class TestOFT(FamilyTests):
    name = "OFTConfig"
    options = {"oft_block_size": 4}
    fewer = {"oft_block_size": 3}
    variants = [
        {"block_share": True},
        {"use_cayley_neumann": False},
        {"r": 2, "oft_block_size": 0},
        *({"num_cayley_neumann_terms": terms} for terms in (2, 3, 4, 7)),
    ]
    untestable_by_differences = [{"coft": True, "eps": 0.1}, {"module_dropout": 0.5}]
    in_peft = ["llama"]  # of GPT-2's Conv1D it has none
    embeds = True


def config(**options):
    return OFTConfig(**{"target_modules": ["q_proj", "down_proj"], "oft_block_size": 4, **options})


def oft(scale=0.3, **options):
    return perturbed(get_peft_model(tiny_llama(), config(**options)), scale=scale)


def first_of(model):
    return next(layer.adapters["default"] for _, layer in model.base_model.layers())


def test_with_cayleys_transform_it_is_a_rotation():
    for options in ({}, {"block_share": True}, {"r": 1, "oft_block_size": 0}):
        R = first_of(oft(use_cayley_neumann=False, **options)).matrix()
        np.testing.assert_allclose(R @ R.T, np.eye(16), atol=1e-5)
        assert np.linalg.det(R) == pytest.approx(1, abs=1e-4)


def test_a_few_terms_are_nearly_one_and_turn_the_other_way():
    exact, series = (first_of(oft(0.02, use_cayley_neumann=way)).matrix() for way in (False, True))
    np.testing.assert_allclose(series, exact.T, atol=1e-4)
    assert relative(series, exact) > 1e-2
    Q = np.array([[0, 0.5], [-0.5, 0]])
    long = neumann(Tensor(Q), np.eye(2), 60).data
    np.testing.assert_allclose(long, (np.eye(2) + Q) @ np.linalg.inv(np.eye(2) - Q), atol=1e-14)


@pytest.mark.parametrize(
    ("options", "width", "expected"),
    [
        ({"oft_block_size": 4}, 16, (4, 4)),
        ({"oft_block_size": 5}, 16, (4, 4)),
        ({"oft_block_size": 7}, 24, (4, 6)),
        ({"oft_block_size": 5}, 24, (6, 4)),
        ({"oft_block_size": 32}, 24, (1, 24)),
        ({"r": 3, "oft_block_size": 0}, 16, (2, 8)),
        ({"r": 30, "oft_block_size": 0}, 16, (16, 1)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*does not divide")
def test_blocks_make_up_the_input(options, width, expected):
    assert config(**options).blocks_of(width) == expected


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:.*does not divide")
def test_blocks_of_any_size_are_pefts():
    from peft.tuners.oft.layer import OFTLayer

    for width in (1, 12, 24, 30, 49):
        for wanted in range(1, width + 3):
            expected = OFTLayer.adjust_oft_parameters(None, width, wanted)
            assert config(oft_block_size=wanted).blocks_of(width)[1] == expected


def test_what_is_trained_and_of_what_rank():
    model = get_peft_model(tiny_llama(), config())
    assert model.get_nb_trainable_parameters()[0] == 2 * (16 // 4 + 24 // 4) * 6
    assert get_peft_model(tiny_llama(), config(block_share=True)).get_nb_trainable_parameters()[0] == 2 * 2 * 6
    assert np.linalg.matrix_rank(first_of(oft()).delta_weight()) == 16


class TestConstrained:
    """coft: each block stays near the identity."""

    settings = {"coft": True, "eps": 0.05}

    def test_the_length_of_a_block_is_bounded(self, rng):
        entries = rng.standard_normal((3, 6))
        entries[1] *= 1e-3
        found = shortened_to(entries, 0.1)
        np.testing.assert_allclose(np.sqrt(2) * np.linalg.norm(found[[0, 2]], axis=1), 0.1)
        np.testing.assert_array_equal(found[1], entries[1])
        np.testing.assert_array_equal(shortened_to(np.zeros((2, 6)), 0.0), np.zeros((2, 6)))

    def test_only_a_pass_with_gradients_writes_it_down(self):
        model = oft(**self.settings)
        adapter = first_of(model)
        before = adapter.oft_R.weight.data.copy()
        model.requires_grad_(False)
        expected, merged = logits_of(model), model.base_model.layers()[0][1].merged_parameters()[0]
        np.testing.assert_array_equal(adapter.oft_R.weight.data, before)
        model.set_adapter("default")
        np.testing.assert_array_equal(logits_of(model), expected)
        assert np.linalg.norm(adapter.oft_R.weight.data) < np.linalg.norm(before)
        assert relative(model.base_model.layers()[0][1].merged_parameters()[0], merged) < 1e-6

    @pytest.mark.parity
    def test_training_as_in_peft(self, tmp_path):
        import peft
        import torch

        ours = oft(**self.settings)
        ours.save_pretrained(tmp_path)
        theirs = peft.PeftModel.from_pretrained(hugging_face_twin(tiny_llama()), tmp_path, is_trainable=True)
        ids = some_ids(ours.config)
        for _ in range(3):
            ours.zero_grad()
            theirs.zero_grad()
            ours(ids, labels=ids).loss.backward()
            theirs(input_ids=torch.tensor(ids), labels=torch.tensor(ids)).loss.backward()
            theirs_now = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
            for name, p in ours.named_parameters():
                if p.requires_grad:
                    assert relative(p.data, theirs_now[name].detach()) < 2e-5
                    assert relative(p.grad, theirs_now[name].grad) < 2e-5
                    p.data = p.data - np.float32(0.5) * p.grad
                    theirs_now[name].data -= 0.5 * theirs_now[name].grad
        assert relative(logits_of(ours), theirs(torch.tensor(ids)).logits.detach()) < 2e-5


class TestModuleDropout:
    def test_a_part_of_the_blocks_is_at_rest_in_training_only(self):
        adapter = first_of(oft(module_dropout=0.5))
        R = adapter.rotations()
        assert adapter._some_at_rest(R) is R
        adapter.train()
        patterns = set()
        for _ in range(20):
            found = adapter._some_at_rest(R).data
            resting = [bool((block == np.eye(4)).all()) for block in found]
            assert sum(resting) == 2
            for block, own, rests in zip(found, R.data, resting, strict=True):
                assert rests or (block == own).all()
            patterns.add(tuple(resting))
        assert len(patterns) > 2

    def test_shared_blocks_never_rest_and_merging_knows_no_dropout(self):
        shared = first_of(oft(module_dropout=0.5, block_share=True)).train()
        R = shared.rotations()
        assert shared._some_at_rest(R) is R
        model = oft(module_dropout=0.9).train()
        np.testing.assert_array_equal(first_of(model).matrix(), first_of(oft(module_dropout=0.9)).matrix())


class TestBesideAnEmbedding:
    """Its rows are turned."""

    targets = {"gpt2": ["wte", "c_attn"], "llama": ["embed_tokens", "q_proj"]}

    def config(self, base, **options):
        return config(target_modules=self.targets[base], fan_in_fan_out=base == "gpt2", **options)

    @pytest.mark.parametrize(
        "options", [{}, {"block_share": True}, {"use_cayley_neumann": False, "r": 2, "oft_block_size": 0}]
    )
    @pytest.mark.parametrize("base", ["gpt2", "llama"])
    def test_it_starts_at_the_base_learns_and_comes_back(self, base, options, tmp_path):
        assert_starts_at_the_base(self.config(base, **options), base)
        assert_gradients_are_slopes(adapted(self.config(base, **options), base, np.float64))
        assert_comes_back(adapted(self.config(base, **options), base), base, tmp_path)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
    def test_merging(self, dtype, tolerance):
        model = get_peft_model(tiny_llama(tie_word_embeddings=False).to(dtype=dtype), self.config("llama"))
        model.add_adapter("other", config(target_modules=["embed_tokens"], oft_block_size=2))
        model.set_adapter(["default", "other"])
        assert_merges(perturbed(model, scale=0.3), tolerance)

    def test_the_rows_are_turned(self):
        model = adapted(self.config("llama", use_cayley_neumann=False), "llama")
        layer = model.base_model.model.model.embed_tokens
        W, ids = layer.base_layer.weight.data, np.array([[3, 0, 5]])
        R = layer.adapters["default"].matrix()
        assert relative(layer(ids).data, (W @ R)[ids]) < 1e-6
        assert relative(np.linalg.norm(layer(ids).data, axis=-1), np.linalg.norm(W[ids], axis=-1)) < 1e-5

    @pytest.mark.parity
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_as_in_peft(self, dtype, tmp_path):
        assert_peft_computes_the_same(adapted(self.config("llama"), "llama", dtype), "llama", tmp_path, dtype)
        assert_reads_peft(self.config("llama", block_share=True), "llama", tmp_path / "read", dtype)

    @pytest.mark.parity
    def test_two_at_once_as_in_peft(self, tmp_path):
        assert_two_are_peft_s(
            [self.config("llama"), config(target_modules=["embed_tokens"], r=2, oft_block_size=0)], "llama", tmp_path
        )


class TestFiles:
    """Files of other versions of PEFT."""

    def edited(self, folder, **changes):
        oft().save_pretrained(folder)
        path = folder / "adapter_config.json"
        fields = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in fields.items() if value != "gone"}))
        return PeftModel.from_pretrained(tiny_llama(), folder)

    def test_one_of_before_014_is_another_method(self, tmp_path):
        assert "PEFT before 0.14" in refusal(ValueError, lambda: self.edited(tmp_path, oft_block_size="gone", r=4))

    @pytest.mark.parametrize("version", ["0.17.1", "gone", "0.9.0@abc", "new"])
    def test_one_of_before_018_has_another_series(self, tmp_path, version):
        with pytest.warns(UserWarning, match="before PEFT 0.18"):
            self.edited(tmp_path, peft_version=version)

    @pytest.mark.filterwarnings("error")
    def test_newer_ones_and_exact_ones_are_read_without_a_word(self, tmp_path):
        self.edited(tmp_path, peft_version="0.18.0.dev0@abc")
        self.edited(tmp_path, peft_version="gone", use_cayley_neumann=False)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: config(r=4), "one of r and oft_block_size must be 0"),
        (lambda: config(oft_block_size=0), "one of r and oft_block_size must be 0"),
        (lambda: config(oft_block_size=-4), "oft_block_size must be an integer of at least 1"),
        (lambda: config(r=2.5, oft_block_size=0), "r must be an integer"),
        (lambda: config(r=False), "r must be an integer"),
        (lambda: config(module_dropout=1.0), "module_dropout must be in [0, 1)"),
        (lambda: config(eps=-1.0), "eps must not be negative"),
        (lambda: config(eps="small"), "eps must be a number"),
        (lambda: config(coft="yes"), "coft must be True or False"),
        (lambda: config(num_cayley_neumann_terms=0), "num_cayley_neumann_terms must be an integer"),
        (lambda: config(num_cayley_neumann_terms=10**6), "num_cayley_neumann_terms must be at most"),
        (lambda: config(init_weights="gaussian"), "init_weights must be True or False"),
        (lambda: oft().set_scale("default", 2), "no scaling"),
        (lambda: oft().add_weighted_adapter(["default"], [1.0], "sum"), "only plain LoRA"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


def test_a_size_that_does_not_fit_is_told():
    with pytest.warns(UserWarning, match="oft_block_size=5 does not divide an input of 16: 4 is taken"):
        get_peft_model(tiny_model(), OFTConfig(oft_block_size=5, target_modules=["c_attn"], fan_in_fan_out=True))
