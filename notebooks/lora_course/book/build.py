"""`python -m lora_course.book`: the course as a site, complete in one folder; it needs no network to be read."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import lite as in_the_browser
from .mathjax import MATHJAX, SCRIPT
from .staging import LITE, REPOSITORY, stage

SETTINGS = REPOSITORY / "notebooks" / "book"


def build(
    out: Path,
    repository: str | None = None,
    branch: str = "main",
    archive: str | None = None,
    quiet: bool = False,
    lite: bool = False,
    pyodide: str | None = None,
) -> int:
    """Build the site into the folder `out`; Sphinx's exit code, 0 if all went well. A warning is an error.

    After an error `out` is as it was. repository: "owner/name" on GitHub, for the buttons and the links to files.
    archive: of MathJax, see `Package`. lite: with the notebooks that run in the browser, see `lora_course.lite`, also
    for pyodide. RuntimeError if MathJax cannot be had or a step fails, ImportError if Sphinx or JupyterLite is not
    installed (the extras "book" and "lite" of notebooks/pyproject.toml).
    """
    from sphinx.cmd.build import build_main

    script = MATHJAX.folder(archive)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        stage(source, repository, branch, lite)
        shutil.copytree(script, Path(temporary, "static", "mathjax"))
        settings = {
            "html_static_path": f"{SETTINGS / '_static'},{Path(temporary, 'static')}",
            "mathjax_path": f"mathjax/{SCRIPT}",
            "html_context.repository": repository or "",
            "html_context.branch": branch,
        }
        options = [f"-D{key}={value}" for key, value in settings.items()]
        site = Path(temporary, "site")
        folders = ["-c", str(SETTINGS), "-d", str(Path(temporary, "doctrees")), str(source), str(site)]
        code = build_main(["-b", "html", "-W", "--keep-going", *(["-q"] if quiet else []), *options, *folders])
        if code == 0:
            if lite:
                in_the_browser.build(site / LITE, pyodide)
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(site, out)
        return code


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lora_course.book", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/book"), help="folder of the site (runs/book)")
    where = os.environ.get("GITHUB_REPOSITORY")
    parser.add_argument("--repository", default=where, help="owner/name on GitHub: adds buttons and links to files")
    parser.add_argument("--branch", default="main", help="of the repository (main)")
    parser.add_argument("--mathjax", metavar="FILE", help="the npm package's file, where npm cannot be reached")
    parser.add_argument("--lite", action="store_true", help="with the notebooks in the browser, by JupyterLite")
    parser.add_argument("--pyodide", metavar="FOLDER", help="Pyodide's files; without it they come from its server")
    options = parser.parse_args(arguments)
    where = options.repository, options.branch, options.mathjax
    try:
        return build(options.out, *where, lite=options.lite, pyodide=options.pyodide)
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        print(f"the book cannot be built: {error}", file=sys.stderr)
        return 1
