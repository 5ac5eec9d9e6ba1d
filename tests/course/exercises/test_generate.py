"""Student copies: that they are nbgrader's, and that the command keeps the folder up to date."""

import json
import shutil
import sys

import pytest
from exercise_helpers import NOTEBOOKS, STUB, read, solution_length

from lora_course.exercises import generate

SOURCE = '''def f(x):
    """Twice x."""
    # about 1 line
    ### BEGIN SOLUTION
    # a comment

    return 2 * x
    ### END SOLUTION'''
STUDENTS = f'''def f(x):
    """Twice x."""
    # about 1 line
    {STUB}'''


def meta(**changes):
    data = {"grade": False, "grade_id": "f", "locked": False, "schema_version": 3, "solution": True, "task": False}
    return {"nbgrader": {**data, **changes}}


def notebook():
    code = {"cell_type": "code", "execution_count": 3, "outputs": []}
    printed = {"name": "stdout", "output_type": "stream", "text": ["2\n"]}
    graded = meta(grade_id="check_f", grade=True, locked=True, solution=False, points=1)
    cells = [
        {"cell_type": "markdown", "metadata": meta(grade_id="idea", locked=True, solution=False), "source": ["# f"]},
        {**code, "metadata": meta(), "source": SOURCE.splitlines(keepends=True)},
        {**code, "metadata": graded, "source": ["f = check(f)"], "outputs": [printed]},
    ]
    cells = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def folder(tmp_path):
    """notebooks/ with one solution, and the configuration of the real one."""
    (tmp_path / "solutions").mkdir()
    shutil.copy(NOTEBOOKS / "solutions" / "nbgrader_config.py", tmp_path / "solutions")
    write(tmp_path, notebook())
    return tmp_path


def write(folder, changed):
    (folder / "solutions" / "01_f.ipynb").write_text(json.dumps(changed), encoding="utf-8")


@pytest.fixture
def nbgrader():
    return pytest.importorskip("nbgrader", reason="needs nbgrader: pip install -e './notebooks[teachers]'")


def test_the_length_of_a_solution_leaves_out_comments_and_empty_lines():
    assert solution_length(SOURCE) == 1
    assert solution_length("x = 1") == 0


def test_without_nbgrader_it_is_asked_for(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    monkeypatch.setitem(sys.modules, "nbgrader.apps", None)
    with pytest.raises(RuntimeError, match=r"pip install -e './notebooks\[teachers\]'"):
        generate.student_copies(folder / "solutions")


@pytest.mark.usefixtures("nbgrader")
class TestWithNbgrader:
    def test_the_copy_has_the_stub_with_its_indentation_and_no_outputs(self, folder):
        copied = json.loads(generate.student_copies(folder / "solutions")["01_f.ipynb"])
        idea, answer, check = copied["cells"]
        assert "".join(answer["source"]) == STUDENTS
        assert ("".join(idea["source"]), "".join(check["source"])) == ("# f", "f = check(f)")
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in (answer, check))
        assert check["metadata"]["editable"] is False
        assert len(check["metadata"]["nbgrader"]["checksum"]) == 32
        assert read(folder / "solutions" / "01_f.ipynb") == notebook()  # the original is left alone

    @pytest.mark.parametrize(
        ("cell", "change", "said"),
        [
            (0, {"metadata": meta(locked=True, solution=False)}, "Duplicate grade id: f"),
            (0, {"metadata": meta(grade_id="idea", grade=True, points=1, solution=False)}, "not marked as a solution"),
            (1, {"metadata": {}}, "Solution region detected in a non-solution cell"),
            (1, {"source": ["### BEGIN SOLUTION\n", "x = 1"]}, "no end solution statement"),
            (1, {"source": ["### BEGIN SOLUTION\n", "### BEGIN SOLUTION\n"]}, "nested begin solution"),
            (2, {"metadata": meta(grade_id="g", grade=True, solution=False)}, "does not have points"),
            (2, {"metadata": meta(grade_id="a g", schema_version=3)}, "does not match"),
        ],
    )
    def test_what_nbgrader_refuses_is_told_in_its_words(self, folder, cell, change, said):
        changed = notebook()
        changed["cells"][cell].update(change)
        write(folder, changed)
        with pytest.raises(ValueError, match="nbgrader refuses") as caught:
            generate.student_copies(folder / "solutions")
        assert said in str(caught.value)

    def test_the_command_writes_what_differs_and_is_then_content(self, folder, capsys):
        arguments = ["--notebooks", str(folder)]
        assert generate.main([*arguments, "--check"]) == 1
        assert "01_f.ipynb: differs" in capsys.readouterr().out
        assert not (folder / "exercises").exists()  # --check writes nothing
        assert generate.main(arguments) == 0
        copied = (folder / "exercises" / "01_f.ipynb").read_text(encoding="utf-8")
        assert {"01_f.ipynb": copied} == generate.student_copies(folder / "solutions")
        assert generate.main([*arguments, "--check"]) == 0

    def test_an_edited_copy_is_found(self, folder):
        arguments = ["--notebooks", str(folder)]
        generate.main(arguments)
        path = folder / "exercises" / "01_f.ipynb"
        edited = read(path)
        edited["cells"][0]["source"] = ["# g"]
        path.write_text(json.dumps(edited), encoding="utf-8")
        assert generate.main([*arguments, "--check"]) == 1
        generate.main(arguments)
        assert read(path)["cells"][0]["source"] == ["# f"]

    def test_a_copy_without_its_solution_is_told(self, folder, capsys):
        generate.main(["--notebooks", str(folder)])
        (folder / "solutions" / "01_f.ipynb").rename(folder / "solutions" / "02_f.ipynb")
        assert generate.main(["--notebooks", str(folder)]) == 1
        assert "01_f.ipynb: there is no solution" in capsys.readouterr().out


def test_a_folder_without_solutions_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        generate.main(["--notebooks", str(tmp_path)])
