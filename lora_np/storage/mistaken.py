"""Files that are not what their names say: what they are instead, by how they begin."""

from collections.abc import Mapping

INSTEAD = {  # how the file begins, in lower case: what it is, and what to do
    b"version https://git-lfs": "it is a pointer of Git LFS, which stands for the file: run  git lfs pull  to get that",
    b"<!doctype html": "it is a web page, which a download may give that needs a login",
    b"<html": "it is a web page, which a download may give that needs a login",
    b"gguf": "it is a GGUF file",
    b"pk\x03\x04": "it is a zip archive; if torch.save wrote it, it is a pickle, which is not read here",
    b"\x1f\x8b": "it is packed with gzip: unpack it first",
}


def instead(beginning: bytes, also: Mapping[bytes, str] | None = None) -> str | None:
    """What a file is that begins so, if it is one of these; None if it may be anything.

    also: other beginnings, in lower case, or other sentences for these: what to do depends on what was looked for.
    """
    start = beginning.removeprefix(b"\xef\xbb\xbf").lstrip(b" \r\n\t")[:64].lower()
    known = INSTEAD | dict(also or {})
    return next((what for begins, what in known.items() if start.startswith(begins)), None)
