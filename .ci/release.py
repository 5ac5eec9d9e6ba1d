"""Build the wheel and the sdist, and use the wheel alone: in a fresh environment, in a folder that holds no clone.

`python .ci/release.py [FOLDER]`; the two files are left in FOLDER, if one is named. Needs the package build.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 5_000_000  # bytes


def main(folder=None):
    """Raise at the first thing that is wrong."""
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(folder or Path(temporary) / "dist")
        run([sys.executable, "-m", "build", "--outdir", built, ROOT], cwd=temporary)  # the wheel from the sdist
        wheel, version = built / f"lora_np-{said_version()}-py3-none-any.whl", said_version()
        assert (built / f"lora_np-{version}.tar.gz").is_file(), "no sdist of this version"
        check_contents(wheel)
        use(wheel, version, Path(temporary))
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB; installed alone, it trains")


def said_version():
    """The one version that is said in all places."""
    course = tomllib.loads((ROOT / "notebooks" / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M).group(1)
    code = (ROOT / "lora_np" / "__init__.py").read_text(encoding="utf-8")
    versions = {course, cited, re.search(r'^__version__ = "(.*)"$', code, re.M).group(1)}
    assert len(versions) == 1, f"several versions are said: {versions}"
    return versions.pop()


def check_contents(wheel):
    """Python, small, with all of the package and nothing else."""
    assert wheel.stat().st_size < LARGEST, f"{wheel.stat().st_size} bytes"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "lora_np").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    wanted = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".md"}
    assert names == wanted, f"missing {sorted(wanted - names)[:5]}, too many {sorted(names - wanted)[:5]}"


def use(wheel, version, folder):
    """Install the wheel, and do with it what the README says."""
    venv.create(folder / "environment", with_pip=True)
    programs = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
    python, lora_np = programs / "python", programs / "lora-np"
    run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel], folder)
    where = "import lora_np; print(lora_np.__version__, lora_np.__file__)"
    assert run([python, "-c", where], folder).startswith(f"{version} {folder.resolve() / 'environment'}")
    assert "the main job runs" in " ".join(run([python, "-m", "lora_np", "--help"], folder).split())
    assert "SmolLM2-135M-Instruct" in run([lora_np, "fetch", "--help"], folder)
    told = run([python, "-m", "lora_np", "finetune", "--steps", "2", "--batch-size", "4", "--out", "adapter"], folder)
    assert "trainable params" in told, told
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(os.listdir(folder / "adapter"))
    written = run([lora_np, "generate", "--adapter", "adapter", "--greedy", "--max-new-tokens", "4", "import "], folder)
    assert written.strip(), "nothing was written"


def run(command, cwd):
    """What a command prints, in an environment that knows nothing of the clone."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
