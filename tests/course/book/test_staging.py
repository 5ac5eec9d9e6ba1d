"""What is written once, in a README, stands in the book, too."""

import pytest

from lora_course.book.staging import REPOSITORY, stage


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged")
    stage(folder)
    return folder


def test_the_page_on_speed_has_the_readmes_tables_and_its_own(staged):
    page = (staged / "speed.md").read_text(encoding="utf-8")
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.partition("## How fast it is")[2].splitlines() if line.startswith("| ")]
    assert len(rows) > 8
    assert all(row in page for row in rows)
    assert "## 8 billion parameters on one card" in page
    assert "(pictures/scaling.png)" in page
    assert (staged / "pictures" / "scaling.png").is_file()


def test_the_page_on_use_and_the_claims_are_the_readmes(staged):
    assert "lora_alpha=16" in (staged / "using.md").read_text(encoding="utf-8")
    assert "| 18 |" in (staged / "claims.md").read_text(encoding="utf-8")
    assert "| 18 |" not in (staged / "README.md").read_text(encoding="utf-8")
