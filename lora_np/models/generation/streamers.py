"""What shows a text while it is written: `generate(..., streamer=TextStreamer(tokenizer))`."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Iterator
from queue import Queue
from typing import Any

import numpy as np

HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2CEAF), (0x2F800, 0x2FA1F))


class BaseStreamer:
    """What a streamer has: `put`, which `generate` calls with the prompt's ids (B, T), then with each step's (B,)."""

    def put(self, value: np.ndarray) -> None:
        """Take some ids."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it does with tokens: write put")

    def end(self) -> None:
        """The text is written."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it does at the end: write end")


class TextStreamer(BaseStreamer):
    """Prints a text as it is written, as soon as what is to be seen cannot change any more; one row only.

    skip_prompt: only what is new. decode_kwargs: for the tokenizer's `decode`, such as skip_special_tokens=True
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer, self.skip_prompt, self.decode_kwargs = tokenizer, skip_prompt, decode_kwargs
        self._forget()

    def _forget(self):
        self.ids, self.shown, self.at_prompt = [], 0, True

    def put(self, value: np.ndarray) -> None:
        """Print what the tokens complete."""
        value = np.asarray(value)
        if (value.ndim > 1 and len(value) > 1) or (value.ndim == 1 and len(value) > 1 and not self.at_prompt):
            raise ValueError(f"{type(self).__name__} shows one text, not {len(value)} at once")
        prompt, self.at_prompt = self.at_prompt, False
        if prompt and self.skip_prompt:
            return
        self.ids += value.reshape(-1).tolist()
        text = self._text(self.ids)
        end = max(self.shown, complete(text, self.shown))
        seen, self.shown = text[self.shown : end], end
        if text.endswith("\n"):  # the last token stays: what follows is decoded as a part of the text
            self.ids = self.ids[-1:]
            self.shown = len(self._text(self.ids))
        self.on_finalized_text(seen)

    def end(self) -> None:
        """Print the rest, and end the line."""
        rest = self._text(self.ids)[self.shown :]
        self._forget()
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """What is done with a piece of text; subclasses may do something else."""
        print(text, end="\n" if stream_end else "", flush=True)

    def _text(self, ids):
        return self.tokenizer.decode(ids, **self.decode_kwargs) if ids else ""


class TextIteratorStreamer(TextStreamer):
    """The pieces of a text, to iterate over, while another thread writes it.

    timeout: how many seconds to wait for a piece, until `queue.Empty` is raised; None: for ever
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: Queue[str | None] = Queue()
        self.stop_signal, self.timeout = None, timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put a piece where the reader finds it."""
        self.text_queue.put(text)
        if stream_end:
            self.text_queue.put(self.stop_signal)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self.text_queue.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece


class AsyncTextIteratorStreamer(TextStreamer):
    """As `TextIteratorStreamer`, for `async for`; to be made inside a coroutine. timeout: then TimeoutError."""

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.loop, self.stop_signal, self.timeout = asyncio.get_running_loop(), None, timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Have the reader's thread find a piece."""
        for piece in (text, self.stop_signal)[: 1 + stream_end]:
            self.loop.call_soon_threadsafe(self.text_queue.put_nowait, piece)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        async with asyncio.timeout(self.timeout):
            piece = await self.text_queue.get()
        if piece is None:
            raise StopAsyncIteration
        return piece


def complete(text: str, shown: int) -> int:
    """How much of a text may be shown, of which `shown` characters have been: the next token may change the rest.

    All of it at the end of a line, behind a Chinese character, and if the rest is letters, marks, numbers and spaces;
    otherwise up to the last space: what is behind may be half a character, or begin something.
    """
    if not text:
        return 0
    if text.endswith("\n") or any(first <= ord(text[-1]) <= last for first, last in HAN):
        return len(text)
    if all(char.isspace() or unicodedata.category(char)[0] in "LMN" for char in text[shown:]):
        return len(text)
    return text.rfind(" ") + 1
