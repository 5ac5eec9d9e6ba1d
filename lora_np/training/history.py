"""What `train` returns: a dict with every number, which as text is a small table."""

import html
import math
from typing import Any

MOST_ROWS = 10
Row = list[str]


class TrainingHistory(dict[str, Any]):
    """{"loss": [...], "learning_rate": [...], "evaluation": [...], ...}; see `train`.

    Shown, it is a table with a row for each evaluation, or for parts of a run without any, at most ten: the step, the
    mean loss of the steps since the row before, and the evaluation's losses, with what else was measured.
    """

    def rows(self) -> tuple[Row, list[Row]]:
        """(heading, rows) of the table, all of them texts."""
        losses, evaluations = self.get("loss", []), self.get("evaluation", [])
        if not evaluations:
            ends = sorted({math.ceil(len(losses) * (i + 1) / MOST_ROWS) for i in range(MOST_ROWS)})
            evaluations = [{"step": end} for end in ends if end]
        chosen = _spread(evaluations, MOST_ROWS)
        names = [name for name in dict.fromkeys(name for found in chosen for name in found) if name != "step"]
        table, before = [], 0
        for found in chosen:
            step = found["step"]
            part = losses[before:step]
            loss = f"{sum(part) / len(part):.4f}" if part else "-"
            best = " *" if found == self.get("best") else ""
            table.append([f"{step}{best}", loss, *[f"{found[name]:.4f}" if name in found else "-" for name in names]])
            before = step
        return ["step", "loss", *names], table

    def remark(self) -> str:
        """What stands below the table."""
        said = [f"{len(self.get('loss', []))} steps"]
        said += ["interrupted"] if self.get("interrupted") else []
        said += ["*: the best, whose weights the model has"] if self.get("best") else []
        return f"{', '.join(said)}. Every number: {', '.join(map(repr, self))}"

    def __repr__(self) -> str:
        heading, rows = self.rows()
        widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
        lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in [heading, *rows]]
        return "\n".join([*map("  ".join, lines), self.remark()])

    def _repr_html_(self) -> str:
        heading, rows = self.rows()
        lines = [_line(heading, "th"), *[_line(row, "td") for row in rows]]
        return f"<table>{''.join(lines)}</table><p>{html.escape(self.remark())}</p>"


def _line(cells: Row, tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _spread(things: list[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(things) <= most:
        return things
    return [things[round(i * (len(things) - 1) / (most - 1))] for i in range(most)]
