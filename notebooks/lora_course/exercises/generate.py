"""Student copies of the exercises from the notebooks with solutions: `python -m lora_course.exercises`.

What stands between `### BEGIN SOLUTION` and `### END SOLUTION` becomes a stub that raises NotImplementedError, outputs
go. This is what nbgrader makes of the same notebooks; their cells have its metadata.
"""

import argparse
import json
import re
from pathlib import Path

from lora_np.storage import replacing

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = ("raise NotImplementedError  # your code in the place of this line",)
SCHEMA = 3  # of nbgrader's metadata
LONGEST = 15  # lines of a solution


def student_source(source):
    """A cell's source with each solution replaced by the stub. ValueError if the marks do not pair up."""
    lines, inside = [], False
    for line in source.split("\n"):
        mark = line.strip()
        if mark in (BEGIN, END):
            if inside == (mark == BEGIN):
                raise ValueError(f"{mark!r} without its partner before it")
            inside = mark == BEGIN
            indent = line[: line.index("#")]
            lines += [indent + stub for stub in STUB] if inside else []
        elif not inside:
            lines.append(line)
    if inside:
        raise ValueError(f"{BEGIN!r} has no {END!r}")
    return "\n".join(lines)


def solution_length(source):
    """How many lines of code a cell's solution has, without comments and empty ones."""
    inside = re.findall(rf"{BEGIN}\n(.*?){END}", source, flags=re.DOTALL)
    lines = [line.strip() for line in "\n".join(inside).split("\n")]
    return len([line for line in lines if line and not line.startswith("#")])


def student_copy(notebook):
    """A notebook (as read from JSON) as students get it: no solutions, no outputs."""
    copied = json.loads(json.dumps(notebook))
    for cell in copied["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = _lines(student_source("".join(cell["source"])))
            cell["outputs"], cell["execution_count"] = [], None
            cell["metadata"].pop("execution", None)
    return copied


def _lines(text):
    """A text as notebooks hold it: a list of lines that keep their ends."""
    return text.splitlines(keepends=True)


def metadata_problems(notebook):
    """What nbgrader would object to in a notebook's cells, as sentences; [] if nothing."""
    problems, seen = [], set()
    for cell in notebook["cells"]:
        data = cell["metadata"].get("nbgrader")
        text = "".join(cell["source"])
        if data is None:
            problems += [f"a solution in a cell that is none: {text[:40]!r}"] if BEGIN in text else []
            continue
        name = data.get("grade_id", "")
        problems += [f"{name or text[:40]!r}: {problem}" for problem in _cell_problems(cell, data, text)]
        problems += [f"{name}: grade_id is there twice"] if name in seen else []
        seen.add(name)
    return problems


def _cell_problems(cell, data, text):
    missing = {"grade", "grade_id", "locked", "schema_version", "solution", "task"} - set(data)
    if missing:
        yield f"nbgrader metadata lacks {', '.join(sorted(missing))}"
        return
    if data["schema_version"] != SCHEMA:
        yield f"schema_version is {data['schema_version']}, not {SCHEMA}"
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", data["grade_id"]):
        yield "grade_id must be letters, digits, - and _"
    if data["grade"] != ("points" in data):
        yield "points belong to graded cells and to no others"
    if data["grade"] and not (cell["cell_type"] == "code" and data["locked"] and not data["solution"]):
        yield "a graded cell is code, locked and no solution"
    if data["solution"] and data["locked"]:
        yield "a cell for the student's solution must not be locked"
    if not data["solution"] and BEGIN in text:
        yield "it holds a solution and is not marked as one"


def read(path):
    """A notebook as plain dicts and lists."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def text_of(notebook):
    """A notebook as Jupyter writes it."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def outdated(folder):
    """[(student copy's path, the text it should have)] for every copy under `folder` that differs or is missing."""
    pairs = []
    for solution in sorted((Path(folder) / "solutions").glob("*.ipynb")):
        path, text = Path(folder) / "exercises" / solution.name, text_of(student_copy(read(solution)))
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            pairs.append((path, text))
    return pairs


def strangers(folder):
    """Student copies under `folder` that have no notebook with a solution."""
    copies = sorted((Path(folder) / "exercises").glob("*.ipynb"))
    return [path for path in copies if not (Path(folder) / "solutions" / path.name).is_file()]


def main(arguments=None):
    """Read the command line; write the copies, or with --check say which differ. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lora_course.exercises", description="Make the students' notebooks from those with solutions."
    )
    parser.add_argument("--notebooks", default="notebooks", help="the folder with solutions/ (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; say which copies differ")
    options = parser.parse_args(arguments)
    folder = Path(options.notebooks)
    if not (folder / "solutions").is_dir():
        parser.error(f"{folder / 'solutions'} is no folder; run this in the repository, or say --notebooks")
    changed, extra = outdated(folder), strangers(folder)
    for path, text in [] if options.check else changed:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for path, _ in changed:
        print(f"{path}: {'differs from its solution' if options.check else 'written'}")
    for path in extra:
        print(f"{path}: there is no solution for it")
    return 1 if extra or (options.check and changed) else 0
