"""LoraConfig: what it refuses, and what its file says."""

import dataclasses
import json
import warnings

import pytest
from lora_helpers import refusal

from lora_np import LoraConfig, TaskType, lora
from lora_np.lora import PeftConfig

# What PEFT writes beyond this library's fields, at the value that means "not used".
PEFT_EXTRAS = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_bias": False,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "rank_pattern": {},
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_defaults_are_pefts():
    config = LoraConfig()
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (8, 8, 0.0, "none")
    assert config.init_lora_weights is True
    assert config.target_modules is None
    assert config.task_type is None
    assert config.fan_in_fan_out is False
    assert config.inference_mode is False
    assert config.peft_type == "LORA"


def test_no_initialisation_is_the_random_one_as_in_peft():
    assert LoraConfig(init_lora_weights=None).init_lora_weights is False


@pytest.mark.parity
def test_every_field_has_the_default_that_it_has_in_peft():
    import peft

    theirs = peft.LoraConfig()
    for name, value in LoraConfig().to_dict().items():
        if name != "peft_version":  # that of the library
            assert value == getattr(theirs, name), name


@pytest.mark.parity
@pytest.mark.parametrize("name", ["PeftConfig", "LoraConfig", "VeraConfig"])
def test_the_fields_are_pefts_in_its_order(name):
    import peft

    ours, theirs = (dataclasses.fields(getattr(library, name)) for library in (lora, peft))
    assert [field.name for field in ours] == [field.name for field in theirs]
    assert list(getattr(lora, name)().to_dict()) == list(getattr(peft, name)().to_dict())


NOT_HERE = {"megatron_config": {"x": 1}}


@pytest.mark.parametrize("field", NOT_HERE)
def test_a_field_for_what_is_not_here_is_refused_by_its_name(field):
    message = refusal(ValueError, lambda: LoraConfig(**{field: NOT_HERE[field]}))
    assert message.startswith(f"LoraConfig: {field}=")


@pytest.mark.parity
def test_what_means_nothing_is_accepted():
    import peft

    given = peft.LoraConfig(target_modules=["c_attn"]).to_dict()
    given["runtime_config"] = peft.LoraConfig().runtime_config
    assert LoraConfig(**given).target_modules == ["c_attn"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("alpha", "lora_alpha"), ("dropout", "lora_dropout"), ("rank", "'r'"), ("target_module", "target_modules")],
)
def test_a_keyword_that_is_no_field_gets_the_nearest(given, meant):
    message = refusal(TypeError, lambda: LoraConfig(**{given: 1}))
    assert message.startswith(f"LoraConfig has no option {given!r}")
    assert meant in message


def test_a_config_of_no_kind_holds_what_it_is_given():
    assert PeftConfig(task_type="CAUSAL_LM", base_model_name_or_path="gpt2").task_type == TaskType.CAUSAL_LM


def test_a_config_file_of_whatever_kind_is_read_by_peft_config(tmp_path):
    lora.VeraConfig(r=3).save_pretrained(tmp_path / "in" / "vera")
    LoraConfig(r=5, inference_mode=True).save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path) == LoraConfig(r=5, inference_mode=True)
    found = PeftConfig.from_pretrained(tmp_path / "in", subfolder="vera", revision="main", token=None)
    assert (type(found), found.r, found.peft_type) == (lora.VeraConfig, 3, lora.PeftType.VERA)


@pytest.mark.parametrize(("alpha", "r", "scaling"), [(16, 8, 2.0), (1, 4, 0.25), (0.5, 1, 0.5), (0, 3, 0.0)])
def test_scaling_is_alpha_over_r(alpha, r, scaling):
    assert LoraConfig(r=r, lora_alpha=alpha).scaling == scaling


@pytest.mark.parametrize(("alpha", "r", "scaling"), [(16, 16, 4.0), (1, 4, 0.5), (0, 3, 0.0)])
def test_with_rslora_scaling_is_alpha_over_the_root_of_r(alpha, r, scaling):
    assert LoraConfig(r=r, lora_alpha=alpha, use_rslora=True).scaling == scaling


@pytest.mark.parametrize(
    ("name", "expected"), [("h.0.c_attn", (2, 8)), ("h.1.c_attn", (2, 5)), ("c_fc", (8, 8)), ("my_c_attn", (8, 8))]
)
def test_patterns_match_the_end_of_a_name_from_a_dot_on(name, expected):
    config = LoraConfig(rank_pattern={"c_attn": 2, r"h\.1\..*": 3}, alpha_pattern={r"1\.c_attn": 5})
    assert config.rank_and_alpha(name) == expected


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"r": 0}, ["r must be an integer of at least 1, got 0"]),
        ({"r": -4}, ["got -4"]),
        ({"r": 2.0}, ["r must be an integer", "got 2.0"]),
        ({"r": "8"}, ["r must be an integer", "got '8'"]),
        ({"r": True}, ["r must be an integer", "got True"]),
        ({"r": None}, ["r must be an integer", "got None"]),
        ({"lora_alpha": "16"}, ["lora_alpha", "'16'"]),
        ({"lora_alpha": None}, ["lora_alpha", "None"]),
        ({"lora_dropout": 1}, ["lora_dropout must be in [0, 1), got 1"]),
        ({"lora_dropout": 1.5}, ["got 1.5"]),
        ({"lora_dropout": -0.1}, ["got -0.1"]),
        ({"lora_dropout": float("nan")}, ["got nan"]),
        ({"bias": "some"}, ["bias must be one of 'none', 'all', 'lora_only', got 'some'"]),
        ({"bias": None}, ["got None"]),
        ({"init_lora_weights": "zeros"}, ["init_lora_weights must be one of True, False, 'gaussian'", "got 'zeros'"]),
        ({"init_lora_weights": 3}, ["got 3"]),
        ({"task_type": "CAUSAL"}, ["CAUSAL"]),
        ({"target_modules": []}, ["target_modules is empty", "'all-linear'"]),
        ({"target_modules": ["c_attn", "h.*.c_proj"]}, ["'h.*.c_proj' in a list", "give it alone, as a string"]),
        ({"target_modules": [r"c_attn$"]}, ["'c_attn$' in a list"]),
        ({"target_modules": ["c_(attn|fc)"]}, ["'c_(attn|fc)' in a list"]),
        ({"target_modules": ["c_attn", 3]}, ["3 in a list"]),
        ({"target_modules": [""]}, ["'' in a list"]),
        ({"target_modules": "c_(attn"}, ["'c_(attn' is not a valid regular expression", "position 2"]),
        ({"target_modules": "*"}, ["'*' is not a valid regular expression"]),
        ({"exclude_modules": "c_(attn"}, ["exclude_modules 'c_(attn' is not a valid regular expression"]),
        ({"exclude_modules": ["c_.*"]}, ["exclude_modules has 'c_.*' in a list"]),
        ({"modules_to_save": ["lm_*"]}, ["modules_to_save has 'lm_*' in a list"]),
        ({"target_modules": ".*c_attn", "layers_to_transform": 1}, ["layers_to_transform goes with a list"]),
        ({"target_modules": "all-linear", "layers_to_transform": [1]}, ["layers_to_transform goes with a list"]),
        ({"layers_pattern": "h"}, ["layers_pattern", "needs layers_to_transform"]),
        ({"layers_to_transform": "1"}, ["layers_to_transform must be a block's number or a list of them, got '1'"]),
        ({"layers_to_transform": [True]}, ["got [True]"]),
        ({"layers_to_transform": 1, "layers_pattern": 3}, ["layers_pattern must be a name or a list of names, got 3"]),
        ({"rank_pattern": {"c_attn": 0}}, ["r must be an integer of at least 1, got 0"]),
        ({"rank_pattern": {"c_attn": 2.5}}, ["got 2.5"]),
        ({"rank_pattern": ["c_attn"]}, ["rank_pattern must be a dict", "got ['c_attn']"]),
        ({"alpha_pattern": {"c_attn": "16"}}, ["lora_alpha must be a number, got '16'"]),
        ({"use_dora": "yes"}, ["use_dora must be True or False, got 'yes'"]),
        ({"use_rslora": 1}, ["use_rslora must be True or False, got 1"]),
        ({"init_lora_weights": "pissa_niter_"}, ["got 'pissa_niter_'"]),
        ({"init_lora_weights": "orthogonal", "r": 3}, ["'orthogonal' needs even ranks, got 3"]),
        ({"init_lora_weights": "orthogonal", "rank_pattern": {"c_fc": 5}}, ["needs even ranks, got 5"]),
        ({"lora_bias": True, "use_dora": True}, ["lora_bias", "not with use_dora"]),
        ({"lora_bias": True, "init_lora_weights": "pissa"}, ["lora_bias goes with init_lora_weights=True or False"]),
    ],
    ids=str,
)
def test_what_can_not_be_meant_is_refused_at_once(options, parts):
    message = refusal(ValueError, lambda: LoraConfig(**options))
    for part in parts:
        assert part in message


@pytest.mark.parametrize("targets", [["c_attn"], ("c_attn", "h.0.mlp.c_fc"), {"c_attn"}], ids=str)
def test_names_may_come_in_any_collection(targets):
    assert LoraConfig(target_modules=targets).target_modules == list(targets)


@pytest.mark.parametrize("task", ["CAUSAL_LM", TaskType.CAUSAL_LM])
def test_the_task_type_is_a_name_or_the_enum(task, tmp_path):
    config = LoraConfig(task_type=task)
    assert config.task_type is TaskType.CAUSAL_LM
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"r": 3, "lora_alpha": 12, "target_modules": ["c_attn", "mlp.c_fc"], "task_type": "CAUSAL_LM"},
        {"target_modules": r".*\.c_attn", "bias": "all", "lora_alpha": 0.5, "fan_in_fan_out": True},
        {"target_modules": "all-linear", "init_lora_weights": "gaussian", "lora_dropout": 0.25},
        {"rank_pattern": {"c_fc": 2}, "alpha_pattern": {r".*\.0\..*": 0.5}, "use_rslora": True, "use_dora": True},
        {"target_modules": ["c_fc"], "layers_to_transform": [0], "layers_pattern": "h", "exclude_modules": ["h.1"]},
        {"modules_to_save": ["lm_head"], "exclude_modules": ".*0.*", "layers_to_transform": 1, "lora_bias": True},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": False, "base_model_name_or_path": "gpt2", "revision": "main", "bias": "lora_only"},
    ],
    ids=str,
)
def test_a_config_comes_back_from_its_file(tmp_path, no_warnings, options):
    config = LoraConfig(**options)
    config.save_pretrained(tmp_path)
    loaded = LoraConfig.from_pretrained(tmp_path)
    assert loaded == config


def test_the_file_is_laid_out_as_pefts(tmp_path):
    LoraConfig(target_modules=["c_attn"], r=4, inference_mode=True).save_pretrained(tmp_path)
    text = (tmp_path / "adapter_config.json").read_text()
    fields = json.loads(text)
    assert text.rstrip("\n") == json.dumps(fields, indent=2, sort_keys=True)
    assert fields["inference_mode"] is True
    assert fields["peft_type"] == "LORA"
    assert fields["target_modules"] == ["c_attn"]


@pytest.mark.parity
def test_peft_reads_our_file_and_we_read_pefts(tmp_path):
    import peft

    options = {"r": 3, "lora_alpha": 12, "lora_dropout": 0.25, "bias": "all", "target_modules": ["c_attn"]}
    ours = LoraConfig(**options, task_type="CAUSAL_LM", fan_in_fan_out=True, base_model_name_or_path="gpt2")
    ours.save_pretrained(tmp_path)
    theirs = peft.PeftConfig.from_pretrained(tmp_path)
    assert isinstance(theirs, peft.LoraConfig)
    assert theirs.task_type == peft.TaskType.CAUSAL_LM
    assert theirs.target_modules == {"c_attn"}
    for name in ("r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out", "base_model_name_or_path"):
        assert getattr(theirs, name) == getattr(ours, name)

    theirs.save_pretrained(tmp_path)
    ours.inference_mode = theirs.inference_mode
    assert LoraConfig.from_pretrained(tmp_path) == ours
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(ours.to_dict()) <= set(written)  # every field of ours is one of PEFT's


def test_fields_of_pefts_that_are_not_used_are_passed_over(no_warnings):
    assert LoraConfig.from_dict({**PEFT_EXTRAS, "r": 4, "peft_type": "LORA"}).r == 4


def test_where_peft_found_the_base_model_is_no_reason_to_warn(no_warnings):
    """PEFT fills auto_mapping whenever no task_type was given."""
    mapping = {"base_model_class": "GPT2LMHeadModel", "parent_library": "transformers.models.gpt2.modeling_gpt2"}
    LoraConfig.from_dict({**PEFT_EXTRAS, "auto_mapping": mapping})


def test_unknown_fields_are_warned_about_and_ignored():
    with pytest.warns(UserWarning, match=r"file\.json has fields that are ignored: another, new_thing"):
        config = LoraConfig.from_dict({"r": 4, "new_thing": 1, "another": "x", "third": None}, "file.json")
    assert config == LoraConfig(r=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_rslora", True),
        ("use_dora", True),
        ("lora_bias", True),
        ("rank_pattern", {"c_attn": 2}),
        ("alpha_pattern", {"c_attn": 2}),
        ("exclude_modules", ["c_fc"]),
        ("modules_to_save", ["lm_head"]),
        ("layers_to_transform", [0, 1]),
        ("layers_pattern", "h"),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["weight"]),
        ("layer_replication", [[0, 2]]),
        ("alora_invocation_tokens", [5]),
    ],
)
def test_a_field_that_would_change_the_computation_is_never_ignored(tmp_path, name, value):
    """Either it is supported, and then stored, or it is refused with its name and the file's."""
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**PEFT_EXTRAS, "target_modules": ["c_attn"], name: value}))
    try:
        config = LoraConfig.from_pretrained(tmp_path)
    except ValueError as error:
        message = str(error)
    else:
        assert getattr(config, name) == value
        return
    assert str(path) in message
    assert name in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "of a IA3 adapter, not of LORA"),
        ({"r": "four"}, "r must be an integer of at least 1, got 'four'"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_dropout": None}, "lora_dropout|'<=' not supported"),
        ({"target_modules": 5}, "target_modules|not iterable"),
        ({"target_modules": ["c_.*"]}, r"'c_\.\*' in a list"),
        ({"task_type": "SEQ_CLASS"}, "SEQ_CLASS"),
        ({"lora_dropout": "0.1"}, r"lora_dropout must be in \[0, 1\), got '0.1'"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be a list of names, got 'lm_head'"),
        ({"target_modules": {"q_proj": 1}}, "target_modules must be a list of names"),
        (
            {"init_lora_weights": "pissa_niter_1000000000"},
            "init_lora_weights.*N up to 1000, got 'pissa_niter_1000000000'",
        ),
        ({"init_lora_weights": "pissa_niter_" + "9" * 5000}, "N up to 1000, got 'pissa_niter_999"),
        ({"init_lora_weights": "cordas"}, "init_lora_weights must be one of .* 'corda', .* got 'cordas'"),
        (
            {"init_lora_weights": "eva", "eva_config": 3},
            "eva_config must be a EvaConfig, or a dict",
        ),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 0.5}}, "EvaConfig: rho must be a number, from 1"),
        (
            {"init_lora_weights": "corda", "corda_config": {"corda_method": "x"}},
            "must be one of 'ipm', 'kpm'",
        ),
        (
            {"init_lora_weights": "lora_ga", "lora_ga_config": {"scale": []}},
            "scale must be one of 'stable'",
        ),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 2}}, "loftq_bits must be one of 4, 8, got 2"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 0}}, "loftq_iter must be a whole number"),
        ({"init_lora_weights": "corda", "corda_config": {"cache_file": 3}}, "cache_file must be a file's path or None"),
        ({"init_lora_weights": "pissa", "lora_alpha": 0}, "'pissa' needs lora_alpha > 0, got 0"),
        ({"init_lora_weights": "mica", "use_dora": True}, "'mica' does not go with use_dora"),
        ({"r": 10**30}, "r must be at most 2147483647, got 10000"),
        ({"rank_pattern": {"q_proj": 10**30}}, r"rank_pattern\['q_proj'\]: r must be at most"),
        ({"lora_alpha": 10**400}, "lora_alpha must be finite"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be finite"),
        ({"lora_alpha": float("-inf")}, "lora_alpha must be finite"),
        ({"lora_alpha": 1e39}, "lora_alpha must be finite, and no larger than a float32 can be, got 1e"),
        ({"alpha_pattern": {"q_proj": 1e39}}, r"alpha_pattern\['q_proj'\]: lora_alpha must be finite"),
        ({"alpha_pattern": {"q_proj": None}}, r"alpha_pattern\['q_proj'\]: lora_alpha must be a number, got None"),
        ({"rank_pattern": {"(a+)+x": 4}}, r"rank_pattern '\(a\+\)\+x' could take for ever"),
        ({"target_modules": "(a+)+x"}, r"target_modules '\(a\+\)\+x' could take for ever"),
    ],
    ids=str,
)
def test_a_file_with_wrong_values_is_refused_with_its_name(tmp_path, fields, message):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message) as error:
        LoraConfig.from_pretrained(tmp_path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 500


@pytest.mark.parametrize("field", ["use_dora", "use_rslora", "lora_bias", "fan_in_fan_out"])
def test_null_in_a_file_means_that_it_is_not_used(tmp_path, field, no_warnings):
    (tmp_path / "adapter_config.json").write_text(json.dumps({field: None}))
    assert getattr(LoraConfig.from_pretrained(tmp_path), field) is False


STARTS = {"eva": "EvaConfig", "corda": "CordaConfig", "lora_ga": "LoraGAConfig", "loftq": "LoftQConfig"}


@pytest.mark.parametrize("start", STARTS)
def test_a_start_has_its_settings_also_in_a_file(tmp_path, start, no_warnings):
    field, kind = f"{start}_config", getattr(lora, STARTS[start])
    config = LoraConfig(init_lora_weights=start.upper())
    assert config.init_lora_weights == start
    assert getattr(config, field) == (dataclasses.asdict(kind()) if start == "loftq" else kind())
    assert LoraConfig(init_lora_weights=start, **{field: kind()}) == config
    assert LoraConfig(init_lora_weights=start, **{field: {}}) == config
    config.save_pretrained(tmp_path)
    assert LoraConfig.from_pretrained(tmp_path) == config
    assert eval(repr(config), vars(lora)) == config


@pytest.mark.parametrize("start", STARTS)
def test_settings_of_a_start_that_is_not_in_use_are_warned_about(start):
    given = {f"{start}_config": getattr(lora, STARTS[start])()}
    with pytest.warns(UserWarning, match=f"_config is for init_lora_weights='{start}', and does nothing with True"):
        LoraConfig(**given)


def test_settings_that_a_later_version_has_are_ignored():
    with pytest.warns(UserWarning, match="eva_config has fields that are ignored: omega"):
        assert LoraConfig(init_lora_weights="eva", eva_config={"omega": 1}).eva_config == lora.EvaConfig()


@pytest.mark.parity
@pytest.mark.parametrize("name", STARTS.values())
def test_the_settings_of_starts_are_pefts(name):
    from peft.tuners.lora import config as theirs

    ours, theirs = (dataclasses.fields(getattr(module, name)) for module in (lora, theirs))
    assert [(field.name, field.default) for field in ours] == [(field.name, field.default) for field in theirs]


@pytest.mark.parity
def test_every_task_of_pefts_is_known():
    import peft

    assert {str(task) for task in TaskType} == {task.value for task in peft.TaskType}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json does not exist"):
        LoraConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("rank_pattern", {"rank_pattern": {"(q": 5}}),
        ("alpha_pattern", {"alpha_pattern": {"[a": 5}}),
        ("layers_pattern", {"layers_pattern": "(h", "layers_to_transform": [0]}),
        ("layers_pattern", {"layers_pattern": ["h", "*"], "layers_to_transform": [0]}),
        ("exclude_modules", {"exclude_modules": "*"}),
    ],
    ids=str,
)
def test_a_regular_expression_that_is_none_is_named(field, options):
    with pytest.raises(ValueError, match=f"{field} .* is not a valid regular expression"):
        LoraConfig(**options)


@pytest.mark.parametrize("alpha", [10**400, float("inf"), float("nan"), -(10**400)], ids=lambda a: str(a)[:6])
def test_alpha_is_finite(alpha):
    for options in ({"lora_alpha": alpha}, {"alpha_pattern": {"c_attn": alpha}}):
        with pytest.raises(ValueError, match="lora_alpha must be finite"):
            LoraConfig(**options)


def test_an_unknown_task_is_answered_with_those_there_are():
    message = refusal(ValueError, lambda: LoraConfig(task_type="CAUSAL"))
    assert message.startswith("task_type must be one of 'CAUSAL_LM', 'SEQ_CLS'")
    assert message.endswith("got 'CAUSAL'")
