"""Expressions from a file: a bad one is named, one that could run for ever is refused, and useful ones are not."""

import json
import re
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, peft_model, refusal, snapshot, tiny_llama, tiny_model

from lora_np import LoraConfig, PeftModel
from lora_np.lora.patterns import ENDING, LIMIT, check_expression, first_match, of_several, unmatched
from lora_np.lora.targets import own_modules

ENDLESS = [
    "(a+)+",
    "(a+)+$",
    "(.*)*x",
    "(.*.*)*x",
    "(a|aa)+",
    "(.|a)*b",
    "(?:|)" * 30 + "x",
    ".*" * 8 + "x",
    "((a?){4}){64}",
    "((a|aa){4}){4}" * 3,
    "([a-z]+)*_",
    "(x+x+)+y",
    "([a-z_.]+)*$x",
    r"(\w+)*\.x",
    r"(.*\.)*x",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(a)(\1+)+x",
    r"(?=(a+)+b).*",
    r"(\.\w+|\.)*x",
    "(?:a|ab)(?:a|ab)" * 20,
    "(a*)*",
    "((ab)*)*c",
    r"(?:(?:\w)+)+$",
    "(a+){20}",
]
USEFUL = [
    ".*",
    "",
    "c_attn",
    ".*(attn|mlp).*",
    r".*\.(self_attn|mlp)\.(q_proj|k_proj|v_proj)",
    r"model\.layers\.(\d+)\.self_attn\.(q|k)_proj",
    r"(\w+\.)*q_proj",
    r"(?:[^.]+\.)*(q_proj|v_proj)",
    r"model(\.\w+)*\.q_proj",
    r"(.*\.)?(q_proj|v_proj)$",
    r"^(?!.*vision).*(?:q_proj|v_proj)$",
    r"(?:foo|bar)+x",
    r"(model\.)?(layers\.\d+\.)?x",
    r".*attn.*proj.*weight.*",
    r".*layers\.(1[0-9]|2[0-3])\..*(q|v)_proj",
    r"(?:.*?(?:vision|text).*?(?:self_attn|mlp|ffn).*?(?:k_proj|v_proj|fc1).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp))",
    "(?i:Q_PROJ)",
    r"(\d+\.){2}x",
]
INVALID = ["(q", "q)|(p", "*", "[a", "a{99999999999999999}", "(" * 9000 + ")" * 9000, "(?P<idx>", r"\8"]
FIELDS = {
    "target_modules": lambda text: {"target_modules": text},
    "exclude_modules": lambda text: {"exclude_modules": text, "target_modules": ["q_proj"]},
    "rank_pattern": lambda text: {"rank_pattern": {text: 4}, "target_modules": ["q_proj"]},
    "alpha_pattern": lambda text: {"alpha_pattern": {text: 4}, "target_modules": ["q_proj"]},
    "layers_pattern": lambda text: {"layers_pattern": [text], "layers_to_transform": 0, "target_modules": ["q_proj"]},
}
each_field = pytest.mark.parametrize("field", FIELDS)


def refused(directory, field, text):
    """The message with which a file with this expression is refused; the model is as it was, at once."""
    (directory / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, **FIELDS[field](text)}))
    model = tiny_llama()
    before, start = snapshot(model), time.perf_counter()
    message = refusal(ValueError, lambda: PeftModel.from_pretrained(model, directory))
    assert time.perf_counter() - start < 3
    assert snapshot(model) == before
    assert str(directory / "adapter_config.json") in message
    assert field in message
    assert len(message) < 700
    return message


@pytest.fixture
def directory(tmp_path):
    peft_model(["q_proj"], tiny_llama()).save_pretrained(tmp_path)
    return tmp_path


@each_field
@pytest.mark.parametrize("text", ENDLESS)
def test_one_that_could_run_for_ever_is_refused(directory, field, text):
    assert "could take for ever to match" in refused(directory, field, text)
    assert "for ever" in refusal(ValueError, lambda: LoraConfig(**FIELDS[field](text)))


@each_field
@pytest.mark.parametrize("text", INVALID, ids=lambda text: text[:20])
def test_one_that_is_none_is_refused(directory, field, text):
    assert "is not a valid regular expression" in refused(directory, field, text)


@pytest.mark.parametrize("text", USEFUL)
def test_useful_ones_are_taken(text):
    assert check_expression("a field", text) <= LIMIT
    assert check_expression("a field", text, ENDING) <= LIMIT


@pytest.mark.parametrize("name", ["target_modules", "exclude_modules", "modules_to_save"])
def test_in_a_list_there_are_names_alone(name):
    assert f"{name} has '(a+)+' in a list" in refusal(ValueError, lambda: LoraConfig(**{name: ["(a+)+"]}))


def test_many_entries_are_bounded_too(directory):
    (directory / "adapter_config.json").write_text(json.dumps({"rank_pattern": {f"q{i}": 4 for i in range(100_000)}}))
    start = time.perf_counter()
    message = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), directory))
    assert "rank_pattern has 100000 entries" in message
    LoraConfig(rank_pattern={f"q{i}": 4 for i in range(2000)})
    wild = {f".*{i}.*.*": 4 for i in range(2000)}
    assert "for ever" in refusal(ValueError, lambda: LoraConfig(rank_pattern=wild))
    assert time.perf_counter() - start < 3


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


pieces = st.recursive(
    st.sampled_from(["a", "b", ".", r"\w", r"\.", "[a-z]", "[^.]", "ab", ""]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda found: f"(?:{'|'.join(found)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2,5}", "{3}"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
    ),
    max_leaves=8,
)


@settings(fuzz, max_examples=300)
@given(pieces, st.text("ab.", min_size=20, max_size=26), st.sampled_from(["", "!"]))
def test_what_is_taken_is_fast(text, name, end):
    """On names made to be hard, ending in what no expression here takes; refused ones are not tried."""
    try:
        check_expression("a field", text)
    except ValueError:
        return
    start = time.perf_counter()
    re.fullmatch(text, name + end)
    re.fullmatch(text, "a" * 26 + end)
    assert time.perf_counter() - start < 3


def test_the_first_that_matches_counts():
    patterns = {"h.1.attn": 1, "attn": 2, ".*": 3}
    names = ("transformer.h.1.attn", "transformer.h.0.attn", "mlp")
    assert [first_match(patterns, name, 0) for name in names] == [1, 2, 3]
    assert first_match({"ttn": 1}, "transformer.h.1.attn", 0) == 0
    assert unmatched(["attn", "ttn", "mlp"], names) == ["ttn"]


def test_where_the_order_of_the_keys_decides():
    names = ["h.0.attn", "h.1.attn", "h.1.mlp"]
    assert of_several({"attn": 1, r"h\.1\..*": 2}, names) == ["h.1.attn"]
    assert of_several({"attn": 1, r"h\.1\..*": 1, "ttn": 3}, names) == []


WARNED = [
    (
        {"rank_pattern": {"k_proj": 4, "q_proj": 2, "ln": 3}},
        "rank_pattern has entries that match no adapted layer: k_proj, ln",
    ),
    ({"alpha_pattern": {r".*\.9\..*": 4}}, r"alpha_pattern has entries that match no adapted layer: \.\*"),
    ({"exclude_modules": ["k_proj", "w1"]}, "exclude_modules has entries that match no module: w1$"),
    ({"exclude_modules": "k_proj"}, "exclude_modules has entries that match no module: k_proj$"),
]


@pytest.mark.parametrize(("options", "message"), WARNED, ids=str)
def test_entries_that_match_nothing_are_warned_about(directory, options, message):
    with pytest.warns(UserWarning, match=message):
        peft_model(["q_proj", "v_proj"], tiny_llama(), **options).save_pretrained(directory)
    with pytest.warns(UserWarning, match=message) as caught:
        PeftModel.from_pretrained(tiny_llama(), directory)
    assert len(caught) == 1


def test_entries_that_match_are_not(no_warnings):
    options = {"rank_pattern": {"q_proj": 2, r"layers\.0\..*": 3}, "alpha_pattern": {"v_proj": 1}}
    peft_model(["q_proj", "v_proj"], tiny_llama(), exclude_modules=["layers.1.self_attn.q_proj"], **options)
    peft_model(["c_attn.q", "c_attn.v"], tiny_model(), exclude_modules=["h.0.attn.c_attn.q"])


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("options", [options for options, _ in WARNED if "w1" not in str(options)], ids=str)
def test_peft_warns_of_them_too(options):
    import peft
    from lora_helpers import hugging_face_twin

    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], **options)
    with pytest.warns((UserWarning, RuntimeWarning), match="did not match|no modules were excluded"):
        peft.get_peft_model(hugging_face_twin(tiny_llama()), config)


def test_all_modules_of_a_model_are_looked_through_in_no_time():
    names = list(own_modules(tiny_llama(num_hidden_layers=30)))
    start = time.perf_counter()
    for text in USEFUL:
        [re.fullmatch(text, name) for name in names]
    assert time.perf_counter() - start < 3
