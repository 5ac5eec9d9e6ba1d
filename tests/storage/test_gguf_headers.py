"""GGUF headers made by hand: sound ones, and lies about every length, type and place."""

import struct
import time
import tracemalloc

import numpy as np
import pytest
from gguf_helpers import the_gguf_package

from lora_np.storage import open_gguf
from lora_np.storage.gguf import _codings, _Header

gguf = the_gguf_package()
Kind, Type = gguf.GGMLQuantizationType, gguf.GGUFValueType


def text(value):
    """A string as a GGUF file has it."""
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, payload):
    """A key-value."""
    return text(key) + struct.pack("<I", kind) + payload


def entry(name, dimensions, kind, offset, count=None):
    """A tensor in the header; `count`: a number of dimensions that is not true."""
    count = len(dimensions) if count is None else count
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", count, *dimensions, kind, offset)


def raw_file(pairs, entries=(), data=b"", alignment=32, **lies):
    """A file from its parts; `lies`: magic, version, tensor_count, pair_count other than the true ones."""
    says = {"magic": b"GGUF", "version": 3, "tensor_count": len(entries), "pair_count": len(pairs)} | lies
    start = says["magic"] + struct.pack("<IQQ", says["version"], says["tensor_count"], says["pair_count"])
    header = start + b"".join(pairs) + b"".join(entries)
    return header + bytes(-len(header) % alignment if entries else 0) + data


NAME = pair("general.name", Type.STRING, text("x"))
TOKENS = pair("tokens", Type.ARRAY, struct.pack("<IQ", Type.STRING, 3) + text("a") + text("b") + text("é"))
ONE = entry("one", (4, 2), Kind.F32, 0)
TWO = entry("two", (32,), Kind.Q8_0, 32)
DATA = np.arange(8, dtype="<f4").tobytes() + np.float16(0.5).tobytes() + bytes(range(32))
SOUND = raw_file([NAME, TOKENS], [ONE, TWO], DATA)


def array(kind, count, payload=b""):
    return pair("a", Type.ARRAY, struct.pack("<IQ", kind, count) + payload)


def nested(depth):
    return pair("a", Type.ARRAY, struct.pack("<IQ", Type.ARRAY, 1) * depth + struct.pack("<IQ", Type.UINT8, 0))


def aligned_to(kind, payload):
    return raw_file([pair("general.alignment", kind, payload)], [ONE], DATA)


def one(*args, **options):
    """A file with one tensor in its header, and the data of two."""
    return raw_file([NAME], [entry("one", *args, **options)], DATA)


@pytest.mark.parametrize(("values", "fits"), [(6, True), (7, False)])
def test_values_in_arrays_are_counted(tmp_path, monkeypatch, values, fits):
    """As objects they take many times the file's memory. Strings count twice, arrays in arrays more."""
    monkeypatch.setattr("lora_np.storage.gguf.MAX_VALUES", 6 + 2 * 3)
    (tmp_path / "x").write_bytes(
        raw_file([TOKENS, pair("b", Type.ARRAY, struct.pack("<IQ", 0, values) + bytes(values))])
    )
    if fits:
        assert open_gguf(tmp_path / "x").metadata["b"] == [0] * values
    else:
        with pytest.raises(ValueError, match=r"x is not a sound GGUF file: b: more than 12 values in arrays"):
            open_gguf(tmp_path / "x")
    (tmp_path / "x").write_bytes(raw_file([nested(1)]))
    with pytest.raises(ValueError, match="more than 12 values"):
        open_gguf(tmp_path / "x")


UNREADABLE = [kind for kind in gguf.GGML_QUANT_SIZES if not _codings()[kind].decode]


class TestSound:
    def test_arrays_in_arrays_keep_their_form(self, tmp_path):
        value = [[1, 2], [], [3]]
        inner = [struct.pack("<IQ", Type.INT32, len(v)) + struct.pack(f"<{len(v)}i", *v) for v in value]
        pairs = [pair("a", Type.ARRAY, struct.pack("<IQ", Type.ARRAY, 3) + b"".join(inner))]
        (tmp_path / "x").write_bytes(raw_file(pairs))
        assert open_gguf(tmp_path / "x").metadata == {"a": value}

    def test_an_empty_array_is_an_empty_list(self, tmp_path):
        pairs = [pair(str(kind), Type.ARRAY, struct.pack("<IQ", kind, 0)) for kind in Type]
        (tmp_path / "x").write_bytes(raw_file(pairs))
        assert open_gguf(tmp_path / "x").metadata == {str(kind): [] for kind in Type}

    def test_the_file_that_the_lies_are_about_is_sound(self, tmp_path):
        for version in (2, 3):
            (tmp_path / "x").write_bytes(raw_file([NAME, TOKENS], [ONE, TWO], DATA, version=version))
            file = open_gguf(tmp_path / "x")
            assert file.path == tmp_path / "x"
            assert file.metadata == {"general.name": "x", "tokens": ["a", "b", "é"]}
            assert file.shapes == {"one": (2, 4), "two": (32,)}
            np.testing.assert_array_equal(file.read("one"), np.arange(8).reshape(2, 4))
            np.testing.assert_array_equal(file.read("two"), np.arange(32) / 2)

    def test_four_arrays_in_each_other_and_room_between_tensors_are_no_lies(self, tmp_path):
        (tmp_path / "x").write_bytes(raw_file([nested(3)], [TWO], DATA + b"more"))
        file = open_gguf(tmp_path / "x")
        assert file.metadata == {"a": [[[[]]]]}
        np.testing.assert_array_equal(file.read("two"), np.arange(32) / 2)

    @pytest.mark.parametrize("kind", UNREADABLE, ids=lambda kind: kind.name)
    def test_a_coding_that_the_package_can_not_decode_is_named_and_the_others_are_read(self, tmp_path, kind):
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        entries = [entry("a", (block,), kind, 0), entry("b", (1,), Kind.F32, 512)]
        (tmp_path / "x").write_bytes(raw_file([], entries, bytes(516)))
        file = open_gguf(tmp_path / "x")
        assert file.read("b") == 0
        message = f"x: tensor a is stored as {kind.name}, which cannot be dequantised here"
        for read in (lambda: file.read("a"), lambda: file.read_into("a", np.zeros(block))):
            with pytest.raises(ValueError, match=message):
                read()


HUGE = (2**31, 2**63 - 1, 2**63, 2**64 - 1)
LIES = {
    "empty": (b"", "4 x 1 bytes should follow, but only 0 are left"),
    "wrong magic": (raw_file([], magic=b"GGML"), "it should be b'GGUF', not b'GGML'"),
    "version 0": (raw_file([], version=0), "version 0 is not known"),
    "version 1": (raw_file([], version=1), "version 1 is not known; versions 2 and 3 are"),
    "version 4": (raw_file([], version=4), "version 4 is not known"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "the file is big-endian"),
    **{f"{n} pairs": (raw_file([NAME], pair_count=n), f"the key-values: {n} x 13 bytes should follow") for n in HUGE},
    **{f"{n} tensors": (raw_file([NAME], tensor_count=n), f"the list of tensors: {n} x 32 bytes") for n in HUGE},
    "one pair too many": (raw_file([NAME], pair_count=2), "is it truncated"),
    "one pair too few": (raw_file([NAME, TOKENS], [ONE], DATA, pair_count=1), "not a sound GGUF file"),
    **{f"key of {n}": (raw_file([struct.pack("<Q", n) + bytes(5)]), f"the key-values: {n} x 1 bytes should follow")
       for n in (6, 2**60, *HUGE)},
    **{f"string of {n}": (raw_file([pair("a", Type.STRING, struct.pack("<Q", n))]), f"a: {n} x 1 bytes")
       for n in (1, 2**60, *HUGE)},
    **{f"{n} x {kind.name}": (raw_file([array(kind, n, bytes(64))]), f"a: {n} x ")
       for kind in Type for n in (2**60, *HUGE)},
    "array of one string too many": (raw_file([array(Type.STRING, 3, bytes(16))]), "a: 3 x 8 bytes"),
    "key twice": (raw_file([NAME, TOKENS, NAME]), "general.name: this key stands twice"),
    "key not UTF-8": (raw_file([pair(b"\xff", Type.UINT8, b"1")]), "a string is not UTF-8"),
    "string not UTF-8": (raw_file([pair("a", Type.STRING, text(b"\xc3"))]), "a: a string is not UTF-8"),
    "token not UTF-8": (raw_file([array(Type.STRING, 1, text(b"\x80"))]), "a: a string is not UTF-8"),
    "type 13": (raw_file([pair("a", 13, bytes(8))]), "a: type 13 of a value is not known"),
    "array of type 99": (raw_file([array(99, 1, bytes(8))]), "a: type 99 of a value is not known"),
    "boolean 2": (raw_file([pair("a", Type.BOOL, b"\2")]), "a: a boolean should be 0 or 1, not 2"),
    "boolean 2 in an array": (raw_file([array(Type.BOOL, 3, b"\0\2\1")]), "a boolean should be 0 or 1, not 2"),
    "5 arrays in each other": (raw_file([nested(4)]), "a: more than 4 arrays within each other"),
    "a million arrays in each other": (raw_file([nested(10**6)]), "more than 4 arrays within each other"),
    "alignment 0": (aligned_to(Type.UINT32, bytes(4)), "general.alignment: it should be a power of two, not 0"),
    "alignment 48": (aligned_to(Type.UINT32, struct.pack("<I", 48)), "should be a power of two, not 48"),
    "alignment -1": (aligned_to(Type.INT32, struct.pack("<i", -1)), "should be a power of two, not -1"),
    "alignment 32.0": (aligned_to(Type.FLOAT32, struct.pack("<f", 32)), "should be a power of two, not 32.0"),
    "alignment true": (aligned_to(Type.BOOL, b"\1"), "should be a power of two, not True"),
    "alignment text": (aligned_to(Type.STRING, text("32")), "should be a power of two, not '32'"),
    "alignment 2**31": (aligned_to(Type.UINT32, struct.pack("<I", 2**31)), "tensor one: it should end at byte"),
    "no dimensions": (one((), Kind.F32, 0), "tensor one: 1 to 4 dimensions are possible, not 0"),
    "5 dimensions": (one((1,) * 5, Kind.F32, 0), "tensor one: 1 to 4 dimensions are possible, not 5"),
    "2**32 - 1 dimensions": (one((1,), Kind.F32, 0, count=2**32 - 1), "1 to 4 dimensions are possible, not 4294967295"),
    "a dimension is 0": (one((4, 0), Kind.F32, 0), r"tensor one: a dimension is 0: \(0, 4\)"),
    **{f"{n} rows": (one((4, n), Kind.F32, 0), "tensor one: it should end at byte") for n in (10**6, 2**62, *HUGE)},
    "product 2**64 + 8": (one((2**32, 2**32), Kind.I8, 0), "tensor one: it should end at byte"),
    "four times 2**63": (one((2**63,) * 4, Kind.F32, 0), "tensor one: it should end at byte"),
    "no whole blocks": (one((8, 4), Kind.Q8_0, 0), "rows of 8 are no whole blocks of 32, as Q8_0 has them"),
    "coding 4": (one((32,), 4, 0), "tensor one: coding 4 is not known to the installed gguf package"),
    "coding 2**32 - 1": (one((32,), 2**32 - 1, 0), "coding 4294967295 is not known"),
    "offset not aligned": (one((4,), Kind.F32, 8), "its offset 8 is not a multiple of 32"),
    **{f"offset {n}": (one((4,), Kind.F32, n), "tensor one: it should end at byte")
       for n in (96, 2**31, 2**63, 2**64 - 32)},
    "name twice": (raw_file([], [ONE, ONE], DATA), "tensor one: this name stands twice"),
    "name not UTF-8": (raw_file([], [entry(b"\xff", (4,), Kind.F32, 0)], DATA), "a string is not UTF-8"),
    "same place": (raw_file([], [ONE, entry("two", (4,), Kind.F32, 0)], DATA), "tensor two lies over tensor one"),
    "overlap": (raw_file([], [entry("two", (2,), Kind.F32, 32), entry("one", (9,), Kind.F32, 0)], DATA),
                "tensor two lies over tensor one"),
}  # fmt: skip


def refused(path, content):
    """The message with which a file is refused, quickly and with little memory beside the file."""
    path.write_bytes(content)
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        with pytest.raises(ValueError, match=r".") as error:
            open_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begin < 1
    assert peak < 1e6 + 2 * len(content)
    assert str(path) in str(error.value)
    return error


class TestLies:
    @pytest.mark.parametrize(("content", "message"), LIES.values(), ids=LIES)
    def test_a_lie_is_refused_with_the_files_name(self, tmp_path, content, message):
        assert refused(tmp_path / "x", content).match(message)

    def test_every_truncation_is_refused(self, tmp_path):
        for size in range(len(SOUND)):
            refused(tmp_path / "x", SOUND[:size])

    def test_a_message_stays_short_when_a_key_is_long(self, tmp_path):
        error = refused(tmp_path / "x", raw_file([pair("k" * 10**6, 99, b"1")]))
        assert len(str(error.value)) < 500

    def test_a_file_that_shrinks_while_it_is_read_is_refused(self, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(SOUND)
        with open(path, "rb") as file:
            header = _Header(path, file)
            path.write_bytes(SOUND[:10])
            with pytest.raises(ValueError, match=r"x is not a sound GGUF file: .*has become shorter while it was read"):
                header.start()
