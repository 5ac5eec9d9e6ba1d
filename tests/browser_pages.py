"""A folder served to Chromium, which can reach nothing else."""

import contextlib
import functools
import gzip
import http.server
import os
import shutil
import threading
from pathlib import Path

PACKED = {".css", ".html", ".ipynb", ".js", ".json", ".mjs", ".svg", ".wasm"}  # wheels and the like are packed already


@functools.cache
def packed(path):
    return gzip.compress(Path(path).read_bytes(), 6)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, text and WebAssembly by gzip, as the web's servers do, and adds up what it sent."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if path.suffix not in PACKED or not path.is_file() or "gzip" not in self.headers.get("Accept-Encoding", ""):
            super().do_GET()
            return
        content = packed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.server.sent += len(content)
        with contextlib.suppress(ConnectionError):  # a page that is left takes no more
            self.wfile.write(content)

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
