"""A folder served to Chromium, which can reach nothing else."""

import contextlib
import functools
import http.server
import os
import shutil
import threading


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and adds up what it sent."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def copyfile(self, source, outputfile):
        content = source.read()
        self.server.sent += len(content)
        outputfile.write(content)

    def log_message(self, *_arguments):
        pass


@contextlib.contextmanager
def served(folder):
    """(the address of a folder, the server: `sent` says how many bytes it sent)."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        server.sent = 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", server
        server.shutdown()


@contextlib.contextmanager
def chromium_page(address):
    """A page of Chromium with no network but this address."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("LORA_NP_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

    def refuse_others(route):
        (route.continue_ if route.request.url.startswith((address, "blob:", "data:")) else route.abort)()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context()
        context.route("**/*", refuse_others)
        yield context.new_page()
        browser.close()
