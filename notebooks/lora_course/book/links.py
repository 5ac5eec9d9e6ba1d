"""Links of a page: to what is in the book they stay, to other files of the repository they become links to it there."""

import posixpath
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\(([^()\s#]+)(#[^()\s]*)?\)")
FOLDERS = {
    "exercises": "exercises/README.md",
    "solutions": "solutions/TEACHERS.md",
    ".": "index.md",
}  # {folder: its page}
TEXTS = "book/"  # what is kept here stands beside the notebooks in the book


@dataclass(frozen=True)
class Links:
    """What links may lead to.

    pages        the paths of all files of the book, as seen from `notebooks/`
    exists       whether a path, as seen from `notebooks/`, is in the repository
    repository   "owner/name" on GitHub, or None: then links out of the book become their text
    branch       of the repository
    """

    pages: Collection[str]
    exists: Callable[[str], bool]
    repository: str | None = None
    branch: str = "main"

    def rewritten(self, text: str, page: str) -> str:
        """The Markdown `text` of `page` (its path), with links that lead somewhere."""
        folder = PurePosixPath(page).parent.as_posix()
        return LINK.sub(lambda found: self._link(found, folder), text)

    def _link(self, found, folder):
        words, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if re.match(r"[a-z]+:", target) or path in self.pages or not self.exists(path):
            return found.group()  # elsewhere, in the book, or no link at all: Sphinx says if it is a wrong one
        staged = path.removeprefix(TEXTS)
        if staged in self.pages:
            return f"[{words}]({posixpath.relpath(staged, folder)}{anchor})"
        if path in FOLDERS:
            return f"[{words}]({posixpath.relpath(FOLDERS[path], folder)})"
        if self.repository is None:
            return words
        kept = posixpath.normpath(posixpath.join("notebooks", path))
        return f"[{words}](https://github.com/{self.repository}/blob/{self.branch}/{kept}{anchor})"
