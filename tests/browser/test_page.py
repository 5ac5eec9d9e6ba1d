"""lora_np in a page, in Chromium, which can reach nothing but the folder that is served here."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from browser_helpers import half_a_minute, own_wheel, pure_wheel, readme_example, runtime, told
from browser_pages import chromium_page, served

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with a page that runs the README's program."""
    folder = tmp_path_factory.mktemp("site")
    wheels = [pure_wheel("tqdm==4.67.1"), own_wheel()]
    for path in (*runtime().iterdir(), *wheels, Path(__file__).with_name("page.html")):
        shutil.copy(path, folder)
    (folder / "program.py").write_text(readme_example(), encoding="utf-8")
    said = {"packages": ["micropip", "numpy"], "wheels": [wheel.name for wheel in wheels]}
    (folder / "program.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def seen(site):
    """(what the page printed, seconds from opening it to the first step, bytes), once the program has ended."""
    with served(site) as (address, server), chromium_page(address) as page:
        began = time.monotonic()
        page.goto(f"{address}/page.html")
        page.wait_for_function("/^loss /m.test(printed.textContent) || document.title === 'failed'", timeout=120_000)
        first = time.monotonic() - began
        page.wait_for_function("['done', 'failed'].includes(document.title)", timeout=120_000)
        printed = page.locator("#printed").inner_text()
        assert page.title() == "done", printed
        return printed, first, server.sent


def test_the_readmes_example_trains_in_a_page(seen):
    losses = np.array([float(loss) for loss, _ in told(seen[0], "loss")])
    assert len(losses) == 20
    np.testing.assert_allclose(losses[0], 1.05701, rtol=1e-5)
    assert losses[-1] < 0.05
    assert seen[0].count("A rose is a rose") == 1


def test_the_first_step_comes_soon_after_few_bytes(seen):
    print(f"first step after {seen[1]:.1f} s, {seen[2] / 1e6:.1f} MB")
    assert seen[1] < half_a_minute()
    assert seen[2] < 25e6
