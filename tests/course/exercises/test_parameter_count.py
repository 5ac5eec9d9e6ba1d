import pytest
from exercise_helpers import assert_told

from lora_course.exercises.parameter_count import LLAMA_2_7B, LLAMA_3_8B, SEVEN, check, lora_parameters


def shapes_of(config, K=None, F=None):
    C = config["hidden_size"]
    F = F or config["intermediate_size"]
    K = K or C * config["num_key_value_heads"] // config["num_attention_heads"]
    attention = {"q_proj": (C, C), "k_proj": (C, K), "v_proj": (C, K), "o_proj": (C, C)}
    return attention | {"gate_proj": (C, F), "up_proj": (C, F), "down_proj": (F, C)}


def as_many_key_heads(config, r, targets):
    shapes = shapes_of(config, K=config["hidden_size"])
    return sum(r * sum(shapes[name]) for name in targets) * config["num_hidden_layers"]


def heads_without_their_size(config, r, targets):
    shapes = shapes_of(config, K=config["num_key_value_heads"])
    return sum(r * sum(shapes[name]) for name in targets) * config["num_hidden_layers"]


def one_block(config, r, targets):
    return sum(r * sum(shapes_of(config)[name]) for name in targets)


def every_layer(config, r, targets):
    return sum(r * sum(shape) for shape in shapes_of(config).values()) * config["num_hidden_layers"]


def narrow_mlp(config, r, targets):
    shapes = shapes_of(config, F=config["hidden_size"])
    return sum(r * sum(shapes[name]) for name in targets) * config["num_hidden_layers"]


def with_size(size):
    def wrong(config, r, targets):
        sizes = (size(r, *shapes_of(config)[name]) for name in targets)
        return config["num_hidden_layers"] * sum(sizes)

    return wrong


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (as_many_key_heads, "fewer heads than queries"),
        (heads_without_their_size, "hidden_size / num_attention_heads"),
        (one_block, "this is one block"),
        (every_layer, "all seven layers are counted"),
        (narrow_mlp, "as wide as intermediate_size"),
        (with_size(lambda r, i, o: i * o), "frozen weights"),
        (with_size(lambda r, i, o: r * i * o), "is no size of A and B"),
        (with_size(lambda r, i, o: r * i), "only A is counted"),
        (with_size(lambda r, i, o: o * r), "only B is counted"),
        (with_size(lambda r, i, o: i + o), "r is missing"),
        (with_size(lambda r, i, o: r * (r * i + o * r)), "r is there twice"),
    ],
)
def test_usual_mistakes_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "lora_parameters", capsys)


@pytest.mark.parametrize(
    ("config", "r", "targets", "expected"),
    [(LLAMA_3_8B, 16, SEVEN, 41_943_040), (LLAMA_2_7B, 1, SEVEN, 2_498_560), (LLAMA_2_7B, 8, ["q_proj"], 2_097_152)],
)
def test_the_reference_gives_the_published_counts(config, r, targets, expected):
    assert lora_parameters(config, r, targets) == expected


def with_keys_of(width):
    """A count with a student's own width of keys and values."""

    def wrong(config, r, targets):
        shapes = shapes_of(config, K=width(*(config[key] for key in HEADS)))
        return sum(r * sum(shapes[name]) for name in targets) * config["num_hidden_layers"]

    return wrong


HEADS = ("hidden_size", "num_attention_heads", "num_key_value_heads")


@pytest.mark.parametrize(
    ("width", "hint"),
    [
        (lambda C, heads, kv: C // heads, "one head wide"),
        (lambda C, heads, kv: C // (heads * kv), "are two things"),
    ],
)
def test_wrong_widths_of_keys_are_named(width, hint, capsys):
    assert_told(check, with_keys_of(width), hint, "lora_parameters", capsys)


def test_a_layer_that_is_wrong_alone_is_said_by_name(capsys):
    def narrow_output(config, r, targets):
        shapes = shapes_of(config)
        shapes["o_proj"] = shapes["k_proj"]
        return sum(r * sum(shapes[name]) for name in targets) * config["num_hidden_layers"]

    assert_told(check, narrow_output, "o_proj goes from C to C", "lora_parameters", capsys)
    with pytest.raises(AssertionError):
        check(narrow_output)
    assert "targets = ['o_proj']" in capsys.readouterr().out
