"""Files: written so that an interruption loses nothing, read with a clear error. Nothing here unpickles.

Read in this order: saving.py (replacing files in one step, one or several), journal.py (what makes several one step),
versions.py (reading several of one version), locks.py, files.py (text and JSON), tensors.py (tensors that stay in their
file until they are read), then the two formats they come in, safetensors.py and gguf.py (split_gguf.py: in parts;
mistaken.py: files that are something else).

Several processes may write to one folder and read from it at the same time: each save is there whole or not at all, the
last one counts, and what is read is of one save.
"""

from .files import existing, read_json, read_text, write_json, write_text
from .safetensors import open_safetensors, open_sharded_safetensors, read_safetensors, write_safetensors
from .saving import claimed, remove, replacing, together
from .split_gguf import open_gguf
from .tensors import TensorFile
from .versions import is_there, one_version

__all__ = [
    "TensorFile",
    "claimed",
    "existing",
    "is_there",
    "one_version",
    "open_gguf",
    "open_safetensors",
    "open_sharded_safetensors",
    "read_json",
    "read_safetensors",
    "read_text",
    "remove",
    "replacing",
    "together",
    "write_json",
    "write_safetensors",
    "write_text",
]
