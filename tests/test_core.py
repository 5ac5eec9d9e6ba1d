"""With NumPy, safetensors and tqdm alone the core does its work, and names what brings each of the rest."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from core_only import EXTRAS

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """{package: what is said when it is missing}, from a process in which none of the extras is."""
    command = [sys.executable, str(TESTS / "core_only.py"), str(tmp_path_factory.mktemp("core"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def project():
    return tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements):
    return [re.match(r"[\w-]+", requirement).group() for requirement in requirements]


def extra_of(package):
    """The extra that brings a package, besides "all"."""
    (found,) = (name for name, needed in project()["optional-dependencies"].items() if package in names(needed))
    return found


def test_the_core_needs_three_packages():
    assert names(project()["dependencies"]) == ["numpy", "safetensors", "tqdm"]


def test_all_brings_every_extra_and_requirements_txt_brings_all():
    (all_of_them,) = project()["optional-dependencies"]["all"]
    listed = re.fullmatch(r"lora_np\[(.*)\]", all_of_them).group(1).split(",")
    assert listed == sorted({extra_of(package) for package in EXTRAS})
    assert "-e .[all," in (TESTS.parent / "requirements.txt").read_text()


@pytest.mark.parametrize("package", sorted({*EXTRAS} - {"threadpoolctl"}))
def test_a_missing_package_is_named_with_what_brings_it(messages, package):
    assert set(messages) == {*EXTRAS} - {"threadpoolctl"}
    command = f"pip install -e '.[{extra_of(package)}]' (or pip install {package})"
    assert messages[package].endswith(f" needs the package {package}: {command}")


def test_the_readme_counts_the_lines_that_it_asks_to_read():
    text = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Read it")[2].partition("Beyond the afternoon")[0]
    files = re.findall(r"^\| \d+ \| `(lora_np/[\w/]+\.py)`", table, re.MULTILINE)
    lines = sum(len((TESTS.parent / file).read_text(encoding="utf-8").splitlines()) for file in files)
    assert len(files) == 10
    assert f"{lines:,} lines" in table
    assert lines <= 1900
