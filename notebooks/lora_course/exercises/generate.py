"""Student copies of the exercises from the notebooks with solutions: `python -m lora_course.exercises`.

They are what `nbgrader generate_assignment` makes of these notebooks with `solutions/nbgrader_config.py`: a stub in the
place of each solution, no outputs, and a checksum of each cell that a student is not to change.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from lora_np.storage import replacing

ASSIGNMENT = "lora"


def student_copies(solutions):
    """{file name: text} of what nbgrader makes of each notebook in the folder `solutions`.

    RuntimeError without nbgrader; ValueError, with nbgrader's own words, where it refuses a notebook.
    """
    try:
        from nbgrader.apps import NbGraderAPI
        from traitlets.config import PyFileConfigLoader
    except ImportError as error:
        raise RuntimeError("nbgrader makes the copies: pip install -e './notebooks[teachers]'") from error
    with tempfile.TemporaryDirectory() as root:
        source = Path(root, "source", ASSIGNMENT)
        source.mkdir(parents=True)
        for path in Path(solutions).glob("*.ipynb"):
            shutil.copy(path, source)
        config = PyFileConfigLoader("nbgrader_config.py", str(solutions)).load_config()
        config.CourseDirectory.root = root
        config.GenerateAssignment.no_database = True  # these two are its --no-db: there are no marks to keep here
        config.SaveCells.enabled = False
        result = NbGraderAPI(config=config).generate_assignment(ASSIGNMENT)
        if not result["success"]:
            raise ValueError(f"nbgrader refuses a notebook of {solutions}:\n{result['log']}")
        copies = sorted(Path(root, "release", ASSIGNMENT).glob("*.ipynb"))
        return {path.name: path.read_text(encoding="utf-8") for path in copies}


def outdated(folder):
    """[(student copy's path, the text it should have)] for every copy under `folder` that differs or is missing."""
    copies = student_copies(Path(folder) / "solutions")
    pairs = [(Path(folder) / "exercises" / name, text) for name, text in copies.items()]
    return [(path, text) for path, text in pairs if not path.is_file() or path.read_text(encoding="utf-8") != text]


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
