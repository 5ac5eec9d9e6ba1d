"""The site is built, and every page of it is opened in Chromium, with no network: `pytest -m book`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from site_walk import WIDTHS, opened, served, walk

from lora_course.book.build import build

pytestmark = pytest.mark.book
SHARP = 2.0  # pixels of a stored picture for each that is shown


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site. Warnings are errors."""
    out = tmp_path_factory.mktemp("book") / "site"
    assert build(out, repository="owner/name", quiet=True) == 0
    return out


@pytest.fixture(scope="module")
def walked(site):
    return walk(site, SHARP)


@pytest.fixture
def page(site):
    with served(site) as address, opened(address, color_scheme="light") as (page, wrong):
        page.goto(address)
        yield page
        assert not wrong


def faults(walked, name):
    """{page: what was found there under this name}, where there is any."""
    return {path: found[name] for path, found in walked[0].items() if found[name]}


def test_every_page_is_there(walked):
    course = Path(__file__).parents[3] / "notebooks"
    notebooks = {path.stem for path in course.glob("[0-9]*.ipynb")} | {
        f"exercises/{path.stem}" for path in course.glob("exercises/*.ipynb")
    }
    assert {f"{name}.html" for name in notebooks} <= walked[0].keys()
    assert {"index.html", "claims.html", "glossary.html", "decisions.html", "api/adapters.html"} <= walked[0].keys()
    assert all(found["title"] and found["language"] == "en" for found in walked[0].values())


def test_every_link_within_it_leads_somewhere(site, walked):
    pages, broken = walked[0], []
    for path, found in pages.items():
        for link in found["links"]:
            target, _, anchor = link.partition("#")
            target = target.partition("?")[0] or "index.html"
            if not (site / target).is_file() or (anchor and anchor not in pages[target]["ids"]):
                broken.append((path, link))
    assert not broken


def test_nothing_goes_wrong_and_nothing_else_is_asked_for(walked):
    assert not walked[1]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(walked, width):
    wide = {path: found["overflow"][width] for path, found in walked[0].items() if found["overflow"][width]}
    assert not wide


@pytest.mark.parametrize("name", ["silent", "nameless", "broken", "blurred"])
def test_pictures_are_there_are_sharp_and_say_what_they_show(walked, name):
    assert not faults(walked, name)


def test_formulas_are_drawn(walked):
    assert not faults(walked, "raw")
    assert not faults(walked, "failed")
    assert sum(found["formulas"] for found in walked[0].values()) > 100
    assert not {path for path, found in walked[0].items() if found["drawn"] < found["formulas"]}


def test_search_finds_a_word(page):
    page.goto(f"{page.url}search.html?q=rsLoRA")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.getAttribute('href'))")
    assert any("06_rank_sweep" in link for link in found)
    assert any("glossary" in link for link in found)


def test_it_can_be_dark(page):
    background = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(page.evaluate(background)[:3]) > 200
    page.locator(".theme-switch-button:visible").first.click()
    page.locator(".theme-change-button[data-mode=dark]").first.click()
    page.wait_for_function(f"Math.max(...{background}.slice(0, 3)) < 60")


def test_a_notebook_has_its_button_and_its_imports_folded(page):
    page.goto(f"{page.url}01_quickstart.html")
    colab = "https://colab.research.google.com/github/owner/name/blob/main/notebooks/01_quickstart.ipynb"
    assert page.locator(f"a[href='{colab}']").count()
    folded = page.locator("details.hide").first
    assert "Show the imports" in folded.inner_text()
    assert not folded.locator("pre").first.is_visible()
    folded.locator("summary").click()
    assert folded.locator("pre").first.is_visible()
