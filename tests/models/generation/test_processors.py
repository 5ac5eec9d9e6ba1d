"""Each processor, by itself, gives the scores that Transformers' of that name gives; some also by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz

from lora_np.models import generation

V = 11
STOPS = [3, 7]
PROMPT = np.random.default_rng(8).integers(0, V, (2, 6))


def first_but_one(row, ids):
    """What a prefix_allowed_tokens_fn may say: it looks at the row and at the text."""
    return [int(ids[-1] + 1) % V, row, 3]


RULES = {  # name: arguments, for texts of four rows, two for each of PROMPT's
    "RepetitionPenaltyLogitsProcessor": [(1.3,), (0.5,), (2.0, np.array([0, 0, 2, 4]))],
    "EncoderRepetitionPenaltyLogitsProcessor": [(1.5, PROMPT.repeat(2, 0)), (0.7, PROMPT.repeat(2, 0))],
    "NoRepeatNGramLogitsProcessor": [(1,), (2,), (3,)],
    "EncoderNoRepeatNGramLogitsProcessor": [(1, PROMPT), (2, PROMPT)],
    "SequenceBiasLogitsProcessor": [
        ({(1,): 2.0, (2, 3): -1.5, (1, 2, 3): float("-inf")},),
        ([[[4], -5.0], [[0, 1], 2.0]],),
    ],
    "NoBadWordsLogitsProcessor": [([[1], [2, 3], [7]], STOPS), ([[5], [1, 0]],), ([[1, 1, 1]], 7)],
    "SuppressTokensLogitsProcessor": [([1, 2],), ([],)],
    "SuppressTokensAtBeginLogitsProcessor": [([1, 2], 6), ([0], 7)],
    "MinLengthLogitsProcessor": [(7, STOPS), (3, STOPS), (9, 3)],
    "MinNewTokensLengthLogitsProcessor": [(6, 2, STOPS), (4, 2, STOPS)],
    "ForcedBOSTokenLogitsProcessor": [(4,)],
    "ForcedEOSTokenLogitsProcessor": [(7, STOPS), (9, 3)],
    "ExponentialDecayLengthPenalty": [((2, 1.3), STOPS, 3), ((9, 1.3), STOPS, 3), ((1, 0.9), 7, 1)],
    "PrefixConstrainedLogitsProcessor": [(first_but_one, 2), (first_but_one, 1)],
    "InfNanRemoveLogitsProcessor": [()],
    "LogitNormalization": [()],
    "TemperatureLogitsWarper": [(0.7,), (2.0,)],
    "TopKLogitsWarper": [(1,), (4,), (50,), (1, 3)],
    "TopPLogitsWarper": [(0.3,), (0.9,), (0.0,), (0.1, 3)],
    "TopHLogitsWarper": [(0.3,), (0.8,)],
    "MinPLogitsWarper": [(0.05,), (0.5,), (1.0, 2), (0.0,)],
    "TypicalLogitsWarper": [(0.2,), (0.9,), (0.3, 2)],
    "EpsilonLogitsWarper": [(0.01,), (0.2,), (0.5, 2)],
    "EtaLogitsWarper": [(0.01,), (0.3,), (0.9, 2)],
}
WITH_LEAST = [f"{kind}LogitsWarper" for kind in ("TopK", "TopP", "MinP", "Typical", "Epsilon", "Eta")]
CASES = [(name, arguments) for name, several in RULES.items() for arguments in several]


def theirs(name, arguments, ids, scores):
    """The scores after Transformers' processor."""
    import torch
    import transformers

    as_tensor = [torch.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
    rule = getattr(transformers, name, None) or getattr(transformers.generation.logits_process, name)
    if name in WITH_LEAST and len(arguments) == 2:
        return rule(as_tensor[0], min_tokens_to_keep=arguments[1])(torch.tensor(ids), torch.tensor(scores)).numpy()
    return rule(*as_tensor)(torch.tensor(ids), torch.tensor(scores)).numpy()


@pytest.mark.parity
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda value: value if isinstance(value, str) else "")
@settings(fuzz, max_examples=6)
@given(time=st.integers(1, 9), seed=st.integers(0, 2**16), forbidden=st.floats(0, 0.5), spread=st.floats(0.1, 5))
def test_scores_are_transformers(name, arguments, time, seed, forbidden, spread):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, rng.integers(2, V + 1), (4, time))  # of few tokens, to have repetitions
    scores = rng.normal(0, spread, (4, V))
    scores[rng.random(scores.shape) < forbidden] = -np.inf
    scores[:, 5] = 1.0  # something is left
    if name == "InfNanRemoveLogitsProcessor":
        scores[0, :3] = np.nan, np.inf, 2.0
        scores = scores.astype(np.float32)
    given_ids, given_scores = ids.copy(), scores.copy()
    found = getattr(generation, name)(*arguments)(ids, scores)
    np.testing.assert_array_equal(ids, given_ids)
    np.testing.assert_array_equal(scores, given_scores)  # a processor changes nothing that is not its own
    expected = theirs(name, arguments, given_ids, given_scores)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parity
def test_all_of_transformers_for_text_are_here():
    import transformers.generation.logits_process as there

    own = {n for n in vars(there) if n.endswith(("LogitsProcessor", "LogitsWarper", "Penalty", "Normalization"))}
    elsewhere = ("Whisper", "Watermark", "SynthID", "Bark", "Dia", "Alternating", "Guidance")
    assert {n for n in own if not any(word in n for word in elsewhere)} <= set(dir(generation))


def test_they_are_found_under_transformers_names_though_few_ask_for_them():
    import lora_np

    assert lora_np.MinLengthLogitsProcessor is generation.MinLengthLogitsProcessor
    assert "MinLengthLogitsProcessor" not in lora_np.__all__
    with pytest.raises(AttributeError, match="has no attribute 'MaxLengthLogitsProcessor'"):
        lora_np.MaxLengthLogitsProcessor  # noqa: B018


def penalized(logits, penalty, seen):
    """Keskar et al., 2019, section 4.1, one logit at a time."""
    return [(x / penalty if x > 0 else x * penalty) if i in seen else x for i, x in enumerate(logits)]


@pytest.mark.parametrize("penalty", [1.3, 2.0, 0.5, 1e3])
@pytest.mark.parametrize("seen", [[], [0], [1], [3, 3, 3], [0, 1, 3], [0, 1, 2, 3]])
def test_the_penalty_by_hand(penalty, seen):
    logits, ids = np.array([[1.0, -1.0, 0.5, 2.0]]), np.array([seen], int).reshape(1, -1)
    found = generation.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    np.testing.assert_allclose(found[0], penalized(logits[0], penalty, seen), rtol=1e-15)


def test_ids_that_the_model_has_no_score_for_are_passed_over():
    ids, scores = np.array([[9, 1, 9, 1]]), np.ones((1, 4))
    for rule in (
        generation.RepetitionPenaltyLogitsProcessor(2.0),
        generation.NoRepeatNGramLogitsProcessor(2),
        generation.SuppressTokensLogitsProcessor([9]),
        generation.MinLengthLogitsProcessor(9, 9),
    ):
        assert rule(ids, scores).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("RepetitionPenaltyLogitsProcessor", (0,), "repetition_penalty must be positive, got 0"),
        ("RepetitionPenaltyLogitsProcessor", (float("nan"),), "repetition_penalty must be positive, got nan"),
        ("EncoderRepetitionPenaltyLogitsProcessor", (-1.0, PROMPT), "encoder_repetition_penalty must be positive"),
        ("SequenceBiasLogitsProcessor", ({},), r"sequence_bias must be \{\(token id, ...\): number\} or .*, got \{\}"),
        ("SequenceBiasLogitsProcessor", ({(-1,): 2.0},), "sequence_bias must be"),
        ("SequenceBiasLogitsProcessor", ([[1, 2.0]],), "sequence_bias must be"),
        ("NoBadWordsLogitsProcessor", ([],), "bad_words_ids must be"),
        ("NoBadWordsLogitsProcessor", ([[]],), "bad_words_ids must be"),
        ("ExponentialDecayLengthPenalty", (3, [1], 2), r"must be \(a number of tokens, a factor\), got 3"),
        ("TemperatureLogitsWarper", (float("nan"),), "temperature must be positive, got nan; for greedy text use"),
        ("TopKLogitsWarper", (-1,), "top_k must be at least 1, got -1"),
        ("TopPLogitsWarper", (1.5,), "top_p must be a number from 0 to 1, got 1.5"),
        ("TopHLogitsWarper", (0.0,), r"top_h must be in \(0, 1\], got 0.0"),
        ("MinPLogitsWarper", (-0.5,), "min_p must be a number from 0 to 1, got -0.5"),
        ("TypicalLogitsWarper", (1.0,), r"typical_p must be in \(0, 1\), got 1.0"),
        ("EpsilonLogitsWarper", (1.0,), r"epsilon_cutoff must be in \(0, 1\), got 1.0"),
        ("EtaLogitsWarper", (0.0,), r"eta_cutoff must be in \(0, 1\), got 0.0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(generation, name)(*arguments)


def test_a_bias_for_a_token_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="sequence_bias names token 9, and the model has 4"):
        generation.SequenceBiasLogitsProcessor({(9,): 1.0})(np.array([[1]]), np.ones((1, 4)))


def test_a_function_that_allows_nothing_is_named_with_its_row():
    rule = generation.PrefixConstrainedLogitsProcessor(lambda row, ids: [1] if row == 0 else [], 2)
    with pytest.raises(ValueError, match="should list some of the model's 5 tokens for row 1, got"):
        rule(np.ones((4, 3), int), np.ones((4, 5)))


@pytest.mark.parametrize("answer", [None, [5], [-1], [0.5], "ab"])
def test_a_function_that_allows_what_are_no_tokens_is_named(answer):
    rule = generation.PrefixConstrainedLogitsProcessor(lambda row, ids: answer, 1)
    with pytest.raises(ValueError, match="prefix_allowed_tokens_fn should list some of the model's 5 tokens for row 0"):
        rule(np.ones((1, 3), int), np.ones((1, 5)))


def test_a_list_applies_one_after_another():
    double, one_more = (lambda ids, scores: scores * 2), (lambda ids, scores: scores + 1)
    rules = generation.LogitsProcessorList([double, one_more])
    np.testing.assert_array_equal(rules(np.ones((1, 1), int), np.full((1, 3), 5.0)), np.full((1, 3), 11.0))


def test_a_processor_that_returns_no_scores_is_named():
    def forgets(ids, scores):
        scores[:, 0] = 0

    with pytest.raises(ValueError, match=r"forgets should return scores of shape \(1, 3\), got array\(None"):
        generation.LogitsProcessorList([forgets])(np.ones((1, 1), int), np.ones((1, 3)))


def test_an_unwritten_processor_says_what_to_write():
    with pytest.raises(NotImplementedError, match="write __call__"):
        generation.LogitsProcessor()(None, None)
