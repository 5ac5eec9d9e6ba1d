"""What Sphinx asks while it builds: docstrings as plain text; pictures in notebooks: their texts, which are wide."""

import json
from pathlib import Path, PurePosixPath

from .docstrings import marked_up
from .notebooks import shape
from .staging import PICTURES

WIDE = {"picture-wide": 2.1, "picture-very-wide": 2.9}  # {class: width over height}: on a phone such a one scrolls


def setup(app):
    """Sphinx calls this."""
    from docutils import nodes
    from sphinx.util import logging

    logger = logging.getLogger(__name__)
    known = json.loads(Path(app.srcdir, PICTURES).read_text(encoding="utf-8"))

    def of_a_page(uri):
        """What is known of a picture that a page names: its shape, if it is a file here."""
        file = Path(app.srcdir, uri)
        return {"shape": shape(file.read_bytes()) if file.is_file() else 1.0}

    def describe(app, tree):
        """Pictures in outputs are named by their hash."""
        for picture in list(tree.findall(nodes.image)):
            found = known.get(PurePosixPath(picture["uri"]).stem) or of_a_page(picture["uri"])
            picture["alt"] = found.get("alt") or picture.get("alt", "")
            classes = [name for name, least in WIDE.items() if found["shape"] >= least]
            if classes:
                frame = nodes.container(classes=classes)
                picture.replace_self(frame)
                frame += picture
            if not picture["alt"]:
                logger.warning("a picture without alternative text", location=picture)

    def plain(app, what, name, obj, options, lines):
        """Without its markup, and without the text that dataclasses make of their fields."""
        made = what == "class" and lines and lines[0].startswith(f"{obj.__name__}(")
        lines[:] = [] if made else marked_up(lines)

    app.connect("doctree-read", describe)
    app.connect("autodoc-process-docstring", plain)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
