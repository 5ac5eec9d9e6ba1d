"""Large arrays, a few rows at a time."""


def blocks(length, row_bytes, xp, cache_bytes=1 << 19):
    """Slices that cover range(length), each about as many rows as fit the processor's cache.

    Several elementwise steps in a row then find their block still in the cache, instead of sending a large array
    through memory once per step: on two cores this made GELU and softmax more than twice as fast. A GPU wants the
    opposite, so for CuPy there is one slice.
    """
    rows = length if xp.__name__ == "cupy" else max(1, cache_bytes // max(1, row_bytes))
    if 0 < length <= rows:
        return [slice(0, length)]
    return [slice(start, min(start + rows, length)) for start in range(0, length, max(1, rows))]
