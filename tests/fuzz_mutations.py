"""Files made wrong: JSON whose values, names and nesting are odd, and bytes that lie about lengths."""

import copy
import json
import math
import struct

ODD = [
    *("", "x", "1e-5", "false", "\0", "ü" * 99, "../../etc/passwd", "{%", "a" * 10**5),
    *(0, 1, -1, 2, 3, 7, 2**31, 2**32, 2**63, 10**7, 10**12, 10**30, 10**400, -(10**12)),
    *(0.5, 1.5, -0.5, 1e-300, 1e300, math.nan, math.inf, -math.inf),
    *(True, False, None, [], {}, [[]], [None], ["x"], [1], {"a": 1}, {"": None}, [0] * 1000),
]
HUGE = [0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 10**12, 2**63 - 1, 2**63, 2**64 - 1]
DEEP = 10**5


def places(value, path=()):
    """The paths of all values in a JSON value, itself included."""
    found = [path]
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found += places(inner, (*path, key))
    return found


def at(value, path):
    for key in path:
        value = value[key]
    return value


def mutated(value, rng):
    """A copy of a JSON value with one to three changes."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = [path for path in places(value) if path]
        if not paths:
            return rng.choice(ODD)
        depth = rng.choice(sorted({len(path) for path in paths}))
        value = _changed(value, rng.choice([path for path in paths if len(path) == depth]), rng)
    return value


def _changed(value, path, rng):
    holder, key = at(value, path[:-1]), path[-1]
    kind = rng.randrange(8)
    if kind <= 2:
        holder[key] = copy.deepcopy(rng.choice(ODD))
    elif kind == 3:
        del holder[key]
    elif kind == 4:
        holder[key] = rng.choice(([holder[key]], {"x": holder[key]}, [holder[key]] * 3))
    elif kind == 5:
        holder[key] = copy.deepcopy(at(value, rng.choice([p for p in places(value) if p != ()])))
    elif kind == 6 and isinstance(holder, dict):
        holder[rng.choice((key * 2, "", key.upper(), "x" * 1000))] = holder.pop(key)
    elif isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(rng.choice((holder[key], *ODD))))
    else:
        holder[rng.choice(("x", "auto_map", "0"))] = copy.deepcopy(rng.choice(ODD))
    return value


def mutated_json(raw, rng):
    """The bytes of a JSON file, changed: usually its values, else the text itself."""
    kind = rng.randrange(10)
    if kind < 7:
        return json.dumps(mutated(json.loads(raw), rng)).encode("utf-8", "surrogatepass")
    if kind == 7:
        return mutated_bytes(raw, rng)
    text = raw.decode()
    middle = rng.choice([i for i, c in enumerate(text) if c in ":,[{"] or [0]) + 1
    if kind == 8:
        return (text[:middle] + rng.choice(("[", '{"a":')) * DEEP + text[middle:]).encode()
    return (text[:middle] + rng.choice(("9" * 6000, '"\\ud800"', "-", "NaN", text, "\ufeff")) + text[middle:]).encode()


def mutated_bytes(raw, rng):
    """Bytes with one to three changes: flipped, cut, put in, or a length that is a lie."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 3))):
        where = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(min(len(data), 400) + 1)
        kind, count = rng.randrange(7), rng.choice((1, 2, 4, 8, 50))
        if kind == 0:
            del data[where:]
        elif kind == 1:
            del data[where : where + count]
        elif kind == 2:
            data[where:where] = rng.randbytes(count)
        elif kind == 3:
            data[where : where + count] = bytes(min(count, len(data) - where))
        elif kind <= 5:
            form = rng.choice("IQ")
            lie = struct.pack(f"<{form}", rng.choice(HUGE) % 2 ** (8 * struct.calcsize(form)))
            data[where : where + len(lie)] = lie
        elif where < len(data):
            data[where] ^= 1 << rng.randrange(8)
    return bytes(data)


def mutated_safetensors(raw, rng):
    """A safetensors file with another header, of the right length, or with other bytes."""
    if rng.random() < 0.4:
        return mutated_bytes(raw, rng)
    size = int.from_bytes(raw[:8], "little")
    header = mutated_json(raw[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + raw[8 + size :]


def mutated_lines(raw, rng):
    """A file of lines: some changed, doubled, left out, or moved."""
    if rng.random() < 0.3:
        return mutated_bytes(raw, rng)
    lines = raw.split(b"\n")
    where = rng.randrange(len(lines))
    change = rng.choice((mutated_bytes, _mutated_line, None, "double", "move"))
    if change is None:
        del lines[where]
    elif change == "double":
        lines[where:where] = [lines[where]] * rng.choice((1, 1000))
    elif change == "move":
        lines.insert(rng.randrange(len(lines)), lines.pop(where))
    else:
        lines[where] = change(lines[where], rng)
    return b"\n".join(lines)


def _mutated_line(line, rng):
    try:
        return mutated_json(line, rng)
    except ValueError:
        return mutated_bytes(line, rng)
