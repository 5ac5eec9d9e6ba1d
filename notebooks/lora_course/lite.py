"""The course in a page: `python -m lora_course.lite --out DIR` builds a JupyterLite site. Python runs in the browser.

`pip install -e './notebooks[lite]'` first. Any web server can serve the folder, such as `python -m http.server -d DIR`.
`python -m lora_course.book --lite` puts such a site into the book, and links each notebook of the book to it.
The notebooks begin with a cell that installs lora_np and lora_course from the site itself and chooses the small budget.
Python and NumPy, compiled to WebAssembly, come from Pyodide's own server, or from a folder (pyodide.py).
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import pyodide as runtime

ROOT = Path(__file__).resolve().parents[2]
NOT_HERE = {"10_real_llm.ipynb", "11_gpu.ipynb"}  # in a page there are no packages written in Rust, and no GPU
PAGE = "notebooks/index.html?path="  # of the site, before the path of a notebook
COMM = "comm==0.2.3"  # what the kernel needs, and Pyodide does not have
PLUGIN = "@jupyterlite/pyodide-kernel-extension:kernel"
FIRST_CELL = """\
# Python runs in this page. This brings the course; the small budget makes every run short.
%pip install -q lora_np lora_course
import os
import time

time.process_time = time.perf_counter  # the clock of the processor's own time stands at 0 here
get_ipython().Completer.use_jedi = False  # Tab completes what is there by now
os.environ["LORA_NP_BUDGET"] = "small"  # "full" computes what the text says, but takes many times as long here"""


def build(out, pyodide=None):
    """Write the site to the folder `out`.

    pyodide: a folder with Pyodide's files (pyodide.js, the wheels), copied into the site; None: the readers' browsers
    get them from Pyodide's server. ImportError if JupyterLite is not installed, RuntimeError if a step fails
    """
    if importlib.util.find_spec("jupyterlite_core") is None:
        raise ImportError("notebooks in the browser need JupyterLite: pip install -e './notebooks[lite]'")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("contents", "wheels", "lite"):
            (folder / name).mkdir()
        _put_notebooks(folder / "contents")
        packages = runtime.lock(pyodide)
        wheels = [*_wheels(folder / "wheels"), runtime.matplotlib_wheel(folder / "wheels", packages, pyodide)]
        (folder / "lite" / "jupyter-lite.json").write_text(json.dumps(_settings(pyodide)))
        kernel = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / PLUGIN.partition(":")[0]
        options = [f"--piplite-wheels={wheel}" for wheel in wheels]
        # No other extension that is installed here: some ask for a server, and the page waits for it.
        options += ["--LiteBuildConfig.ignore_sys_prefix=True", f"--LiteBuildConfig.federated_extensions={kernel}"]
        places = ["--lite-dir", folder / "lite", "--contents", folder / "contents", "--output-dir", Path(out).resolve()]
        apps = ["--apps", "notebooks", "--apps", "tree", "--no-sourcemaps"]
        command = [sys.executable, "-m", "jupyterlite_core", "build"]
        _run([*command, *places, *apps, *options], folder)  # it leaves a database where it runs
    (Path(out) / runtime.LOCK).write_text(json.dumps(runtime.short_lock(packages)), encoding="utf-8")
    if pyodide is not None:
        shutil.copytree(pyodide, Path(out) / "static" / "pyodide", dirs_exist_ok=True)


def notebooks():
    """The notebooks of the course that run in a browser, and the exercises."""
    found = [*(ROOT / "notebooks").glob("[0-9]*.ipynb"), *(ROOT / "notebooks" / "exercises").glob("*.ipynb")]
    return sorted(path for path in found if path.name not in NOT_HERE)


def link(page):
    """Where in the site the notebook opens that has this path below `notebooks/`; None if it is not there."""
    there = {path.relative_to(ROOT / "notebooks").as_posix() for path in notebooks()}
    return f"{PAGE}{page}" if page in there else None


def _put_notebooks(folder):
    for path in notebooks():
        target = folder / path.relative_to(ROOT / "notebooks")
        target.parent.mkdir(exist_ok=True)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first = {"cell_type": "code", "id": "in-a-page", "metadata": {}, "outputs": [], "execution_count": None}
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
        notebook["cells"].insert(0, first | {"source": FIRST_CELL})
        target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")


def _settings(pyodide):
    """jupyter-lite.json: where the kernel finds Python, and that nothing is asked of PyPI."""
    loaded = {"lockFileURL": runtime.LOCK, "packages": [*runtime.AT_ONCE, *runtime.LEFT_OUT]}
    kernel = {"disablePyPIFallback": True, "loadPyodideOptions": loaded}
    kernel["pyodideUrl"] = f"{runtime.SERVER if pyodide is None else './static/pyodide/'}pyodide.js"
    data = {"appName": "lora_np", "exposeAppInBrowser": True, "litePluginSettings": {PLUGIN: kernel}}
    return {"jupyter-lite-schema-version": 0, "jupyter-config-data": data}


def _wheels(folder):
    """The wheels that the site serves, all of them Python alone; what Pyodide has comes from there."""
    for project in (ROOT, ROOT / "notebooks"):
        copied = folder / "source"  # setuptools leaves its build folder where it builds
        left_out = shutil.ignore_patterns("build", "dist", "*.egg-info", ".git", "__pycache__", "runs", ".venv", "venv")
        shutil.copytree(project, copied, ignore=left_out)
        _run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, copied])
        shutil.rmtree(copied)
    _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder, COMM])
    return sorted(folder.glob("*.whl"))


def _run(command, cwd=None):
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the course as a site in which Python runs in the browser.")
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--pyodide", help="a folder with Pyodide's files; without it they come from Pyodide's server")
    options = parser.parse_args()
    build(options.out, options.pyodide)
