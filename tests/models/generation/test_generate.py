"""Generating: greedy as Transformers does it, sampling from the distribution that the options describe."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, hugging_face_twin, peft_model, perturbed, some_ids, tiny_llama, tiny_model
from scipy import stats

from lora_np import AutoModelForCausalLM, AutoTokenizer, Tensor, manual_seed, no_grad
from lora_np.autograd import is_grad_enabled
from lora_np.models.generation.generate import draw

MAKERS = {"gpt2": tiny_model, "llama": tiny_llama}


def shipped_model():
    """The trained model: its text is worth more than a random model's, which soon repeats itself."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained("tiny-python"), AutoTokenizer.from_pretrained("tiny-python")
    return model, np.concatenate(
        [tokenizer(text, return_tensors="np")["input_ids"] for text in ("import os\n", "def main()", "class Node")]
    )


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_tensors_give_tensors(options):
    model, ids = random_llama()
    expected = model.generate(ids, max_new_tokens=4, **options)
    assert type(expected) is np.ndarray
    found = model.generate(Tensor(ids), max_new_tokens=4, **options)
    assert type(found) is Tensor
    np.testing.assert_array_equal(found.numpy(), expected)
    told = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    output = model.generate(input_ids=Tensor(ids), max_new_tokens=4, **told, **options)
    assert {type(one) for one in (output.sequences, *output.scores, *output.logits)} == {Tensor}


def random_gpt2():
    model = tiny_model(n_positions=40, n_layer=3, tie_word_embeddings=False)
    return model, some_ids(model.config, batch=4, time=5)


def random_llama():
    model = tiny_llama(max_position_embeddings=40, num_hidden_layers=3, vocab_size=200)
    return model, some_ids(model.config, batch=4, time=5)


def theirs(model, ids, mask=None, **options):
    """The text that Transformers writes, with the special tokens that are given here and no others."""
    import torch

    twin = hugging_face_twin(model)
    twin.generation_config.eos_token_id = twin.generation_config.pad_token_id = None
    mask = np.ones(ids.shape, int) if mask is None else mask
    given = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0, **options}
    return twin.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **given).numpy()


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}, {"repetition_penalty": 0.8}], ids=str)
@pytest.mark.parametrize("make", [shipped_model, random_gpt2, random_llama])
def test_greedy_text_is_transformers_token_for_token(make, options):
    model, ids = make()
    ours = model.generate(ids, max_new_tokens=30, eos_token_id=[], **options)
    assert ours.shape == (len(ids), ids.shape[1] + 30)
    np.testing.assert_array_equal(ours, theirs(model, ids, **options))


@pytest.mark.parity
@pytest.mark.parametrize("make", [shipped_model, random_gpt2, random_llama])
def test_padded_rows_go_on_as_in_transformers(make):
    model, ids = make()
    mask = left_mask(len(ids), ids.shape[1])
    ours = model.generate(ids, attention_mask=mask, max_new_tokens=30, eos_token_id=[])
    np.testing.assert_array_equal(ours, theirs(model, ids, mask))


@pytest.mark.parity
@pytest.mark.parametrize("make", [random_gpt2, random_llama])
def test_rows_stop_and_are_filled_as_in_transformers(make):
    model, ids = make()
    whole = model.generate(ids, max_new_tokens=30, eos_token_id=[])
    for stops in (int(whole[0, 12]), [int(whole[0, 20]), int(whole[1, 9])]):
        ours = model.generate(ids, max_new_tokens=30, eos_token_id=stops, pad_token_id=3)
        np.testing.assert_array_equal(ours, theirs(model, ids, eos_token_id=stops, pad_token_id=3))
        assert (ours != whole[:, : ours.shape[1]]).any() or ours.shape != whole.shape


def left_mask(rows, T):
    """Rows of different lengths, all padded on the left but the first."""
    mask = np.ones((rows, T), int)
    for row in range(rows):
        mask[row, : row * (T - 1) // max(1, rows - 1)] = 0
    return mask


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


# Padding, stopping, and the cache, without any other library


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("time", [3, 8, 20], ids=["short", "to the end of the context", "past the context"])
def test_a_padded_row_goes_on_as_it_does_alone(make, use_cache, time):
    model, lengths, options = make(), (4, 1, 3), {"use_cache": use_cache, "max_new_tokens": time}
    ids, mask = some_ids(model.config, 3, 4), np.array([[0] * (4 - n) + [1] * n for n in lengths])
    found = model.generate(ids, attention_mask=mask, **options)
    for row, n in enumerate(lengths):
        # Alone, a row reaches the end of the context later than in the batch, whose longest row counts.
        same = 12 - 4 + 1 if n < 4 else time
        alone = model.generate(ids[row : row + 1, 4 - n :], **options)[0, n:]
        np.testing.assert_array_equal(found[row, 4:][:same], alone[:same])


@settings(fuzz, max_examples=20)
@given(st.sampled_from(list(MAKERS)), st.integers(1, 16), st.integers(0, 14), st.integers(1, 3), st.data())
def test_the_cache_changes_nothing_in_the_text(kind, time, new, rows, data):
    model = MAKERS[kind](seed=data.draw(st.integers(0, 5)))
    ids = np.random.default_rng(time).integers(0, 31, (rows, time))
    pads = np.array([data.draw(st.integers(0, time - 1)) for _ in range(rows)])
    options = {"attention_mask": np.arange(time) >= pads[:, None], "max_new_tokens": new, "repetition_penalty": 1.2}
    cached, plain = (model.generate(ids, use_cache=use, **options) for use in (True, False))
    np.testing.assert_array_equal(cached, plain)


def test_with_the_cache_each_token_is_read_once(make, monkeypatch):
    """Up to the end of the context; from there on each step reads the last twelve anew, as without a cache."""
    model, read, forward = make(), [], type(make()).forward
    monkeypatch.setattr(
        type(model), "forward", lambda *args, **kw: read.append(args[1].shape[1]) or forward(*args, **kw)
    )
    ids = some_ids(model.config, time=3)
    model.generate(ids, max_new_tokens=12, eos_token_id=[])
    assert read == [3, *[1] * 9, 12, 12]
    read.clear()
    model.generate(ids, max_new_tokens=12, eos_token_id=[], use_cache=False)
    assert read == [*range(3, 13), 12, 12]


def test_rows_stop_at_their_own_token_and_are_filled(make):
    model = make()
    ids = some_ids(model.config, batch=3, time=3)
    whole = model.generate(ids, max_new_tokens=8)
    stop = int(whole[0, 4])
    found = model.generate(ids, max_new_tokens=8, eos_token_id=stop, pad_token_id=30)
    for before, after in zip(whole, found, strict=True):
        ends = 3 + np.flatnonzero(before[3:] == stop)[:1]
        end = int(ends[0]) + 1 if len(ends) else len(before)
        np.testing.assert_array_equal(after[:end], before[:end])
        assert (after[end:] == 30).all()
    assert found.shape[1] < whole.shape[1] or (whole[:, 3:] != stop).all(axis=1).any()


def test_a_text_ends_when_all_rows_have(make):
    model = make()
    ids = some_ids(model.config, batch=1, time=3)
    whole = model.generate(ids, max_new_tokens=8)
    for stops in (int(whole[0, 3]), [int(whole[0, 3])], np.array([whole[0, 3], 29])):
        np.testing.assert_array_equal(model.generate(ids, max_new_tokens=8, eos_token_id=stops), whole[:, :4])


def test_what_stops_is_told_by_the_call_then_by_the_generation_config(make):
    model = make()
    ids = some_ids(model.config, batch=1, time=3)
    whole = model.generate(ids, max_new_tokens=8, eos_token_id=None)[0].tolist()
    first, second, both = whole[:4], whole[: whole.index(whole[4], 3) + 1], [whole[3], whole[4]]

    def text(**options):
        return model.generate(ids, max_new_tokens=8, **options)[0].tolist()

    assert len(whole) == 11
    model.generation_config.eos_token_id = whole[4]
    assert text() == second
    model.generation_config = {"eos_token_id": both}
    assert text() == first
    assert text(eos_token_id=whole[4]) == second
    assert text(eos_token_id=[]) == text(eos_token_id=None) == whole
    model.generation_config = {}  # a file that says nothing: none
    assert text() == whole


def test_a_models_config_says_what_stops_if_no_file_does(make):
    whole = make().generate(ids := some_ids(make().config, batch=1, time=3), max_new_tokens=8, eos_token_id=[])
    model = make(eos_token_id=int(whole[0, 3]))
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=8), whole[:, :4])
    assert model.generation_config.eos_token_id == whole[0, 3]


def test_without_a_pad_token_rows_are_filled_with_the_first_stop_token(make):
    model = make()
    ids = some_ids(model.config, batch=3, time=3)
    whole = model.generate(ids, max_new_tokens=8, eos_token_id=[])
    stops = [int(whole[0, 3]), 30]

    def filled(**options):
        return set(model.generate(ids, max_new_tokens=8, eos_token_id=stops, **options)[0, 4:].tolist())

    assert (whole[1:, 3:] != stops[0]).any(axis=1).all()  # others go on
    assert filled() == {stops[0]}
    model.generation_config.pad_token_id = 8
    assert filled() == {8}
    assert filled(pad_token_id=9) == {9}


# One token after another


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 4}, {"use_cache": False}], ids=str)
def test_a_stream_yields_what_generate_returns(make, options):
    model = make()
    ids = some_ids(model.config, time=3)
    steps = list(model.stream(ids, max_new_tokens=12, **options))
    assert {step.shape for step in steps} == {(2,)}
    whole = model.generate(ids, max_new_tokens=12, **options)
    np.testing.assert_array_equal(whole, np.concatenate([ids, np.stack(steps, 1)], axis=1))


@pytest.mark.parametrize("training", [True, False])
def test_between_its_tokens_a_stream_leaves_the_modes_alone(make, training):
    model = make().train(training)
    ids = some_ids(model.config, time=3)
    expected = model.generate(ids, max_new_tokens=6)
    found, stream = [], model.stream(ids, max_new_tokens=6)
    for step in stream:
        assert is_grad_enabled()
        assert all(module.training == training for module in model.modules())
        model(ids, labels=ids).loss.backward()  # whoever reads a stream may train meanwhile
        found.append(step)
    np.testing.assert_array_equal(np.stack(found, 1), expected[:, 3:])


@pytest.mark.parametrize("leave", ["close", "forget", "break"])
def test_a_stream_abandoned_half_way_leaves_the_modes_alone(make, leave):
    model = make().train()
    stream = model.stream(some_ids(model.config, time=3), max_new_tokens=8)
    next(stream)
    if leave == "break":
        for _ in stream:
            break
    elif leave == "close":
        stream.close()
    del stream
    assert is_grad_enabled()
    assert all(module.training for module in model.modules())


def test_a_stream_read_inside_no_grad_leaves_that_too(make):
    model = make()
    with no_grad():
        for _ in model.stream(some_ids(model.config, time=3), max_new_tokens=3):
            assert not is_grad_enabled()
    assert is_grad_enabled()


def test_a_stream_says_at_once_what_is_wrong(make):
    """Not at the first token, which may be asked for somewhere else."""
    with pytest.raises(ValueError, match="max_new_tokens must be an integer of at least 0, got -1"):
        make().stream([[1]], max_new_tokens=-1)
    with pytest.raises(ValueError, match="temperature must be positive"):
        make().stream([[1]], max_new_tokens=1, do_sample=True, temperature=0)


def test_two_streams_of_one_model_do_not_disturb_each_other(make):
    model = make()
    ids = some_ids(model.config, batch=2, time=3)
    streams = [model.stream(row[None], max_new_tokens=6) for row in ids]
    found = [[step[0] for step in pair] for pair in zip(*streams, strict=True)]
    np.testing.assert_array_equal(np.transpose(found), model.generate(ids, max_new_tokens=6)[:, 3:])


# Adapters


def test_text_with_an_adapter_on_off_and_merged(make):
    base = make()
    ids = some_ids(base.config, time=3)
    plain = base.generate(ids, max_new_tokens=8)
    model = perturbed(peft_model("all-linear", base), scale=0.3)
    adapted = model.generate(ids, max_new_tokens=8)
    assert (adapted != plain).any()
    with model.disable_adapter():
        np.testing.assert_array_equal(model.generate(ids, max_new_tokens=8), plain)
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=8, use_cache=False), adapted)
    model.merge_adapter()
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=8), adapted)
    model.unmerge_adapter()
    np.testing.assert_array_equal(model.merge_and_unload().generate(ids, max_new_tokens=8), adapted)


# Sampling


def next_probabilities(model, ids, temperature=1.0, top_k=None, top_p=None):
    """The distribution of the next token after ids (1, T), by the definitions, one token at a time."""
    logits = model(ids).logits.numpy()[0, -1].astype(np.float64) / temperature
    p = np.exp(logits - logits.max())
    p /= p.sum()
    kept, mass = [], 0.0
    for token in sorted(range(len(p)), key=lambda token: -p[token])[:top_k]:
        if top_p is not None and kept and mass / p_of_top_k(p, top_k) >= top_p:
            break
        kept.append(token)
        mass += p[token]
    q = np.zeros_like(p)
    q[kept] = p[kept] / mass
    return q


def p_of_top_k(p, top_k):
    return np.sort(p)[::-1][:top_k].sum()


OPTIONS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 4},
    {"top_p": 0.5},
    {"top_p": 0.9},
    {"top_p": 1.0},
    {"top_k": 5, "top_p": 0.6, "temperature": 2.0},
    {"top_k": 1000},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_samples_follow_the_distribution_that_the_options_describe(options):
    model, count = tiny_model(vocab_size=11, n_layer=1, seed=3), 4000
    ids = np.array([[3, 1, 4]])
    drawn = model.generate(np.repeat(ids, count, axis=0), max_new_tokens=1, do_sample=True, seed=0, **options)[:, -1]
    expected = next_probabilities(model, ids, **options)
    counts = np.bincount(drawn, minlength=11)
    assert not counts[expected == 0].any()
    common = expected * count >= 5  # rarer ones are put together
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()) * count
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    if len(wanted) > 1:
        assert stats.chisquare(observed, wanted * (count / wanted.sum())).pvalue > 1e-3
    else:
        assert observed[0] == count


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    """Just below the two likeliest tokens' probability there are two to choose from, just above it three."""
    model, ids = tiny_model(vocab_size=11, n_layer=1, seed=3), np.array([[3, 1, 4]])
    ranked = np.argsort(-next_probabilities(model, ids))
    two = np.sort(next_probabilities(model, ids))[::-1][:2].sum()
    for top_p, size in [(two - 1e-4, 2), (two + 1e-4, 3), (1e-9, 1)]:
        drawn = model.generate(np.repeat(ids, 2000, axis=0), max_new_tokens=1, do_sample=True, top_p=top_p, seed=0)
        assert set(drawn[:, -1]) == set(ranked[:size])


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}], ids=str)
def test_sampling_that_leaves_one_token_is_greedy(options):
    model = tiny_model()
    ids = some_ids(model.config, time=3)
    sampled = model.generate(ids, max_new_tokens=8, do_sample=True, **options)
    np.testing.assert_array_equal(sampled, model.generate(ids, max_new_tokens=8))


def test_infinite_logits_are_never_drawn():
    scores = np.array([[-np.inf, 0.0, -np.inf, 0.0]]).repeat(200, 0)
    assert set(draw(scores, np.random.default_rng(0))) == {1, 3}


def test_draws_go_on_and_do_not_start_again():
    scores, rng, again = np.zeros((50, 4)), np.random.default_rng(5), np.random.default_rng(5)
    first, second = draw(scores, rng), draw(scores, rng)
    assert (first != second).any()
    np.testing.assert_array_equal(draw(scores, again), first)
    np.testing.assert_array_equal(draw(scores, again), second)


def test_greedy_draws_nothing_from_the_generator():
    model, drawn = tiny_model(), []
    for options in ({}, {"do_sample": True}):
        manual_seed(3)
        if not options:
            model.generate([[1, 2]], max_new_tokens=3)
        drawn.append(model.generate([[1, 2]], max_new_tokens=8, do_sample=True))
    np.testing.assert_array_equal(*drawn)


def test_the_penalty_comes_before_temperature_and_top_k():
    """The likeliest token after the penalty is the one that top_k=1 leaves."""
    model = tiny_model(eos_token_id=None)
    options = {"max_new_tokens": 8, "repetition_penalty": 2.0}
    expected = model.generate([[1, 2]], **options)
    assert (expected != model.generate([[1, 2]], max_new_tokens=8)).any()
    found = model.generate([[1, 2]], do_sample=True, top_k=1, temperature=0.5, **options)
    np.testing.assert_array_equal(found, expected)


def test_the_same_seed_gives_the_same_text():
    model = tiny_model()
    ids = some_ids(model.config, time=3)
    first, again, other = (model.generate(ids, max_new_tokens=8, do_sample=True, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_without_a_seed_sampling_draws_from_the_librarys_own_generator():
    """manual_seed says: initial weights, dropout masks and sampling all draw from it."""
    model = tiny_model()
    ids, texts = some_ids(model.config, time=3), []
    for _ in range(2):
        manual_seed(7)
        texts.append([model.generate(ids, max_new_tokens=8, do_sample=True) for _ in range(2)])
    assert (texts[0][0] != texts[0][1]).any()
    np.testing.assert_array_equal(texts[0], texts[1])


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("time", [2, 6, 8, 15])
@pytest.mark.parametrize("model", [tiny_model(n_positions=6), tiny_llama(max_position_embeddings=6)], ids=MAKERS)
def test_past_the_context_the_model_sees_the_last_part(model, time, use_cache):
    ids = np.random.default_rng(0).integers(0, 31, (2, time))
    text = model.generate(ids, max_new_tokens=10, eos_token_id=[], use_cache=use_cache)
    assert text.shape == (2, time + 10)
    np.testing.assert_array_equal(text[:, :time], ids)
    for end in range(time, time + 10):
        logits = model(text[:, max(0, end - 6) : end]).logits.data[:, -1]
        np.testing.assert_array_equal(text[:, end], logits.argmax(-1))


def test_no_new_tokens_are_the_same_ids():
    ids = some_ids(tiny_model().config)
    np.testing.assert_array_equal(tiny_model().generate(ids, max_new_tokens=0), ids)


def test_lists_and_small_integers_are_ids_too():
    model = tiny_model()
    ids = some_ids(model.config, time=3)
    expected = model.generate(ids, max_new_tokens=4)
    np.testing.assert_array_equal(model.generate(ids.tolist(), max_new_tokens=4), expected)
    small = model.generate(ids.astype(np.uint8), max_new_tokens=4)
    np.testing.assert_array_equal(small, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must be an integer of at least 0, got -1"),
        ({"max_new_tokens": "5"}, "max_new_tokens must be an integer of at least 0, got '5'"),
        ({"do_sample": True, "temperature": 0}, "temperature must be positive, got 0; for greedy text use do_sample=F"),
        ({"do_sample": True, "temperature": -1.0}, "temperature must be a finite number of at least 0, got -1.0"),
        ({"do_sample": True, "top_k": -1}, "top_k must be an integer of at least 0, got -1"),
        ({"do_sample": True, "top_p": 1.1}, "top_p must be a number from 0 to 1, got 1.1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().generate([[1, 2]], **{"max_new_tokens": 1, **options})


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.array([1, 2, 3]), ValueError, r"\(batch, time\).*got shape \(3,\)"),
        (np.zeros((1, 0), int), ValueError, "at least one token"),
        ([[1, 31]], IndexError, "token id 31 is out of range"),
        ([[1, -1]], IndexError, "token id -1 is out of range"),
        ([[1.0]], TypeError, "token ids must be integers"),
    ],
)
def test_ids_that_make_no_sense_are_refused(make, ids, error, message):
    with pytest.raises(error, match=message):
        make().generate(ids, max_new_tokens=1)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1, 0], [1, 1, 1]], "rows must be padded on the left"),
        ([[1, 0, 1], [1, 1, 1]], "rows must be padded on the left"),
        ([[0, 0, 0], [1, 1, 1]], "rows must be padded on the left"),
        ([[1, 1], [1, 1]], r"attention_mask of shape \(2, 2\) does not fit ids of shape \(2, 3\)"),
        ([1, 1, 1], r"attention_mask of shape \(3,\) does not fit"),
    ],
)
def test_masks_that_make_no_sense_are_refused(make, mask, message):
    with pytest.raises(ValueError, match=message):
        make().generate([[1, 2, 3], [4, 5, 6]], attention_mask=mask)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_also_after_an_error(training):
    model = tiny_model(resid_pdrop=0.5).train(training)
    first, second = (model.generate([[1, 2]], max_new_tokens=8) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # dropout was off meanwhile
    with pytest.raises(IndexError):
        model.generate([[1, 99]], max_new_tokens=1)
    assert all(module.training == training for module in model.modules())
    assert is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_p": 0.9, "seed": 1}], ids=["greedy", "sampled"])
def test_the_gpu_writes_the_same_text(make, options):
    model = make()
    ids = some_ids(model.config, time=3)
    expected = model.generate(ids, max_new_tokens=8, **options)
    np.testing.assert_array_equal(model.to("cuda").generate(ids, max_new_tokens=8, **options), expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 0}, {"use_cache": False}], ids=str)
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e38])
def test_a_model_that_makes_no_numbers_says_so(number, options):
    model = tiny_model(n_layer=1)
    model.transformer.wpe.weight.data[:] = number
    with pytest.raises(FloatingPointError, match=r"logits .*not finite"):
        model.generate(np.ones((2, 3), int), max_new_tokens=2, **options)
