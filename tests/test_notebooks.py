"""The notebooks as they are committed: run through, nothing failed in them, and what the course promises is there.

That they still run is tested by `pytest --nbmake notebooks`.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
COURSE = sorted(FOLDER.glob("[01][0-9]_*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
TITLES = [
    "01_quickstart",
    "02_autograd",
    "03_transformer",
    "04_lora_layer",
    "05_fine_tuning",
    "06_rank_sweep",
    "07_parameter_counts",
    "08_merge_equivalence",
    "09_subspaces",
    "10_real_llm",
    "11_gpu",
    "12_variants",
    "13_open_questions",
]
MOST_BYTES = 1_500_000  # what GitHub still shows
CLAIM = re.compile(r"\*\*Claims? ([\d, and]+)")  # in bold: "Claim 8.", "Claims 11 and 12"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def prose(notebook):
    return "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def claims(path):
    """The numbers of the claims that a notebook names in bold."""
    return {int(number) for found in CLAIM.findall(prose(read(path))) for number in re.findall(r"\d+", found)}


def name(path):
    return path.stem


def test_the_course_is_complete():
    assert [path.stem for path in COURSE] == TITLES
    assert len(SOLUTIONS) >= 12


@pytest.mark.parametrize("path", COURSE + SOLUTIONS, ids=name)
def test_every_cell_was_run_once_in_order_without_an_error(path):
    cells = code_cells(read(path))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]


@pytest.mark.parametrize("path", COURSE, ids=name)
def test_nothing_was_warned_about(path):
    errors = [out for cell in code_cells(read(path)) for out in cell["outputs"] if out.get("name") == "stderr"]
    assert "Warning" not in "".join("".join(out["text"]) for out in errors)


@pytest.mark.parametrize("path", COURSE, ids=name)
def test_a_cell_with_the_budget_is_tagged_as_papermill_expects(path):
    tagged = [cell for cell in code_cells(read(path)) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1


@pytest.mark.parametrize("path", COURSE + SOLUTIONS, ids=name)
def test_it_says_nothing_about_the_machine_it_was_made_on(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"/(?:root|home|tmp|work|Users)/[\w.-]+", text)
    assert path.stat().st_size < MOST_BYTES
    assert read(path)["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", COURSE, ids=name)
def test_it_starts_with_a_title_and_a_question_and_ends_with_what_to_try(path):
    cells = read(path)["cells"]
    first, last = "".join(cells[0]["source"]), "".join(cells[-1]["source"])
    assert first.startswith("# ")
    assert "?" in first
    assert cells[-1]["cell_type"] == "markdown"
    assert "try" in last.lower()


@pytest.mark.parametrize("path", COURSE, ids=name)
def test_lines_of_code_fit_the_page(path):
    lines = [line.rstrip("\n") for cell in code_cells(read(path)) for line in cell["source"]]
    assert not [line for line in lines if len(line) > 88]


@pytest.mark.parametrize("path", COURSE, ids=name)
def test_every_picture_has_been_kept(path):
    """A cell that shows a figure has a PNG in its output."""
    for cell in code_cells(read(path)):
        if re.search(r"^show\(", "".join(cell["source"]), re.MULTILINE):
            assert any("image/png" in out.get("data", {}) for out in cell["outputs"])


def claims_table():
    """{number: [notebooks]} of the table in notebooks/README.md."""
    rows = re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {int(number): re.findall(r"\((\d\d_\w+)\.ipynb\)", places) for number, places in rows}


def test_each_claim_is_where_the_table_says():
    table = claims_table()
    assert sorted(table) == list(range(1, 19))
    for number, places in table.items():
        assert places, f"claim {number} is nowhere"
        for place in places:
            assert number in claims(FOLDER / f"{place}.ipynb"), f"claim {number} is not in {place}"


def test_the_table_has_every_place():
    table = claims_table()
    for path in COURSE:
        for number in claims(path):
            assert path.stem in table[number], f"{path.stem} has claim {number}, the table does not say so"
