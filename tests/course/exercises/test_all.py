"""What holds for every exercise: its solution is right, its copy up to date, and it runs to the end unattempted."""

import importlib
import inspect
import re

import numpy as np
import pytest
from exercise_helpers import BEGIN, END, NOTEBOOKS, STUB, code_cells, read, run_cells, solution_length, solutions

from lora_course.exercises import generate
from lora_course.exercises.checking import WrongAnswerError, from_finite_differences

LONGEST = 15  # lines of a solution
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))
TOPICS = [path.stem[3:] for path in SOLUTIONS]


def module_of(topic):
    return importlib.import_module(f"lora_course.exercises.{topic}")


def exercises_of(topic):
    return module_of(topic).check.exercises


EXERCISES = [(topic, exercise) for topic in TOPICS for exercise in exercises_of(topic)]
each_notebook = pytest.mark.parametrize("path", SOLUTIONS, ids=TOPICS)
each_topic = pytest.mark.parametrize("topic", TOPICS)
each_exercise = pytest.mark.parametrize(("topic", "exercise"), EXERCISES, ids=[e.name for _, e in EXERCISES])


def graded(cell):
    return cell["metadata"].get("nbgrader", {}).get("grade", False)


def test_there_is_an_exercise_for_every_topic():
    numbers = [path.stem[:2] for path in SOLUTIONS]
    assert numbers == [f"{n:02}" for n in range(1, len(numbers) + 1)]
    assert len(numbers) == 17


@pytest.fixture(scope="module")
def copies():
    pytest.importorskip("nbgrader", reason="needs nbgrader: pip install -e './notebooks[teachers]'")
    return generate.student_copies(NOTEBOOKS / "solutions")


@each_notebook
def test_the_student_copy_is_what_nbgrader_makes_of_the_solution(path, copies):
    copied = NOTEBOOKS / "exercises" / path.name
    assert copied.read_text(encoding="utf-8") == copies[path.name], "run: python -m lora_course.exercises"


def test_no_student_copy_is_left_over():
    assert generate.strangers(NOTEBOOKS) == []


@each_notebook
def test_the_student_copy_holds_no_solution_and_no_output(path):
    for cell in read(NOTEBOOKS / "exercises" / path.name)["cells"]:
        assert not {BEGIN, END} & {line.strip() for line in cell["source"]}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@each_notebook
def test_each_exercise_is_a_cell_to_write_and_a_locked_cell_that_gives_points(path):
    for folder in ("solutions", "exercises"):
        marked = [cell for cell in read(NOTEBOOKS / folder / path.name)["cells"] if "nbgrader" in cell["metadata"]]
        answers = [cell for cell in marked if cell["metadata"]["nbgrader"]["solution"]]
        tests = [cell for cell in marked if graded(cell)]
        assert len(answers) == len(tests) == len(exercises_of(path.stem[3:]))
        assert not [cell for cell in answers if cell["metadata"]["nbgrader"]["locked"] or cell in tests]
        assert all(cell["cell_type"] == "code" and cell["metadata"]["nbgrader"]["locked"] for cell in tests)
        assert [cell for cell in marked if "points" in cell["metadata"]["nbgrader"]] == tests
        assert all(cell["metadata"]["nbgrader"]["task"] is False for cell in marked)


@each_notebook
def test_solutions_are_committed_with_outputs_and_without_errors(path):
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "right." in "".join("".join(output.get("text", "")) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


@each_notebook
def test_solutions_are_short(path):
    lengths = [solution_length(source) for source in code_cells(path) if BEGIN in source]
    assert lengths
    assert all(1 <= length <= LONGEST for length in lengths)


@each_notebook
def test_stubs_say_how_long_the_solution_is(path):
    stubs = [source for source in code_cells(NOTEBOOKS / "exercises" / path.name) if STUB in source]
    assert len(stubs) == len(exercises_of(path.stem[3:]))
    assert all("# about " in stub for stub in stubs)


@each_notebook
def test_both_pages_list_it(path):
    points = [cell["metadata"]["nbgrader"].get("points") for cell in read(path)["cells"] if graded(cell)]
    for_teachers = (NOTEBOOKS / "solutions" / "TEACHERS.md").read_text(encoding="utf-8")
    assert f"| [{path.stem}]({path.name}) | {' + '.join(map(str, points))} |" in for_teachers
    assert f"### {path.stem}\n" in for_teachers
    minutes = re.search(r"^About (\d+) minutes", "".join(read(path)["cells"][0]["source"]), re.MULTILINE)[1]
    row = rf"^\| \[{path.stem}\]\({path.name}\) \| .* \| {minutes} \|$"
    assert re.search(row, (NOTEBOOKS / "exercises" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


@each_notebook
def test_unattempted_it_runs_to_the_end(path):
    _, printed = run_cells(NOTEBOOKS / "exercises" / path.name)
    for exercise in exercises_of(path.stem[3:]):
        assert f"{exercise.name}: not attempted; going on with the reference" in printed


@each_notebook
def test_solved_it_runs_to_the_end_with_the_solutions(path):
    names, printed = run_cells(path)
    exercises = exercises_of(path.stem[3:])
    assert printed.count(": right.") == len(exercises)
    assert all(names[e.name] is not e.reference for e in exercises)


@each_topic
def test_each_exercise_has_a_solution_with_the_reference_s_arguments(topic):
    found = solutions(topic)
    for exercise in exercises_of(topic):
        asked, reference = inspect.signature(found[exercise.name]), inspect.signature(exercise.reference)
        assert list(asked.parameters) == list(reference.parameters)
        assert found[exercise.name].__doc__


@each_exercise
def test_cases_are_in_the_order_of_the_arguments_and_repeatable(topic, exercise):
    for first, second in zip(exercise.cases(), exercise.cases(), strict=True):
        assert list(first) == list(inspect.signature(exercise.reference).parameters)[: len(first)]
        for name, value in first.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, second[name])


@each_exercise
def test_the_reference_is_right_by_its_own_check(topic, exercise, capsys):
    assert module_of(topic).check(exercise.reference) is exercise.reference


@each_exercise
def test_mistakes_differ_from_the_reference_and_from_each_other(topic, exercise):
    """Each mistake, given as the answer, is told by its own hint: none is hidden by one before it."""
    for mistake in exercise.mistakes:

        def wrong(*arguments, made=mistake.function):
            with np.errstate(all="ignore"):  # some give NaN
                return made(*arguments)

        wrong.__name__ = exercise.name
        with pytest.raises(WrongAnswerError) as caught:
            module_of(topic).check(wrong)
        assert mistake.hint in str(caught.value)


@each_exercise
def test_references_of_gradients_agree_with_finite_differences(topic, exercise):
    if exercise.gradients:
        case = exercise.cases()[0]
        results = exercise.reference(*case.values())
        results = results if len(exercise.results) > 1 else (results,)
        assert from_finite_differences(exercise, results) < 1e-7


@each_topic
def test_public_functions_say_what_they_do(topic):
    module = module_of(topic)
    functions = inspect.getmembers(module, inspect.isfunction)
    own = [f for name, f in functions if f.__module__ == module.__name__ and not name.startswith("_")]
    assert module.__doc__
    assert all(function.__doc__ for function in own)
