"""lora_np in a page, in Chromium, which can reach nothing but the folder that is served here."""

import functools
import http.server
import json
import os
import shutil
import threading
import time

import numpy as np
import pytest
from browser_helpers import half_a_minute, own_wheel, pure_wheel, readme_example, runtime, told
from playwright.sync_api import sync_playwright

pytestmark = pytest.mark.browser


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and adds up what it sent."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}
    sent = 0

    def copyfile(self, source, outputfile):
        content = source.read()
        Handler.sent += len(content)
        outputfile.write(content)

    def log_message(self, *_arguments):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a page that runs the README's program."""
    folder = tmp_path_factory.mktemp("site")
    wheels = [pure_wheel("tqdm==4.67.1"), own_wheel()]
    for path in (*runtime().iterdir(), *wheels):
        shutil.copy(path, folder)
    shutil.copy(os.path.join(os.path.dirname(__file__), "page.html"), folder)
    (folder / "program.py").write_text(readme_example(), encoding="utf-8")
    said = {"packages": ["micropip", "numpy"], "wheels": [wheel.name for wheel in wheels]}
    (folder / "program.json").write_text(json.dumps(said))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def refuse_others(route):
    """There is no network."""
    url = route.request.url
    (route.continue_ if url.startswith("http://127.0.0.1") else route.abort)()


@pytest.fixture(scope="module")
def seen(address):
    """(what the page printed, seconds from opening it to the first step), once the program has ended."""
    path = os.environ.get("LORA_NP_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.route("**/*", refuse_others)
        began = time.monotonic()
        page.goto(f"{address}/page.html")
        page.wait_for_function("/^loss /m.test(printed.textContent) || document.title === 'failed'", timeout=120_000)
        first = time.monotonic() - began
        page.wait_for_function("['done', 'failed'].includes(document.title)", timeout=120_000)
        printed = page.locator("#printed").inner_text()
        assert page.title() == "done", printed
        browser.close()
    return printed, first


def test_the_readmes_example_trains_in_a_page(seen):
    losses = np.array([float(loss) for loss, _ in told(seen[0], "loss")])
    assert len(losses) == 20
    np.testing.assert_allclose(losses[0], 1.05701, rtol=1e-5)
    assert losses[-1] < 0.05
    assert seen[0].count("A rose is a rose") == 1


def test_the_first_step_comes_soon_after_few_bytes(seen, record_property):
    record_property("first_step_s", seen[1])
    record_property("megabytes", Handler.sent / 1e6)
    print(f"first step after {seen[1]:.1f} s, {Handler.sent / 1e6:.1f} MB")
    assert seen[1] < half_a_minute()
    assert Handler.sent < 25e6
