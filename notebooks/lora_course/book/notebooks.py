"""What is done to a notebook on its way into the book. The notebook that is kept stays as it is."""

import ast
import base64
import hashlib
import struct
from typing import Any

from .links import Links

PICTURES = ("image/png", "image/jpeg")
RUN = '<a class="run-in-browser" href="{}">Run it in the browser</a> Python starts in the page: nothing is installed.'


def prepared(notebook: dict[str, Any], page: str, links: Links, run: str | None = None) -> dict[str, Any]:
    """The notebook with working links, imports folded, each drawing once; changed in place, and returned.

    run: where the notebook can be run; a button below the title leads there
    """
    for cell in notebook["cells"]:
        source = text(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = links.rewritten(source, page)
        elif cell["cell_type"] == "code" and only_imports(source):
            tags = cell["metadata"].setdefault("tags", [])
            tags += [tag for tag in ["hide-input"] if tag not in tags]
            cell["metadata"].setdefault("mystnb", {})["code_prompt_show"] = "Show the imports"
            cell["metadata"]["mystnb"]["code_prompt_hide"] = "Hide the imports"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:  # a drawing is there twice; this form has its alternative text
                data.pop("image/svg+xml", None)
    if run:
        title, _, rest = text(notebook["cells"][0]["source"]).partition("\n")
        notebook["cells"][0]["source"] = f"{title}\n\n{RUN.format(run)}\n{rest}"
    return notebook


def text(source: str | list[str]) -> str:
    """A cell's source, or an output's data, which may be a list of lines."""
    return source if isinstance(source, str) else "".join(source)


def only_imports(source: str) -> bool:
    """Whether a cell has imports and nothing else. Magics are no Python, and make it False."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(body) and all(isinstance(one, ast.Import | ast.ImportFrom) for one in body)


def pictures(notebook: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{SHA-256 of a picture in an output: {"alt": its alternative text, "shape": width over height}}.

    Those that have a text. For the shape see `shape`.
    """
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            for kind in PICTURES:
                alt = output.get("metadata", {}).get(kind, {}).get("alt")
                if alt and kind in output.get("data", {}):
                    content = base64.b64decode(text(output["data"][kind]))
                    found[hashlib.sha256(content).hexdigest()] = {"alt": alt, "shape": shape(content)}
    return found


def shape(content: bytes) -> float:
    """Width over height of a PNG, whose header says both from the 17th byte on; 1 for anything else."""
    if not content.startswith(b"\x89PNG") or len(content) < 24:
        return 1.0
    width, height = struct.unpack(">II", content[16:24])
    return round(width / height, 2)
