"""Print the lowest version that pyproject.toml allows of each package that lora_np needs, one a line, for pip's -c."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
(everything,) = extras["all"]  # lora_np[gguf,hub,...]
needed = [line for name in re.findall(r"\w+", everything.partition("[")[2]) for line in extras[name]]
for requirement in [*project["dependencies"], *needed]:
    name, version = re.match(r"([\w-]+)>=([\w.]+)", requirement).groups()
    print(f"{name}=={version}")
