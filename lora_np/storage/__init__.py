"""Files: written so that an interruption loses nothing, read with a clear error. Nothing here unpickles.

Read in this order: files.py (atomic writing, text, JSON), tensors.py (tensors that stay in their file until they are
read), then the two formats they come in, safetensors.py and gguf.py.
"""

from .files import existing, present, read_json, replacing, write_json, write_text
from .gguf import open_gguf
from .safetensors import open_safetensors, open_sharded_safetensors, read_safetensors, write_safetensors
from .tensors import TensorFile

__all__ = [
    "TensorFile",
    "existing",
    "open_gguf",
    "open_safetensors",
    "open_sharded_safetensors",
    "present",
    "read_json",
    "read_safetensors",
    "replacing",
    "write_json",
    "write_safetensors",
    "write_text",
]
