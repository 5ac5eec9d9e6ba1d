"""Beam search: for each text several continuations are followed, and the likeliest as a whole are returned.

For one row of the batch there are K running beams with the scores Σ log p of their tokens. In each step, every beam's V
continuations are compared, and the best of these K·V stay. One that ends is finished, with the score
Σ log p / (its new tokens)**length_penalty; the K best finished ones are kept, and running ones take their places. As in
Transformers token for token, which counts in float32 and marks what is out of the question by -1e9.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .output import GenerateOutput
from .processors import log_softmax
from .run import Run

OUT = np.float32(-1e9)


def beam_search(run: Run) -> GenerateOutput:
    """The best `num_return_sequences` texts of each row, best first."""
    if run.streamer is not None:
        raise ValueError(f"streamer: with num_beams={run.options.num_beams} there is no text until all is done")
    search = BeamSearch(run)
    while search.goes_on:
        search.step()
    return search.output()


class BeamSearch:
    """The beams of a call: B rows of the batch, K beams each, texts of at most L tokens, N of them new.

    running (B, K, L), running_scores (B, K)      the texts that go on, and their Σ log p
    running_rows (B, K, N)                        the row, of all B·K, in which each of their tokens was found
    texts, scores, rows, finished (B, K)          the same for what has ended; where less than K have, not `finished`
    hopeful (B, 1)                                may a running text still become better than a finished one?
    """

    def __init__(self, run: Run) -> None:
        self.run, options, text = run, run.options, run.text
        self.K = K = options.num_beams
        self.B, self.L, self.begin = len(text.ids) // K, options.max_length, text.length
        self.most = max(2, 1 + len(run.stops)) * K  # so many continuations: K of them are no ends
        self.running = np.full((self.B, K, self.L), self._filling(), np.int64)
        self.running[:, :, : self.begin] = text.ids.reshape(self.B, K, -1)
        self.running_scores = np.zeros((self.B, K), np.float32)
        self.running_scores[:, 1:] = OUT  # they are all the same in the beginning
        self.running_rows = np.full((self.B, K, self.L - self.begin), -1)
        self.texts, self.rows = self.running.copy(), self.running_rows.copy()
        self.scores = np.full((self.B, K), OUT)
        self.finished, self.hopeful = np.zeros((self.B, K), bool), np.ones((self.B, 1), bool)
        self.goes_on = self.begin < self.L

    def _filling(self):
        """What stands behind a text's end."""
        if len(self.run.stops):
            return self.run.pad or int(self.run.stops[0])
        return -1 if self.run.pad is None else self.run.pad

    def step(self) -> None:
        """One token more."""
        length = self.run.text.length
        log_p = self.run.processed(log_softmax(self.run.next_logits().astype(np.float32)))
        totals = (log_p.reshape(self.B, self.K, -1) + self.running_scores[:, :, None]).reshape(self.B, -1)
        best = self._best(totals)
        found = {
            "scores": np.take_along_axis(totals, best, axis=1),
            "texts": _of(self.running, beams := best // log_p.shape[1]),
            "rows": _of(self.running_rows, beams),
        }
        found["texts"][:, :, length] = best % log_p.shape[1]
        found["rows"][:, :, length - self.begin] = beams + np.arange(self.B)[:, None] * self.K
        ended = self.run.finished(found["texts"][:, :, : length + 1].reshape(-1, length + 1)) | (length + 1 >= self.L)
        ended = ended.reshape(self.B, self.most)
        self._go_on_with(found, ended)
        self._finish(found, ended, length + 1 - self.begin)
        self._follow(length + 1)
        self._decide(ended, length + 1 - self.begin)

    def _best(self, totals):
        """The continuations (B, most) to look at, best first: the best, or drawn at random."""
        if not self.run.options.do_sample:
            return _highest(totals, self.most)
        drawn = without_putting_back(totals, self.most, self.run.rng)
        return np.take_along_axis(drawn, _highest(np.take_along_axis(totals, drawn, axis=1), self.most), axis=1)

    def _go_on_with(self, found, ended):
        """The K best that have not ended run on."""
        scores = found["scores"] + ended.astype(np.float32) * OUT
        next_beams = _highest(scores, self.K)
        self.running, self.running_rows = _of(found["texts"], next_beams), _of(found["rows"], next_beams)
        self.running_scores = np.take_along_axis(scores, next_beams, axis=1)

    def _finish(self, found, ended, new):
        """Of what has ended before and now, the K best stay. Now: of the K best continuations, those that end."""
        ends = ended & (np.arange(self.most) < self.K)
        full = self.finished.all(axis=1, keepdims=True) & (self.run.options.early_stopping is True)
        scores = found["scores"] / np.float32(float(new) ** self.run.options.length_penalty)
        for out in (full, ~self.hopeful, ~ends):
            scores = scores + out.astype(np.float32) * OUT
        scores = np.concatenate([self.scores, scores], axis=1)
        best = _highest(scores, self.K)
        self.scores = np.take_along_axis(scores, best, axis=1)
        self.texts = _of(np.concatenate([self.texts, found["texts"]], axis=1), best)
        self.rows = _of(np.concatenate([self.rows, found["rows"]], axis=1), best)
        self.finished = np.take_along_axis(np.concatenate([self.finished, ends], axis=1), best, axis=1)

    def _follow(self, length):
        """Let the run's text and cache be those of the beams that run on."""
        run, rows = self.run, self.running_rows[:, :, length - 1 - self.begin].reshape(-1)
        run.text.append(run.text.ids[:, -1])
        run.text.ids = self.running[:, :, :length].reshape(self.B * self.K, length)
        if run.cache is not None:
            run.cache.reorder(rows)

    def _decide(self, ended, new):
        """Does it go on? Not if no running text can become better, or all have ended."""
        options = self.run.options
        to_the_end = options.early_stopping == "never" and options.length_penalty > 0
        length = self.L - self.begin if to_the_end else new
        possible = self.running_scores[:, :1] / np.float32(float(length) ** options.length_penalty)
        worst = np.where(self.finished, self.scores.min(axis=1, keepdims=True), OUT)
        self.hopeful = self.hopeful & (possible > worst).any(axis=1, keepdims=True)
        done = bool(self.finished.all()) and options.early_stopping is True
        self.goes_on = bool(self.hopeful.any()) and not done and not bool(ended.all())

    def output(self) -> GenerateOutput:
        """The best texts, no longer than the longest of them."""
        count = self.run.options.num_return_sequences
        texts, rows = (part[:, :count].reshape(self.B * count, -1) for part in (self.texts, self.rows))
        longest = int((rows >= 0).sum(axis=1).max(initial=0))
        scores: Any = self.scores[:, :count].reshape(-1) if self.run.asks_for("output_scores") else None
        sequences = texts[:, : self.begin + longest]
        return GenerateOutput(sequences, scores, beam_indices=rows[:, :longest], past_key_values=self.run.cache)


def without_putting_back(scores: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k places (B, k) of each row, drawn one after another by softmax(scores), none twice.

    They are those of the k highest scores + Gumbel noise (Kool et al., 2019).
    """
    return _highest(scores + rng.gumbel(size=scores.shape), k)


def _highest(scores: np.ndarray, k: int) -> np.ndarray:
    """The places (B, k) of the k highest of each row, highest first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _of(parts: np.ndarray, beams: np.ndarray) -> np.ndarray:
    """parts (B, K, ...) of the beams (B, k)."""
    return np.take_along_axis(parts, beams[:, :, None], axis=1)
