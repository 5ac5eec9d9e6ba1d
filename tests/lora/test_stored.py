"""Files that PEFT writes, and files like those: what PEFT loads loads here, with the same logits."""

import functools
import json

import numpy as np
import pytest
from lora_helpers import (
    hugging_face_twin,
    logits_of,
    peft_model,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import PeftModel, manual_seed, nn
from lora_np.storage import read_safetensors, write_safetensors

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
HEAD, EMBEDDING = f"{PREFIX}lm_head.weight", f"{PREFIX}model.embed_tokens.weight"
WHOLE = "model.layers.1.mlp.up_proj"
QV = ["q_proj", "v_proj"]
gpt2, llama = tiny_model, tiny_llama


def named(value):
    """The name of a test's case, the same in each run: not where a function lies in memory."""
    function = getattr(value, "func", value)
    return f"{function.__name__}{getattr(value, 'keywords', '')}" if callable(value) else str(value)


untied = functools.partial(tiny_llama, tie_word_embeddings=False)
tied = functools.partial(tiny_llama, tie_word_embeddings=True)
untied_gpt2 = functools.partial(tiny_model, tie_word_embeddings=False)

parity = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]


def made_by_peft(make, directory, change=None, save=None, **options):
    """A directory with PEFT's adapter for the model make(), all that it trains random; change, save: of PEFT's."""
    import peft
    import torch

    torch.manual_seed(0)
    base, options = make(), {"r": 4, "lora_alpha": 6, "init_lora_weights": False, **options}
    conv1d = base.config.model_type == "gpt2"
    theirs = peft.get_peft_model(hugging_face_twin(base), peft.LoraConfig(**options, fan_in_fan_out=conv1d)).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn_like(p) if p.requires_grad else 0
        if change:
            change(theirs)
    theirs.save_pretrained(directory, **(save or {}))
    return directory


def edit(directory, change=None, **fields):
    """Change a saved adapter: its arrays by a function of them that may return others, its config by fields."""
    if change:
        arrays, _ = read_safetensors(directory / WEIGHTS)
        write_safetensors(directory / WEIGHTS, change(arrays) or arrays)
    if fields:
        config = json.loads((directory / CONFIG).read_text())
        (directory / CONFIG).write_text(json.dumps({**config, **fields}))
    return directory


def in_peft(base, directory):
    """The logits of PEFT's model that loads this directory."""
    import peft

    return logits_of(peft.PeftModel.from_pretrained(hugging_face_twin(base), directory).eval(), some_ids(base.config))


def assert_loads_as_in_peft(make, directory, tolerance=2e-5):
    """It does something, has PEFT's logits here, and when it is saved here it has them again, here and there."""
    expected = in_peft(make(), directory)
    assert relative(logits_of(make()), expected) > 1e-3
    ours = PeftModel.from_pretrained(make(), directory)
    assert relative(logits_of(ours), expected) < tolerance
    ours.save_pretrained(directory / "again")
    assert relative(logits_of(PeftModel.from_pretrained(make(), directory / "again")), expected) < tolerance
    assert relative(in_peft(make(), directory / "again"), expected) < tolerance
    return ours


SEVERAL = {  # what PEFT is told, and the model
    "a target that the model lacks": (llama, {"target_modules": [*QV, "w1"]}),
    "a module to save that the model lacks": (llama, {"target_modules": QV, "modules_to_save": ["score", "lm_head"]}),
    "only such modules to save": (gpt2, {"target_modules": ["c_attn"], "modules_to_save": ["score", "classifier"]}),
    "norm is each norm": (llama, {"target_modules": QV, "modules_to_save": ["norm"]}),
    "a target in what is saved": (llama, {"target_modules": [*QV, "up_proj"], "modules_to_save": ["mlp"]}),
    "a block that is saved": (llama, {"target_modules": QV, "modules_to_save": ["layers.0"]}),
    "all-linear and a part saved": (llama, {"target_modules": "all-linear", "modules_to_save": ["mlp"]}),
    "lm_head in both": (untied, {"target_modules": [*QV, "lm_head"], "modules_to_save": ["lm_head"]}),
    "lm_head in both, tied": (gpt2, {"target_modules": ["c_attn", "lm_head"], "modules_to_save": ["lm_head"]}),
    "wte in both": (gpt2, {"target_modules": ["c_attn", "wte"], "modules_to_save": ["wte"]}),
    "a gaussian embedding": (llama, {"target_modules": [*QV, "embed_tokens"], "init_lora_weights": "gaussian"}),
    "an orthogonal embedding": (gpt2, {"target_modules": ["c_attn", "wte"], "init_lora_weights": "orthogonal"}),
    "gaussian in capitals": (llama, {"target_modules": QV, "init_lora_weights": "Gaussian"}),
    "lora_bias without a bias": (llama, {"target_modules": QV, "lora_bias": True}),
    "lora_bias with and without": (untied_gpt2, {"target_modules": ["c_attn", "lm_head"], "lora_bias": True}),
    "all biases and one saved": (gpt2, {"target_modules": ["c_attn"], "bias": "all", "modules_to_save": ["ln_f"]}),
    "all biases and many saved": (gpt2, {"target_modules": ["c_attn"], "bias": "all", "modules_to_save": ["mlp"]}),
    "lora_only and one saved": (gpt2, {"target_modules": ["c_attn"], "bias": "lora_only", "modules_to_save": ["ln_f"]}),
    "tied, embeddings saved": (tied, {"target_modules": QV, "modules_to_save": ["embed_tokens"]}),
    "DoRA on an embedding": (llama, {"target_modules": [*QV, "embed_tokens"], "use_dora": True}),
    "DoRA on embeddings alone": (gpt2, {"target_modules": ["wte", "wpe"], "use_dora": True}),
    "a classifier's task": (llama, {"target_modules": QV, "task_type": "SEQ_CLS"}),
    "features": (gpt2, {"target_modules": ["c_attn"], "task_type": "FEATURE_EXTRACTION"}),
    "a sequence's task": (gpt2, {"target_modules": ["c_attn"], "task_type": "TOKEN_CLS"}),
    "null": (llama, {"target_modules": QV, "use_dora": None, "lora_bias": None, "use_rslora": None}),
    "an empty pattern": (llama, {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": ""}),
    "no patterns": (llama, {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": []}),
    "blocks": (gpt2, {"target_modules": ["c_attn"], "layers_to_transform": 1, "layers_pattern": "(h|blocks)"}),
    "all but some": (llama, {"target_modules": "all-linear", "exclude_modules": r".*mlp.*"}),
    "a whole name passes the blocks": (llama, {"target_modules": ["v_proj", WHOLE], "layers_to_transform": [0]}),
    "excluded by nothing": (llama, {"target_modules": QV, "exclude_modules": []}),
    "ranks of each": (llama, {"target_modules": QV, "rank_pattern": {r"layers\.0\..*q_proj": 2, "v_proj": 6}}),
}
PRECISE = ["norm is each norm", "lm_head in both", "all biases and one saved", "lora_bias with and without"]
PRECISE += ["DoRA on an embedding", "tied, embeddings saved", "ranks of each"]
CASES = pytest.mark.parametrize(("make", "options"), SEVERAL.values(), ids=SEVERAL)


class TestWhatPeftWrites:
    pytestmark = parity

    @CASES
    def test_it_loads_with_the_same_logits(self, tmp_path, make, options):
        assert_loads_as_in_peft(make, made_by_peft(make, tmp_path, **options))

    @pytest.mark.parametrize("save", [True, False, "auto"])
    @pytest.mark.parametrize(
        ("make", "options"),
        [
            (llama, {}),
            (untied, {}),
            (tied, {"modules_to_save": ["lm_head"]}),
            (untied, {"modules_to_save": ["lm_head", "embed_tokens"]}),
            (untied, {"target_modules": [*QV, "embed_tokens", "lm_head"]}),
            (untied, {"target_modules": [*QV, "model.embed_tokens"]}),
            (tied, {"target_modules": [*QV, "embed_tokens"]}),
        ],
        ids=named,
    )
    def test_with_the_embeddings_beside(self, tmp_path, make, options, save):
        options = {"target_modules": QV, **options}
        directory = made_by_peft(make, tmp_path, save={"save_embedding_layers": save}, **options)
        ours = assert_loads_as_in_peft(make, directory)
        with ours.disable_adapter():
            np.testing.assert_array_equal(logits_of(ours), logits_of(make()))

    @pytest.mark.parametrize("make", [tied, untied])
    def test_embeddings_that_are_not_the_models(self, tmp_path, make):
        """As after a resize: the new rows are random, and are in the file. They belong to the adapter alone."""

        def train_a_token(theirs):
            theirs.get_input_embeddings().weight[-2:] += 0.5

        directory = made_by_peft(make, tmp_path, train_a_token, {"save_embedding_layers": True}, target_modules=QV)
        with pytest.warns(UserWarning, match="has its own weights of"):
            ours = assert_loads_as_in_peft(make, directory)
        with ours.disable_adapter():
            np.testing.assert_array_equal(logits_of(ours), logits_of(make()))

    def test_embeddings_of_another_size_are_an_error(self, tmp_path):
        directory = made_by_peft(untied, tmp_path, save={"save_embedding_layers": True}, target_modules=QV)
        model = untied(vocab_size=29)
        before = snapshot(model)
        message = refusal(ValueError, lambda: PeftModel.from_pretrained(model, directory))
        assert f"{HEAD} has shape (31, 16) instead of (29, 16)" in message
        assert snapshot(model) == before

    @pytest.mark.parametrize(
        ("make", "options"),
        [
            (tied, {"target_modules": QV, "modules_to_save": ["embed_tokens"]}),
            (tied, {"target_modules": QV, "modules_to_save": ["lm_head"]}),
            (tied, {"target_modules": [*QV, "embed_tokens"]}),
            (tied, {"target_modules": [*QV, "lm_head"]}),
            (tied, {"target_modules": r".*\.(q_proj|embed_tokens)"}),
            (untied, {"target_modules": [*QV, "lm_head"]}),
            (gpt2, {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}),
            (gpt2, {"target_modules": ["c_attn", "wte"]}),
        ],
        ids=named,
    )
    def test_tied_adapters(self, tmp_path, make, options):
        assert_loads_as_in_peft(make, made_by_peft(make, tmp_path, ensure_weight_tying=True, **options))

    def test_tied_adapters_that_peft_does_not_find_again(self, tmp_path):
        """It writes "transformer.wte" in the place of "lm_head", and takes only "embed_tokens" to be an embedding."""
        trained = {}
        keep = lambda theirs: trained.update(logits=logits_of(theirs, some_ids(gpt2().config)))  # noqa: E731
        options = {"target_modules": ["c_attn", "lm_head"], "ensure_weight_tying": True}
        directory = made_by_peft(gpt2, tmp_path, keep, **options)
        assert relative(logits_of(PeftModel.from_pretrained(gpt2(), directory)), trained["logits"]) < 2e-5
        assert relative(in_peft(gpt2(), directory), trained["logits"]) > 0.1

    @pytest.mark.parametrize("start", ["pissa", "olora"])
    def test_an_embedding_beside_layers_whose_part_was_taken(self, tmp_path, start):
        options = {"target_modules": ["q_proj", "embed_tokens"], "init_lora_weights": start}
        directory = made_by_peft(untied, tmp_path, **options)
        ours = PeftModel.from_pretrained(untied(), directory)
        assert relative(logits_of(ours), in_peft(untied(), directory)) < 2e-5

    @pytest.mark.parametrize("make", [untied, tied])
    @pytest.mark.parametrize("start", ["mica", "MiCA"])
    def test_mica(self, tmp_path, make, start):
        options = {"target_modules": [*QV, "embed_tokens"], "init_lora_weights": start}
        assert_loads_as_in_peft(make, made_by_peft(make, tmp_path, **options))

    def test_eva(self, tmp_path):
        directory = made_by_peft(llama, tmp_path, target_modules=QV)
        edit(directory, init_lora_weights="eva", eva_config={"rho": 2.0, "tau": 0.99})
        assert_loads_as_in_peft(llama, directory)

    def test_velora_is_lora_with_other_gradients(self, tmp_path):
        import peft

        directory = made_by_peft(llama, tmp_path, target_modules=QV, velora_config=peft.VeloraConfig(num_groups=4))
        assert_loads_as_in_peft(llama, directory)

    @pytest.mark.parametrize("make", [untied, untied_gpt2])
    def test_a_head_that_was_merged_and_unmerged(self, tmp_path, make):
        def merge_and_unmerge(theirs):
            for _ in range(3):
                theirs.merge_adapter()
                theirs.unmerge_adapter()

        options = {"target_modules": ["lm_head", "q_proj", "c_attn"], "lora_alpha": 40}
        directory = made_by_peft(make, tmp_path, merge_and_unmerge, {"save_embedding_layers": True}, **options)
        key = f"{PREFIX}lm_head.base_layer.weight"
        assert (read_safetensors(directory / WEIGHTS)[0][key] != make().lm_head.weight.data).any()
        assert_loads_as_in_peft(make, directory)

    @pytest.mark.parametrize(
        "targets", [["lm_head"], ["q_proj", "embed_tokens"], ["embed_tokens", "lm_head"]], ids=named
    )
    def test_trained_on_a_base_in_bfloat16(self, tmp_path, targets):
        import torch

        def round_the_base(theirs):
            for name, p in theirs.named_parameters():
                if "base_layer" in name:
                    p.copy_(p.to(torch.bfloat16))

        directory = made_by_peft(untied, tmp_path, round_the_base, target_modules=targets)
        with pytest.warns(UserWarning, match="takes the place of the model's own"):
            assert_loads_as_in_peft(untied, directory)

    def test_with_the_adapters_name_in_the_keys(self, tmp_path):
        """As get_peft_model_state_dict leaves them out and model.state_dict() does not."""
        options = {"target_modules": [*QV, "embed_tokens"], "use_dora": True}
        directory = made_by_peft(llama, tmp_path, **options)
        expected = in_peft(llama(), directory)

        def named(arrays):
            names = ("lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
            longer = {key: f"{key}.default" if key.endswith(names) else key for key in arrays}
            longer = {key: key.replace("_A.weight", "_A.default.weight") for key in longer} | {
                key: value for key, value in longer.items() if value != key
            }
            longer = {key: value.replace("_B.weight", "_B.default.weight") for key, value in longer.items()}
            return {longer[key]: array for key, array in arrays.items()}

        edit(directory, named)
        assert all("default" in key for key in read_safetensors(directory / WEIGHTS)[0] if "lora" in key)
        assert relative(logits_of(PeftModel.from_pretrained(llama(), directory, "other")), expected) < 2e-5

    @pytest.mark.parametrize(
        "rename",
        [
            lambda key: key.removeprefix(PREFIX),
            lambda key: PREFIX + key,
            lambda key: key.replace(PREFIX, f"{PREFIX}_orig_mod."),
            lambda key: key.replace("lora_magnitude_vector", "lora_magnitude_vector.weight"),
            lambda key: key.replace("lora_magnitude_vector", "lora_magnitude_vector.any.weight"),
        ],
        ids=["no prefix", "two prefixes", "compiled", "magnitudes", "named magnitudes"],
    )
    def test_other_names(self, tmp_path, rename):
        directory = made_by_peft(llama, tmp_path, target_modules=QV, use_dora=True)
        expected = in_peft(llama(), directory)
        edit(directory, lambda arrays: {rename(key): array for key, array in arrays.items()})
        assert relative(logits_of(PeftModel.from_pretrained(llama(), directory)), expected) < 2e-5

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    def test_other_dtypes(self, tmp_path, dtype):
        import torch
        from safetensors.torch import load_file, save_file

        directory = made_by_peft(llama, tmp_path, target_modules=QV, modules_to_save=["norm"])
        tensors = {key: t.to(getattr(torch, dtype)) for key, t in load_file(directory / WEIGHTS).items()}
        save_file(tensors, directory / WEIGHTS)
        assert_loads_as_in_peft(llama, directory)

    @pytest.mark.parametrize(("make", "options"), [SEVERAL[name] for name in PRECISE], ids=PRECISE)
    def test_in_float64(self, tmp_path, make, options):
        def double():
            model = make()
            for p in model.parameters():
                p.data = p.data.astype(np.float64)
            return model

        directory = made_by_peft(make, tmp_path, **options)
        expected = in_peft(double(), directory)
        assert relative(logits_of(PeftModel.from_pretrained(double(), directory)), expected) < 1e-10

    @pytest.mark.parametrize(
        ("make", "options", "fields"),
        [
            (llama, {"target_modules": QV}, {"target_modules": None}),
            (llama, {"target_modules": "all-linear"}, {"target_modules": "all-linear"}),
            (gpt2, {"target_modules": "all-linear"}, {"target_modules": "All-Linear"}),
            (llama, {"target_modules": QV}, {"fan_in_fan_out": None, "revision": None, "peft_version": "99.1"}),
            (llama, {"target_modules": QV}, {"runtime_config": {"ephemeral_gpu_offload": False}, "of_tomorrow": 3}),
        ],
        ids=named,
    )
    def test_other_configurations(self, tmp_path, make, options, fields):
        assert_loads_as_in_peft(make, edit(made_by_peft(make, tmp_path, **options), **fields))

    @pytest.mark.parametrize(
        ("make", "key", "array"),
        [
            (llama, f"{PREFIX}model.norm.weight", np.full(16, 1.5, np.float32)),
            (gpt2, f"{PREFIX}transformer.ln_f.bias", np.full(16, 1.5, np.float32)),
            (gpt2, f"{PREFIX}transformer.wte.weight", np.linspace(0, 1, 31 * 16, dtype=np.float32).reshape(31, 16)),
            (llama, f"{PREFIX}score.weight", np.ones((3, 16), np.float32)),
        ],
        ids=["a norm", "a bias", "a tied embedding", "a head that the model lacks"],
    )
    def test_tensors_beside(self, tmp_path, make, key, array):
        options = {"target_modules": ["q_proj", "c_attn"], "modules_to_save": ["score"], "task_type": "SEQ_CLS"}
        directory = made_by_peft(make, tmp_path, **options)
        assert_loads_as_in_peft(make, edit(directory, lambda arrays: arrays.update({key: array})))

    @pytest.mark.parametrize(
        ("make", "options"),
        [
            (tied, {"target_modules": QV, "modules_to_save": ["model.embed_tokens"], "ensure_weight_tying": True}),
            (tied, {"target_modules": ["model.embed_tokens"], "use_dora": True}),
            (untied_gpt2, {"target_modules": ["wte", "c_fc"], "use_dora": True}),
        ],
        ids=named,
    )
    def test_what_it_writes_twice(self, tmp_path, make, options):
        directory = made_by_peft(make, tmp_path, save={"save_embedding_layers": True}, **options)
        assert_loads_as_in_peft(make, directory)

    def test_a_copy_inside_a_copy(self, tmp_path):
        """PEFT wraps the MLP in the copy of its block again, and has the trained numbers under the name in memory."""
        options = {"target_modules": ["c_proj"], "modules_to_save": ["h.0", "mlp"], "task_type": "SEQ_CLS"}
        directory = made_by_peft(gpt2, tmp_path, **options)
        expected = in_peft(gpt2(), directory)
        assert relative(logits_of(PeftModel.from_pretrained(gpt2(), directory)), expected) < 2e-5

    def test_a_file_of_peft_0_3(self, tmp_path):
        directory = made_by_peft(llama, tmp_path, target_modules=QV)
        expected = in_peft(llama(), directory)
        fields = {"base_model_name_or_path": None, "bias": "none", "enable_lora": None, "fan_in_fan_out": False}
        fields |= {"inference_mode": True, "lora_alpha": 6, "lora_dropout": 0.05, "merge_weights": False}
        fields |= {"modules_to_save": None, "peft_type": "LORA", "r": 4, "target_modules": QV, "task_type": "CAUSAL_LM"}
        (directory / CONFIG).write_text(json.dumps(fields))
        assert relative(logits_of(PeftModel.from_pretrained(llama(), directory)), expected) < 2e-5
        assert relative(in_peft(llama(), directory), expected) < 2e-5


@pytest.fixture
def saved(tmp_path):
    """A directory with an adapter of ours for the untied Llama, on q_proj, v_proj and the head."""
    peft_model([*QV, "lm_head"], untied()).save_pretrained(tmp_path)
    return tmp_path


def loads(directory, make=untied):
    return PeftModel.from_pretrained(make(), directory)


class TestNamesThatTheModelLacks:
    def test_they_are_warned_about_and_left_out(self, saved):
        expected = logits_of(loads(saved))
        edit(saved, target_modules=["w1", *QV, "lm_head", "w2"], modules_to_save=["score"])
        with pytest.warns(UserWarning, match="was made for a model that has w1, w2, score too: left out"):
            model = loads(saved)
        np.testing.assert_array_equal(logits_of(model), expected)
        assert model.peft_config["default"].target_modules == [*QV, "lm_head"]
        assert model.peft_config["default"].modules_to_save is None

    def test_where_all_are_missing_that_is_an_error(self, saved):
        edit(saved, target_modules=["w1", "w2"])
        model = untied()
        before = snapshot(model)
        message = refusal(ValueError, lambda: PeftModel.from_pretrained(model, saved))
        assert str(saved / CONFIG) in message
        assert "no layer matches 'w1'" in message
        assert snapshot(model) == before

    def test_a_new_adapter_must_name_what_there_is(self):
        assert "'w1'" in refusal(ValueError, lambda: peft_model([*QV, "w1"], untied()))
        message = refusal(ValueError, lambda: peft_model(QV, untied(), modules_to_save=["score"]))
        assert "modules_to_save: no module matches 'score'" in message

    def test_tensors_of_layers_that_the_model_lacks_are_an_error(self, saved):
        """Part of what was trained would be lost."""
        extra = f"{PREFIX}model.layers.2.self_attn.q_proj.lora_A.weight"
        edit(saved, lambda arrays: arrays.update({extra: np.ones((4, 16), np.float32)}))
        assert f"unexpected {extra}" in refusal(ValueError, lambda: loads(saved))


class TestWeightsOfTheBase:
    KEY = f"{PREFIX}lm_head.base_layer.weight"

    def brought(self, saved, change):
        edit(saved, lambda arrays: arrays.update({self.KEY: change(untied().lm_head.weight.data)}))

    def test_its_own_is_passed_over(self, saved, recwarn):
        self.brought(saved, lambda weight: weight)
        assert loads(saved).get_base_model().lm_head.base_layer.weight is not None
        assert not recwarn.list

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_its_own_in_16_bits_is_passed_over_and_another_is_not(self, saved, recwarn, dtype):
        pytest.importorskip("ml_dtypes")
        base = untied().to(dtype)
        rounded = base.lm_head.weight.data
        self.brought(saved, lambda weight: rounded.astype(np.float32))
        PeftModel.from_pretrained(base, saved)
        assert not [w for w in recwarn.list if "place" in str(w.message)]
        self.brought(saved, lambda weight: rounded.astype(np.float32) * np.float32(1.03))
        other = untied().to(dtype)
        with pytest.warns(UserWarning, match="takes the place of the model's own"):
            PeftModel.from_pretrained(other, saved)
        assert other.lm_head.base_layer.weight.dtype == nn.float_type(dtype)

    def test_one_that_was_added_to_and_taken_from_is_its_own(self, saved, recwarn):
        self.brought(saved, lambda weight: (weight + np.float32(0.7)) - np.float32(0.7))
        model = loads(saved)
        assert not recwarn.list
        np.testing.assert_array_equal(
            model.base_model.adapted["lm_head"].base_layer.weight.data, untied().lm_head.weight.data
        )

    def test_a_rounded_one_takes_its_place_and_is_saved_again(self, saved, tmp_path_factory):
        self.brought(saved, lambda weight: weight.astype(np.float16))
        with pytest.warns(UserWarning, match="lm_head.base_layer.weight: it takes the place of the model's own"):
            model = loads(saved)
        rounded = untied().lm_head.weight.data.astype(np.float16)
        np.testing.assert_array_equal(model.base_model.adapted["lm_head"].base_layer.weight.data, rounded)
        again = tmp_path_factory.mktemp("again")
        model.save_pretrained(again)
        np.testing.assert_array_equal(read_safetensors(again / WEIGHTS)[0][self.KEY], rounded)
        with pytest.warns(UserWarning, match="takes the place"):
            np.testing.assert_array_equal(logits_of(loads(again)), logits_of(model))

    def test_with_new_rows_for_new_tokens(self, saved):
        def grown(weight):
            return np.concatenate([weight[:-3], weight[-3:] + 1])

        self.brought(saved, grown)
        with pytest.warns(UserWarning, match="takes the place"):
            model = loads(saved)
        np.testing.assert_array_equal(
            model.base_model.adapted["lm_head"].base_layer.weight.data, grown(untied().lm_head.weight.data)
        )

    @pytest.mark.parametrize("change", [lambda w: w + 1, lambda w: w[1:], lambda w: w[::-1], lambda w: w * np.nan])
    def test_one_of_another_model_is_an_error(self, saved, change):
        self.brought(saved, lambda weight: np.ascontiguousarray(change(weight)))
        model = untied()
        before = snapshot(model)
        message = refusal(ValueError, lambda: PeftModel.from_pretrained(model, saved))
        assert f"{WEIGHTS} was trained on another base model: its {self.KEY}" in message
        assert snapshot(model) == before


class TestPlainWeights:
    def test_the_models_own_are_passed_over(self, saved, recwarn):
        edit(saved, lambda arrays: arrays.update({EMBEDDING: untied().model.embed_tokens.weight.data}))
        assert loads(saved).peft_config["default"].modules_to_save is None
        assert not recwarn.list

    def test_others_are_the_adapters_alone(self, tmp_path):
        for folder in ("plain", "own"):
            manual_seed(0)
            peft_model(QV, untied()).save_pretrained(tmp_path / folder)
        head = untied().lm_head.weight.data * 2
        edit(tmp_path / "own", lambda arrays: arrays.update({HEAD: head}))
        model = loads(tmp_path / "plain")
        plain = logits_of(model)
        with pytest.warns(UserWarning, match="has its own weights of lm_head"):
            model.load_adapter(tmp_path / "own", "own")
        np.testing.assert_array_equal(logits_of(model), plain)
        model.set_adapter("own")
        np.testing.assert_allclose(logits_of(model), 2 * plain, rtol=1e-5)
        model.delete_adapter("own")
        np.testing.assert_array_equal(logits_of(model), plain)

    def test_copies_under_the_names_that_they_have_in_memory(self, tmp_path, recwarn):
        peft_model(QV, untied(), modules_to_save=["lm_head"]).save_pretrained(tmp_path)
        head = untied().lm_head.weight.data * 2
        edit(tmp_path, lambda arrays: arrays.update({HEAD: head}))
        expected = logits_of(loads(tmp_path))

        def in_memory(arrays):
            arrays[HEAD.replace("weight", "modules_to_save.any.weight")] = arrays.pop(HEAD)
            arrays[HEAD.replace("weight", "original_module.weight")] = head / 2

        np.testing.assert_array_equal(logits_of(loads(edit(tmp_path, in_memory))), expected)
        assert not recwarn.list

    def test_two_names_for_one_tensor_are_an_error(self, saved):
        key = f"{PREFIX}lm_head.lora_A.weight"
        edit(saved, lambda arrays: arrays.update({PREFIX + key: arrays[key]}))
        assert f"{WEIGHTS} has two tensors for {key}" in refusal(ValueError, lambda: loads(saved))

    def test_ranks_that_the_configuration_does_not_tell_are_an_error(self, saved):
        key = f"{PREFIX}lm_head.lora_A.weight"
        edit(saved, lambda arrays: arrays.update({key: arrays[key][:2]}))
        assert f"{key} has shape (2, 16) instead of (4, 16)" in refusal(ValueError, lambda: loads(saved))
