"""A walk through the built site in Chromium: what is measured on each page, at two widths."""

import functools
import http.server
import os
import shutil
import threading
from contextlib import contextmanager

WIDTHS = (1280, 390)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PROBE = """
async () => {
    if (window.MathJax?.startup) await MathJax.startup.promise;
    const start = (one) => one.outerHTML.slice(0, 100);
    const shown = (one) => one.checkVisibility();
    const named = (one) => one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
        || one.querySelector("title") || one.closest("[aria-hidden=true], mjx-container, [role=img][aria-label]");
    const article = document.querySelector("article") || document.createElement("div");
    const TEX = /\\$\\$|\\\\\\(|\\\\\\[|\\\\(frac|alpha|sqrt|mathrm|Delta|text)\\b/;
    const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    const raw = [];
    while (walker.nextNode()) {
        const node = walker.currentNode;
        if (node.parentElement.closest("pre, code, script, style, mjx-container, svg, textarea")) continue;
        if (TEX.test(node.data)) raw.push(node.data.trim());
    }
    return {
        ids: [...document.querySelectorAll("[id]")].map((one) => one.id),
        links: [...document.querySelectorAll("a[href]")].map((one) => one.href),
        silent: [...document.querySelectorAll("img")].filter((one) => !one.hasAttribute("alt")
            || (!one.alt.trim() && article.contains(one))).map((one) => one.src),
        nameless: [...article.querySelectorAll("svg")].filter((one) => !named(one)).map(start),
        broken: [...document.images].filter((one) => one.complete && !one.naturalWidth).map((one) => one.src),
        blurred: [...article.querySelectorAll('.cell_output img:not([src^="data:image/svg"])')].filter(
            (one) => shown(one) && one.clientWidth && one.naturalWidth < SHARP * one.clientWidth).map((one) => one.src),
        raw,
        formulas: article.querySelectorAll(".math").length,
        drawn: article.querySelectorAll(".math mjx-container, .math svg").length,
        failed: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
        language: document.documentElement.lang,
        title: document.title,
    };
}
"""
OVERFLOW = """
() => {
    const width = document.documentElement.clientWidth;
    const needed = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);
    if (needed <= width + 1) return [];
    const inside = (one) => one.closest("pre, table, mjx-container, .picture-wide");  // these scroll by themselves
    const wide = [...document.querySelectorAll("article *")].filter(
        (one) => one.getBoundingClientRect().right > width + 1 && !inside(one.parentElement));
    return [`${needed} px`].concat(wide.slice(0, 3).map((one) => one.outerHTML.slice(0, 120)));
}
"""


def chromium():
    """The path of a Chromium, or None for the one that Playwright has brought."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("LORA_NP_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Say nothing."""


@contextmanager
def served(folder):
    """The address at which the folder is served, on this machine alone."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def opened(address, **options):
    """A page of a new browser that reaches `address` only; what went wrong on it is in the list beside it."""
    from playwright.sync_api import sync_playwright

    wrong = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDTHS[0], "height": 900}, **options)
        page.on("console", lambda message: message.type == "error" and wrong.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
        page.on("requestfailed", lambda request: wrong.append(f"{page.url}: {request.url} failed"))
        inside = ("data:", "blob:", address)
        page.route("**", lambda route: route.continue_() if route.request.url.startswith(inside) else route.abort())
        yield page, wrong
        browser.close()


def walk(folder, sharp=1.0):
    """{page's path: what `PROBE` finds there, with "overflow": {width: elements}}, and what went wrong."""
    seen = {}
    with served(folder) as address, opened(address) as (page, wrong):
        for path in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html")):
            if path.startswith("_static/"):
                continue
            page.set_viewport_size({"width": WIDTHS[0], "height": 900})
            page.goto(address + path)
            found = page.evaluate(PROBE.replace("SHARP", str(sharp)))
            found["links"] = [link.removeprefix(address) for link in found["links"] if link.startswith(address)]
            found["overflow"] = {}
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                found["overflow"][width] = page.evaluate(OVERFLOW)
            seen[path] = found
    return seen, wrong
