"""The book with the notebooks in the browser: every button leads to its notebook, and one is pressed."""

from urllib.parse import parse_qs, urlsplit

import pytest
from browser_helpers import whole_runtime
from browser_pages import chromium_page, served

from lora_course import lite
from lora_course.book.build import build

pytestmark = pytest.mark.browser
BUTTON = "a.run-in-browser"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("book") / "site"
    assert build(out, quiet=True, lite=True, pyodide=whole_runtime()) == 0
    return out


@pytest.fixture(scope="module")
def opened(site):
    """(address, page)"""
    with served(site) as (address, _), chromium_page(address) as page:
        yield address, page


def test_every_button_leads_to_its_notebook_in_the_site(site, opened):
    address, page = opened
    for path in (path.relative_to(lite.ROOT / "notebooks") for path in lite.notebooks()):
        page.goto(f"{address}/{path.with_suffix('.html').as_posix()}", wait_until="domcontentloaded")
        url = urlsplit(page.locator(BUTTON).evaluate("link => link.href"))
        assert (site / url.path.lstrip("/")).is_file()
        assert parse_qs(url.query) == {"path": [path.as_posix()]}
        assert (site / "lite" / "files" / path).is_file()


def test_what_does_not_run_there_has_no_button_and_the_index_tells_of_it(opened):
    address, page = opened
    for name in lite.NOT_HERE:
        page.goto(f"{address}/{name.replace('.ipynb', '.html')}", wait_until="domcontentloaded")
        assert page.locator(BUTTON).count() == 0
    page.goto(f"{address}/index.html", wait_until="domcontentloaded")
    assert "Run it in the browser" in page.locator("article").inner_text()


def test_a_button_opens_the_notebook_and_its_kernel_starts(opened):
    address, page = opened
    page.goto(f"{address}/exercises/06_lora_forward.html")
    page.locator(BUTTON).click()
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.locator(".jp-Notebook h1", has_text="06 LoRA").wait_for(timeout=120_000)
    page.locator(".jp-Notebook .jp-CodeCell").first.click()
    page.keyboard.press("Shift+Enter")
    idle = "() => window.jupyterapp?.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
    page.wait_for_function(idle, timeout=240_000)
