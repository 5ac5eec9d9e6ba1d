"""Text from ids that arrive one by one."""

LONGEST, KEPT = 32, 16  # of the tail that is decoded again for each new id: its limit, and what is left then


def stream_text(decode, ids):
    r"""Yield pieces of text that together are decode(list(ids)), in time linear in the number of ids.

    Only a tail of the ids is decoded, twice: without the newest id and with it. What the second text has more is new.
    The tail starts with the ids of the piece before, as many decoders treat the first token of a text differently.

    Half a character decodes to U+FFFD, so that sign is held back at the end of a text until the next ids settle what
    it is; at most three of them, as a character has at most four bytes. Bytes that are no text at all can keep the
    end unsettled for ever, so the tail is cut at `LONGEST` ids. That changes nothing: a UTF-8 decoder that starts
    anywhere agrees, after three bytes, with one that started earlier.

    Vocabularies with single bytes for rare characters (Llama 2) show U+FFFD for all bytes of a row of them while its
    last character is not whole: nothing is given out then. Only if it never becomes whole do the pieces differ from
    the text, in which characters that are out have turned into U+FFFD.
    """
    tail, context, shown, text = [], 0, "", ""  # `shown`: the part of the tail's text that is out
    for i in ids:
        tail.append(i)
        text = decode(tail)
        settled = _settled(text)
        if len(settled) > len(shown) and settled.startswith(shown):
            yield settled[len(shown) :]
            shown = settled
            if settled == text:
                tail = tail[context:]
                context, shown = len(tail), decode(tail)
                text = shown
        if len(tail) >= LONGEST:
            waiting = len(text) - len(shown)
            tail = tail[-KEPT:]
            context, text = len(tail), decode(tail)
            shown = text[: len(text) - waiting]
    if len(text) > len(shown):
        yield text[len(shown) :]


def _settled(text):
    """`text` without up to three U+FFFD at its end."""
    return text[: max(len(text.rstrip("\ufffd")), len(text) - 3)]
