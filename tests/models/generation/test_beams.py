"""Beam search is Transformers', token for token, and finds what trying everything finds."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, hugging_face_twin, tiny_llama, tiny_model
from scipy import stats

from lora_np.models.generation.beams import without_putting_back

MAKERS = {"gpt2": tiny_model, "llama": tiny_llama}


def sharp(kind, stops, seed=0, **changes):
    """A model whose probabilities are far enough from each other for float32's rounding not to matter."""
    window = {"gpt2": {"n_positions": 40}, "llama": {"max_position_embeddings": 40}}[kind]
    model = MAKERS[kind](seed=seed, tie_word_embeddings=False, eos_token_id=stops, **window, **changes)
    for p in model.parameters():
        p.data[:] = p.data * (3 if p.data.ndim > 1 else 1)
    model.generation_config.pad_token_id = 0
    return model


def padded_ids(rng):
    B, T = rng.integers(1, 4), rng.integers(1, 7)
    mask = np.arange(T) >= rng.integers(0, T, (B, 1))
    return rng.integers(1, 31, (B, T)), mask.astype(int)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@settings(fuzz, max_examples=25)
@given(
    st.sampled_from(list(MAKERS)),
    st.sampled_from([4, [3, 9], None]),
    st.integers(0, 2**16),
    st.integers(2, 4),
    st.integers(1, 12),
    st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
    st.sampled_from([True, False, "never"]),
    st.sampled_from([{}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}, {"min_new_tokens": 3}]),
    st.booleans(),
)
def test_beams_are_transformers_token_for_token(kind, stops, seed, beams, new, power, early, rules, use_cache):
    import torch

    rng = np.random.default_rng(seed)
    model = sharp(kind, stops, seed % 3)
    twin = hugging_face_twin(model)
    twin.generation_config.pad_token_id, twin.generation_config.eos_token_id = 0, stops
    ids, mask = padded_ids(rng)
    options = {"num_beams": beams, "num_return_sequences": int(rng.integers(1, beams + 1)), "max_new_tokens": new}
    options |= {"length_penalty": power, "early_stopping": early, "use_cache": use_cache, **rules}
    options |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "do_sample": False}
    expected = twin.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **options)
    found = model.generate(ids, attention_mask=mask, **options)
    np.testing.assert_array_equal(found.sequences, expected.sequences)
    np.testing.assert_array_equal(found.beam_indices, expected.beam_indices)
    np.testing.assert_allclose(found.sequences_scores, expected.sequences_scores, rtol=1e-4, atol=2e-4)
    for name in ("scores", "logits"):
        for own, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-3)
    for normalize in (False, True):
        own, other = (
            part.compute_transition_scores(output.sequences, output.scores, output.beam_indices, normalize)
            for part, output in ((model, found), (twin, expected))
        )
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", MAKERS)
def test_enough_beams_find_the_likeliest_of_all_texts(kind):
    model = sharp(kind, None, vocab_size=5)
    every = np.array([[1, 2, *new] for new in itertools.product(range(5), repeat=3)])
    logits = model(every).logits.numpy().astype(np.float64)[:, 1:-1]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    totals = np.take_along_axis(log_p, every[:, 2:, None], axis=-1).sum((1, 2))
    options = {"num_beams": 25, "num_return_sequences": 4, "max_new_tokens": 3, "length_penalty": 0.0}
    found = model.generate([[1, 2]], **options, return_dict_in_generate=True, output_scores=True)
    best = np.argsort(-totals)[:4]
    np.testing.assert_array_equal(found.sequences, every[best])
    np.testing.assert_allclose(found.sequences_scores, totals[best], rtol=1e-4)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_cache_changes_nothing_also_past_the_context(kind):
    window = {"gpt2": {"n_positions": 8}, "llama": {"max_position_embeddings": 8}}[kind]
    model = MAKERS[kind](tie_word_embeddings=False, **window)
    ids, options = np.array([[0, 0, 3], [1, 2, 4]]), {"num_beams": 3, "max_new_tokens": 9, "eos_token_id": [5]}
    options["attention_mask"] = [[0, 0, 1], [1, 1, 1]]
    cached, plain = (model.generate(ids, use_cache=use, **options) for use in (True, False))
    np.testing.assert_array_equal(cached, plain)


def test_what_is_drawn_without_putting_back_follows_its_probabilities():
    p, count = np.array([0.5, 0.3, 0.15, 0.05]), 4000
    drawn = without_putting_back(np.log(p)[None].repeat(count, 0), 2, np.random.default_rng(0))
    pairs = list(itertools.permutations(range(4), 2))
    wanted = [p[i] * p[j] / (1 - p[i]) * count for i, j in pairs]
    observed = [((drawn == pair).all(axis=1)).sum() for pair in pairs]
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parity
@pytest.mark.parametrize(
    "options", [{"top_k": 5, "temperature": 3.0}, {"temperature": 2.0, "min_p": 0.05, "eos_token_id": 1}], ids=str
)
def test_drawn_beams_are_as_frequent_as_transformers(options):
    import torch

    model, rows = tiny_model(vocab_size=7, n_layer=1, seed=3, eos_token_id=None), 1500
    ids = np.repeat([[3, 1]], rows, axis=0)
    options = {"num_beams": 2, "do_sample": True, "max_new_tokens": 2, "pad_token_id": 0, **options}
    torch.manual_seed(0)
    ours = model.generate(ids, seed=0, attention_mask=np.ones(ids.shape, int), **options)
    theirs = hugging_face_twin(model).generate(torch.tensor(ids), attention_mask=torch.ones(rows, 2), **options)
    counts = np.array([np.bincount(text[:, 2:] @ [7, 1], minlength=49) for text in (ours, theirs.numpy())])
    common = counts.sum(axis=0) >= 20
    table = np.column_stack([counts[:, common], counts[:, ~common].sum(axis=1)])
    assert table.shape[1] > 3
    assert stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue > 1e-3


def test_the_same_seed_draws_the_same_beams():
    model = tiny_model()
    options = {"num_beams": 3, "do_sample": True, "max_new_tokens": 6, "temperature": 3.0}
    first, again, other = (model.generate([[1, 2]], seed=seed, **options) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


def test_no_new_tokens_are_the_same_ids():
    np.testing.assert_array_equal(tiny_model().generate([[1, 2]], num_beams=2, max_new_tokens=0), [[1, 2]])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", MAKERS)
def test_the_gpu_finds_the_same_beams(kind):
    model, options = sharp(kind, [3, 9]), {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 8}
    expected = model.generate([[1, 2], [5, 6]], **options)
    np.testing.assert_array_equal(model.to("cuda").generate([[1, 2], [5, 6]], **options), expected)
