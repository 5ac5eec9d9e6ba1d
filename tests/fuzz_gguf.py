"""GGUF files from any metadata and shapes, also from those that no writer would write."""

import struct

from fuzz_mutations import ODD, mutated, mutated_bytes

from lora_np.storage import open_gguf

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = 0, 4, 5, 6, 7, 8, 9, 10, 11, 12
FORMS = {U8: "B", U32: "I", I32: "i", F32: "f", U64: "Q", I64: "q", F64: "d", BOOL: "?"}


def text(value):
    raw = str(value).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def kind_of(value):
    """The type with which a value is written."""
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        fitting = ((U32, 0, 2**32), (I64, -(2**63), 2**63), (U64, 0, 2**64))
        return next((kind for kind, low, high in fitting if low <= value < high), F64)
    return F32 if isinstance(value, float) and abs(value) < 1e38 else F64 if isinstance(value, float) else STRING


def written(value):
    """(type, bytes) of a value."""
    if isinstance(value, list):
        kinds = {kind_of(entry) for entry in value if not isinstance(entry, (list, dict))}
        kind = kinds.pop() if len(kinds) == 1 else STRING
        return ARRAY, struct.pack("<IQ", kind, len(value)) + b"".join(_packed(kind, entry) for entry in value)
    return kind_of(value), _packed(kind_of(value), value)


def _packed(kind, value):
    if kind == STRING:
        return text(value)
    return struct.pack(f"<{FORMS[kind]}", min(float(value), 1e300) if kind in (F32, F64) and value > 1e300 else value)


def parts(path):
    """(metadata, [[name, dimensions, coding, offset], ...], data) of a sound file of plain floats."""
    file, raw = open_gguf(path), path.read_bytes()
    start = min(tensor.start for tensor in file.tensors.values())
    entries = [[name, list(t.shape[::-1]), 0, t.start - start] for name, t in file.tensors.items()]
    return file.metadata, entries, raw[start:]


def file_of(metadata, entries, data):
    """The bytes of a file with this header."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(metadata))
    for key, value in metadata.items():
        kind, raw = written(value)
        header += text(key) + struct.pack("<I", kind) + raw
    for name, dimensions, coding, offset in entries:
        header += text(name) + struct.pack("<I", len(dimensions))
        header += b"".join(struct.pack("<Q", n) for n in dimensions) + struct.pack("<IQ", coding, offset)
    return header + bytes(-len(header) % 32) + data


def mutated_gguf(sound, rng):
    """A file with other metadata, other tensors or other bytes. sound: what `parts` gave."""
    metadata, entries, data = sound
    kind = rng.randrange(4)
    if kind == 0:
        return mutated_bytes(file_of(*sound), rng)
    if kind < 3:
        changed = mutated(metadata, rng)
        changed = changed if isinstance(changed, dict) else {}
        return file_of({str(key): value for key, value in changed.items() if written_well(value)}, entries, data)
    changed = [list(entry) for entry in entries]
    entry = rng.choice(changed)
    entry[rng.randrange(4)] = rng.choice(ODD)
    entry[1] = entry[1] if isinstance(entry[1], list) else [entry[1], 2]
    numbers = [n % 2**64 if isinstance(n, int) else 1 for n in entry[1]][:6]
    coding, offset = (n if isinstance(n, int) else 0 for n in entry[2:])
    entry[:] = [entry[0], numbers, coding % 2**32, offset % 2**64]
    return file_of(metadata, changed, data)


def written_well(value):
    """Can this value be written at all?"""
    try:
        written(value)
    except (struct.error, ValueError, OverflowError, TypeError):
        return False
    return True
