"""The folder that Sphinx reads: every page copied from the one place where it is kept."""

import json
import posixpath
import re
import shutil
from pathlib import Path, PurePosixPath

from ..lite import link
from .api import write_reference
from .links import Links
from .notebooks import pictures, prepared

REPOSITORY = Path(__file__).parents[3]
CLAIMS = "## What tutorials say about LoRA"  # in the README, the heading above the table
USE = re.compile(r"^## Use it\n(.*?)^## ", re.MULTILINE | re.DOTALL)  # in the repository's README
SPEED = re.compile(r"^## How fast it is\n\n(.*?)^\[How fast it is\]", re.MULTILINE | re.DOTALL)  # there, too
SPEED_HERE = re.compile(r"^The two main tables, .*?\n\n", re.MULTILINE | re.DOTALL)  # where it stands in the book
PICTURES = "pictures.json"  # what is known of the pictures in notebooks
EXERCISES = "\n```{toctree}\n:glob:\n:maxdepth: 1\n:hidden:\n\n[0-9]*\n```\n"  # what Sphinx lists below that page
LITE = "lite"  # the folder of the JupyterLite site
BEGIN = "**Where to begin**\n\n"  # in the index, above the list
IN_THE_BROWSER = "- You want to install nothing: press *Run it in the browser*, below a notebook's title.\n"


def sources() -> dict[str, Path]:
    """{path of a page in the book: the file it is made from}."""
    course, own = REPOSITORY / "notebooks", REPOSITORY / "notebooks" / "book"
    found = {path.relative_to(own).as_posix(): path for path in sorted(own.rglob("*.md"))}
    for pattern in ("[0-9]*.ipynb", "README.md", "exercises/README.md", "exercises/*.ipynb", "pictures/*"):
        found |= {path.relative_to(course).as_posix(): path for path in sorted(course.glob(pattern))}
    found["solutions/TEACHERS.md"] = course / "solutions" / "TEACHERS.md"
    found |= {f"programs/{path.name}": path for path in sorted((REPOSITORY / "tests" / "idioms").glob("*.py"))}
    return found


def stage(folder: Path, repository: str | None = None, branch: str = "main", lite: bool = False) -> None:
    """Write all pages into `folder`. For repository and branch see `Links`.

    lite: notebooks have a link to themselves in the JupyterLite site, which lies in the folder LITE beside the pages.
    """
    pages = sources()
    links = Links(pages.keys(), lambda path: (REPOSITORY / "notebooks" / path).exists(), repository, branch)
    shown = {}
    for page, source in pages.items():
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".ipynb":
            notebook = json.loads(source.read_text(encoding="utf-8"))
            shown |= pictures(notebook)
            here = link(page) if lite else None
            run = here and posixpath.relpath(f"{LITE}/{here}", PurePosixPath(page).parent.as_posix())
            target.write_text(json.dumps(prepared(notebook, page, links, run)), encoding="utf-8")
        elif source.suffix == ".md":
            text = _text_of(page, source)
            if lite and page == "index.md":
                text = text.replace(BEGIN, BEGIN + IN_THE_BROWSER)
            target.write_text(links.rewritten(text, page), encoding="utf-8")
        else:
            shutil.copyfile(source, target)
    (folder / PICTURES).write_text(json.dumps(shown), encoding="utf-8")
    write_reference(folder / "api")


def _text_of(page, source):
    """A page's text. What a README says in a section is not written twice: claims, use, the main tables of speed."""
    text = source.read_text(encoding="utf-8")
    if page == "README.md":
        return text.partition(CLAIMS)[0] + "What tutorials say about LoRA, and what came of it: [claims](claims.md).\n"
    if page == "using.md":
        (use,) = USE.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
        return text + use.replace("](notebooks/", "](").replace("](lora_np/", "](../lora_np/")
    if page == "speed.md":
        (tables,) = SPEED.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
        (here,) = SPEED_HERE.findall(text)
        return text.replace(here, tables).replace("](../", "](")  # it stands one folder higher here
    if page == "claims.md":
        readme = (REPOSITORY / "notebooks" / "README.md").read_text(encoding="utf-8")
        return text + readme.partition(CLAIMS)[2]
    return text + EXERCISES if page == "exercises/README.md" else text
