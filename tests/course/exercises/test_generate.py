import copy
import json

import pytest

from lora_course.exercises import generate

SOURCE = '''def f(x):
    """Twice x."""
    # about 1 line
    ### BEGIN SOLUTION
    # a comment

    return 2 * x
    ### END SOLUTION
'''
STUB = '''def f(x):
    """Twice x."""
    # about 1 line
    raise NotImplementedError  # your code in the place of this line
'''


def meta(**changes):
    data = {"grade": False, "grade_id": "f", "locked": False, "schema_version": 3, "solution": True, "task": False}
    return {"nbgrader": {**data, **changes}}


def notebook():
    code = {"cell_type": "code", "execution_count": 3, "outputs": [{"output_type": "stream", "text": ["2\n"]}]}
    cells = [
        {"cell_type": "markdown", "metadata": meta(grade_id="idea", locked=True, solution=False), "source": ["# f"]},
        {**code, "metadata": meta(), "source": SOURCE.splitlines(keepends=True)},
        {
            **code,
            "metadata": meta(grade_id="check_f", grade=True, locked=True, solution=False, points=1),
            "source": ["f = check(f)"],
        },
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_the_solution_becomes_the_stub_with_its_indentation():
    assert generate.student_source(SOURCE) == STUB


def test_what_has_no_solution_stays():
    assert generate.student_source("f = check(f)\n") == "f = check(f)\n"


def test_two_solutions_in_one_cell_become_two_stubs():
    assert generate.student_source(SOURCE + SOURCE) == STUB + STUB


@pytest.mark.parametrize(
    "source",
    [
        "### BEGIN SOLUTION\nx = 1",
        "x = 1\n### END SOLUTION",
        "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION",
    ],
)
def test_marks_that_do_not_pair_up_are_refused(source):
    with pytest.raises(ValueError, match="SOLUTION"):
        generate.student_source(source)


def test_the_length_of_a_solution_leaves_out_comments_and_empty_lines():
    assert generate.solution_length(SOURCE) == 1
    assert generate.solution_length("x = 1") == 0


def test_the_student_copy_has_no_solutions_and_no_outputs():
    before = notebook()
    copied = generate.student_copy(before)
    assert "".join(copied["cells"][1]["source"]) == STUB
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in copied["cells"][1:])
    assert before == notebook()  # the original is left alone


def test_right_metadata_has_no_problems():
    assert generate.metadata_problems(notebook()) == []
    assert generate.metadata_problems(generate.student_copy(notebook())) == []


@pytest.mark.parametrize(
    ("cell", "changes", "said"),
    [
        (0, {"grade_id": "f"}, "twice"),
        (0, {"grade_id": "an idea"}, "letters"),
        (0, {"schema_version": 1}, "schema_version"),
        (0, {"grade": True, "points": 1}, "graded cell is code"),
        (1, {"locked": True}, "must not be locked"),
        (1, {"solution": False}, "not marked as one"),
        (2, {"grade": False}, "points belong"),
        (2, {"solution": True, "locked": False}, "graded cell is code"),
    ],
)
def test_wrong_metadata_is_told(cell, changes, said):
    changed = notebook()
    changed["cells"][cell]["metadata"]["nbgrader"].update(changes)
    assert any(said in problem for problem in generate.metadata_problems(changed))


@pytest.mark.parametrize("key", ["grade", "task", "locked"])
def test_missing_metadata_is_told(key):
    changed = notebook()
    del changed["cells"][1]["metadata"]["nbgrader"][key]
    assert any(f"lacks {key}" in problem for problem in generate.metadata_problems(changed))


def test_a_solution_in_an_unmarked_cell_is_told():
    changed = notebook()
    changed["cells"][1]["metadata"] = {}
    assert any("in a cell that is none" in problem for problem in generate.metadata_problems(changed))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "01_f.ipynb").write_text(json.dumps(notebook()))
    return tmp_path


def test_the_command_writes_what_differs_and_is_then_content(folder, capsys):
    arguments = ["--notebooks", str(folder)]
    assert generate.main([*arguments, "--check"]) == 1
    assert "01_f.ipynb: differs" in capsys.readouterr().out
    assert not (folder / "exercises").exists()  # --check writes nothing
    assert generate.main(arguments) == 0
    copied = generate.read(folder / "exercises" / "01_f.ipynb")
    assert copied == generate.student_copy(notebook())
    assert generate.main([*arguments, "--check"]) == 0


def test_an_edited_copy_is_found(folder, capsys):
    arguments = ["--notebooks", str(folder)]
    generate.main(arguments)
    path = folder / "exercises" / "01_f.ipynb"
    edited = copy.deepcopy(generate.read(path))
    edited["cells"][0]["source"] = ["# g"]
    path.write_text(generate.text_of(edited))
    assert generate.main([*arguments, "--check"]) == 1
    generate.main(arguments)
    assert generate.read(path)["cells"][0]["source"] == ["# f"]


def test_a_copy_without_its_solution_is_told(folder, capsys):
    generate.main(["--notebooks", str(folder)])
    (folder / "solutions" / "01_f.ipynb").rename(folder / "solutions" / "02_f.ipynb")
    assert generate.main(["--notebooks", str(folder)]) == 1
    assert "01_f.ipynb: there is no solution" in capsys.readouterr().out


def test_a_folder_without_solutions_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        generate.main(["--notebooks", str(tmp_path)])
