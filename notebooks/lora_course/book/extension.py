"""What Sphinx asks while it builds: docstrings as plain text, and alternative texts of the notebooks' pictures."""

import json
from pathlib import Path, PurePosixPath

from .docstrings import marked_up
from .staging import ALTERNATIVES


def setup(app):
    """Sphinx calls this."""
    from docutils import nodes
    from sphinx.util import logging

    logger = logging.getLogger(__name__)
    texts = json.loads(Path(app.srcdir, ALTERNATIVES).read_text(encoding="utf-8"))

    def describe(app, tree):
        """Pictures in outputs are named by their hash."""
        for picture in tree.findall(nodes.image):
            known = texts.get(PurePosixPath(picture["uri"]).stem)
            if known:
                picture["alt"] = known
            if not picture.get("alt"):
                logger.warning("a picture without alternative text", location=picture)

    def plain(app, what, name, obj, options, lines):
        """Without its markup, and without the text that dataclasses make of their fields."""
        made = what == "class" and lines and lines[0].startswith(f"{obj.__name__}(")
        lines[:] = [] if made else marked_up(lines)

    app.connect("doctree-read", describe)
    app.connect("autodoc-process-docstring", plain)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
