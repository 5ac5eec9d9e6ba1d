"""Streamers: what is shown is the text, in Transformers' pieces; threads end."""

import asyncio
import queue
import threading

import numpy as np
import pytest
from generation_helpers import both_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, some_ids, tiny_model

from lora_np import AsyncTextIteratorStreamer, BaseStreamer, ByteTokenizer, TextIteratorStreamer, TextStreamer


class Pieces(TextStreamer):
    """Keeps the pieces."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.pieces, self.ends = [], []

    def on_finalized_text(self, text, stream_end=False):
        self.pieces.append(text)
        self.ends.append(stream_end)


def streamed(streamer, prompt, tokens):
    streamer.put(prompt)
    for token in tokens:
        streamer.put(token)
    streamer.end()


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Ours, and Transformers', of one vocabulary."""
    return both_tokenizers(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parity
@settings(fuzz, max_examples=30)
@given(st.lists(st.sampled_from(["a", " b", "the", "\n", ".", " 京", "é", "<", "</s>", "low ", " moon"]), max_size=14))
def test_the_pieces_are_transformers(tokenizers, words):
    import torch
    import transformers

    class Theirs(transformers.TextStreamer):
        def on_finalized_text(self, text, stream_end=False):
            pieces.append(text)

    ours, theirs = tokenizers
    ids = np.array(ours.encode("low" + "".join(words), add_special_tokens=False))
    for options in ({}, {"skip_prompt": True}, {"skip_special_tokens": True}):
        pieces = []
        streamed(Theirs(theirs, **options), torch.tensor(ids[None, :1]), [torch.tensor([i]) for i in ids[1:]])
        own = Pieces(ours, **options)
        streamed(own, ids[None, :1], [np.array([i]) for i in ids[1:]])
        assert own.pieces == pieces
        assert own.ends == [False] * (len(own.ends) - 1) + [True]


def test_a_text_is_printed_as_it_is_decoded(capsys):
    model, tokenizer = tiny_model(vocab_size=256, eos_token_id=None), ByteTokenizer()
    ids = some_ids(model.config, batch=1, time=3)
    expected = model.generate(ids, max_new_tokens=8)
    found = model.generate(ids, max_new_tokens=8, streamer=TextStreamer(tokenizer))
    np.testing.assert_array_equal(found, expected)
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode(expected[0]).rstrip("\n")


def test_another_thread_reads_what_one_writes():
    model, tokenizer = tiny_model(vocab_size=256, eos_token_id=None), ByteTokenizer()
    ids = some_ids(model.config, batch=1, time=3)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    options = {"inputs": ids, "max_new_tokens": 8, "streamer": streamer}
    thread = threading.Thread(target=model.generate, kwargs=options)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(model.generate(ids, max_new_tokens=8)[0, 3:])


def test_a_reader_does_not_wait_for_a_writer_that_failed():
    model = tiny_model(vocab_size=256)
    model.transformer.wpe.weight.data[:] = np.nan
    streamer = TextIteratorStreamer(ByteTokenizer(), timeout=60)
    with pytest.raises(FloatingPointError):
        model.generate([[65, 66]], max_new_tokens=2, streamer=streamer)
    assert "".join(streamer) == "AB"


def test_waiting_ends():
    with pytest.raises(queue.Empty):
        next(TextIteratorStreamer(ByteTokenizer(), timeout=0.01))


def test_a_coroutine_reads_what_a_thread_writes():
    model, tokenizer = tiny_model(vocab_size=256, eos_token_id=None), ByteTokenizer()

    async def read(**options):
        streamer = AsyncTextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        thread = threading.Thread(target=model.generate, kwargs={**options, "streamer": streamer})
        thread.start()
        text = "".join([piece async for piece in streamer])
        thread.join()
        return text

    text = asyncio.run(read(inputs=[[65, 66]], max_new_tokens=8))
    assert text == tokenizer.decode(model.generate([[65, 66]], max_new_tokens=8)[0, 2:])


def test_a_coroutine_does_not_wait_for_ever():
    async def read():
        await AsyncTextIteratorStreamer(ByteTokenizer(), timeout=0.01).__anext__()

    with pytest.raises(TimeoutError):
        asyncio.run(read())


def test_one_text_at_a_time_is_shown():
    with pytest.raises(ValueError, match="TextStreamer shows one text, not 2 at once"):
        tiny_model(vocab_size=256).generate([[1], [2]], max_new_tokens=2, streamer=TextStreamer(ByteTokenizer()))


def test_a_streamer_may_be_anything_with_put_and_end():
    class Counts:
        shapes, ended = (), 0

        def put(self, value):
            self.shapes += (value.shape,)

        def end(self):
            self.ended += 1

    counts = Counts()
    tiny_model(eos_token_id=None).generate([[1, 2], [3, 4]], max_new_tokens=2, streamer=counts)
    assert (counts.shapes, counts.ended) == (((2, 2), (2,), (2,)), 1)


def test_beams_have_nothing_to_stream():
    with pytest.raises(ValueError, match="streamer: with num_beams=2 there is no text until all is done"):
        tiny_model().generate([[1]], max_new_tokens=2, num_beams=2, streamer=TextStreamer(ByteTokenizer()))
    with pytest.raises(ValueError, match="num_beams=2: beams have no tokens until all is done, use generate"):
        tiny_model().stream([[1]], max_new_tokens=2, num_beams=2)


@pytest.mark.parametrize("name", ["put", "end"])
def test_an_unwritten_streamer_says_what_to_write(name):
    with pytest.raises(NotImplementedError, match=f"write {name}"):
        getattr(BaseStreamer(), name)(*[None] * (name == "put"))
