"""Generating: greedy as Transformers does it, sampling from the distribution that the options describe."""

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, some_ids, tiny_model
from scipy import stats

from lora_np import AutoModelForCausalLM, AutoTokenizer, manual_seed
from lora_np.autograd import is_grad_enabled


def shipped_model():
    """The trained model: its text is worth more than a random model's, which soon repeats itself."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained("tiny-python"), AutoTokenizer.from_pretrained("tiny-python")
    return model, np.concatenate([tokenizer(text)["input_ids"] for text in ("import os\n", "def main()", "class Node")])


def random_model():
    model = tiny_model(n_positions=40, n_layer=3, tie_word_embeddings=False)
    return model, some_ids(model.config, batch=4, time=5)


@pytest.mark.parity
@pytest.mark.parametrize("make", [shipped_model, random_model])
def test_greedy_text_is_transformers_token_for_token(make):
    import torch

    model, ids = make()
    twin = hugging_face_twin(model)
    twin.generation_config.eos_token_id = None
    theirs = twin.generate(
        torch.tensor(ids),
        attention_mask=torch.ones(ids.shape, dtype=torch.long),
        max_new_tokens=30,
        do_sample=False,
        pad_token_id=0,
    )
    ours = model.generate(ids, max_new_tokens=30)
    assert ours.shape == (len(ids), ids.shape[1] + 30)
    np.testing.assert_array_equal(ours, theirs.numpy())


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


@pytest.mark.parametrize("time", [2, 6, 8, 15])
def test_past_the_context_the_model_sees_the_last_part(time):
    model = tiny_model(n_positions=6)
    ids = np.random.default_rng(0).integers(0, 31, (2, time))
    text = model.generate(ids, max_new_tokens=10)
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
        ({"max_new_tokens": -1}, "max_new_tokens must not be negative, got -1"),
        ({"do_sample": True, "temperature": 0}, "temperature must be positive, got 0; for greedy text use do_sample=F"),
        ({"do_sample": True, "temperature": -1.0}, "temperature must be positive, got -1.0"),
        ({"do_sample": True, "top_k": 0}, "top_k must be at least 1, got 0"),
        ({"do_sample": True, "top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"do_sample": True, "top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().generate([[1, 2]], **options)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, 2, 3], ValueError, r"\(batch, time\).*got shape \(3,\)"),
        (np.zeros((1, 0), int), ValueError, "at least one token"),
        ([[1, 31]], IndexError, "token id 31 is out of range"),
    ],
)
def test_ids_that_make_no_sense_are_refused(ids, error, message):
    with pytest.raises(error, match=message):
        tiny_model().generate(ids)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_also_after_an_error(training):
    model = tiny_model(resid_pdrop=0.5).train(training)
    first, second = (model.generate([[1, 2]], max_new_tokens=8) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # dropout was off meanwhile
    with pytest.raises(IndexError):
        model.generate([[1, 99]])
    assert all(module.training == training for module in model.modules())
    assert is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_p": 0.9, "seed": 1}], ids=["greedy", "sampled"])
def test_the_gpu_writes_the_same_text(options):
    model = tiny_model()
    ids = some_ids(model.config, time=3)
    expected = model.generate(ids, max_new_tokens=8, **options)
    np.testing.assert_array_equal(model.to("cuda").generate(ids, max_new_tokens=8, **options), expected)
