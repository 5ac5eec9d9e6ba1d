"""Tables of many layers: rows that differ in the number of a block only are one row."""

import re

MOST_ROWS = 24  # a table that is no longer is left as it is
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")

Row = tuple[str, str]  # a layer's dotted name, and what stands behind it


def collapsed(rows: list[Row]) -> list[Row]:
    """Of more than `MOST_ROWS`, those with equal texts in all blocks once, "h.(0-11).attn.c_attn"."""
    if len(rows) <= MOST_ROWS:
        return rows
    blocks: dict[Row, list[str]] = {}
    for name, text in rows:
        blocks.setdefault((NUMBER.sub("#", name, count=1), text), []).extend(NUMBER.findall(name)[:1])
    return [(name.replace("#", _ranges(numbers), 1), text) for (name, text), numbers in blocks.items()]


def _ranges(numbers: list[str]) -> str:
    """["0", "1", "2", "5"] -> "(0-2,5)"; a single one as it is."""
    if len(numbers) < 2:
        return "".join(numbers)
    runs: list[list[int]] = []
    for number in map(int, numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return f"({','.join(f'{run[0]}-{run[-1]}' if len(run) > 1 else str(run[0]) for run in runs)})"
