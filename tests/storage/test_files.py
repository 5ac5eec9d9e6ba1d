"""Files: clear errors when they are read, and never half a file when they are written."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lora_np import storage
from lora_np.storage import (
    existing,
    open_gguf,
    open_safetensors,
    open_sharded_safetensors,
    read_json,
    read_safetensors,
    replacing,
    write_json,
    write_safetensors,
    write_text,
)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


class TestReplacing:
    def test_the_file_changes_when_the_block_ends_and_not_before(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        with replacing(path) as temporary:
            assert temporary.parent == path.parent
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
        assert names(tmp_path) == ["file"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("existed", [True, False])
    def test_an_error_leaves_the_old_file_and_nothing_beside_it(self, tmp_path, error, existed):
        path = tmp_path / "file"
        if existed:
            path.write_text("old")

        def write_half():
            with replacing(path) as temporary:
                temporary.write_text("half")
                raise error

        with pytest.raises(error):
            write_half()
        assert names(tmp_path) == (["file"] if existed else [])
        assert not existed or path.read_text() == "old"

    def test_an_error_while_renaming_leaves_nothing_beside_it_either(self, tmp_path):
        (tmp_path / "file").mkdir()  # a directory cannot be replaced by a file
        with pytest.raises(OSError, match="file"), replacing(tmp_path / "file") as temporary:
            temporary.write_text("new")
        assert names(tmp_path) == ["file"]

    def test_missing_folders_are_made(self, tmp_path):
        write_text(tmp_path / "a" / "b" / "file", "new")
        assert (tmp_path / "a" / "b" / "file").read_text() == "new"

    @pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o400])
    def test_the_permissions_of_the_old_file_are_kept(self, tmp_path, mode):
        path = tmp_path / "file"
        path.write_text("old")
        path.chmod(mode)
        write_text(path, "new")
        assert path.stat().st_mode & 0o777 == mode
        assert path.read_text() == "new"

    @pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
    def test_a_new_file_has_the_usual_permissions(self, tmp_path, mask, mode):
        before = os.umask(mask)
        try:
            write_text(tmp_path / "file", "new")
            assert os.umask(mask) == mask  # read without being changed
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode


class TestJson:
    def test_it_is_indented_sorted_and_comes_back(self, tmp_path):
        value = {"b": [1, 2.5, None], "a": {"d": "é", "c": True}}
        write_json(tmp_path / "x.json", value)
        text = (tmp_path / "x.json").read_text()
        assert text == json.dumps({"a": value["a"], "b": value["b"]}, indent=2) + "\n"  # what is inside keeps its order
        assert read_json(tmp_path / "x.json") == value

    def test_what_is_no_json_leaves_the_old_file(self, tmp_path):
        write_json(tmp_path / "x.json", {"a": 1})
        with pytest.raises(TypeError):
            write_json(tmp_path / "x.json", {"a": object()})
        assert read_json(tmp_path / "x.json") == {"a": 1}
        assert names(tmp_path) == ["x.json"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not valid JSON"),
            (b'{"a": 1', "not valid JSON"),
            (b"{'a': 1}", "not valid JSON"),
            (b"\xff\xfe\x00", "not valid JSON"),
            (b"[" * 100_000, "not valid JSON"),
            (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
            (b"[1, 2]", "should hold a JSON object, not a list"),
            (b'"text"', "should hold a JSON object, not a str"),
            (b"null", "should hold a JSON object, not a NoneType"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_anything_else_is_refused_with_the_files_name(self, tmp_path, content, message):
        path = tmp_path / "x.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            read_json(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "read", [read_json, read_safetensors, existing, open_safetensors, open_sharded_safetensors, open_gguf]
)
def test_a_file_that_is_not_there_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is a directory, not a file"):
        read(tmp_path)


KILLED = """
import os, signal, sys
import numpy as np
from lora_np import storage

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

class NeverWritten:
    dtype, shape, nbytes = np.dtype("f8"), (1000,), 8000

    def astype(self, *_, **__):
        die()

where, path = sys.argv[1:]
arrays = {"a": np.full(10**5, 2.0)}
if where == "while writing":
    arrays["b"], storage.safetensors.to_numpy = NeverWritten(), lambda array: array
else:
    os.replace = die
storage.write_safetensors(path, arrays)
"""

WRITING = """
import sys
import numpy as np
from lora_np.storage import write_safetensors

for i in range(2, 10**6):
    write_safetensors(sys.argv[1], {"a": np.full(10**6, float(i))})
    print(i, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
class TestKilled:
    @pytest.mark.parametrize("where", ["while writing", "before the new name"])
    def test_the_old_file_can_still_be_read(self, tmp_path, where):
        path = tmp_path / "x.safetensors"
        write_safetensors(path, {"a": np.ones(3)})
        ended = subprocess.run([sys.executable, "-c", KILLED, where, str(path)], timeout=60)
        assert ended.returncode == -signal.SIGKILL
        np.testing.assert_array_equal(read_safetensors(path)[0]["a"], np.ones(3))
        assert len(names(tmp_path)) == 2  # it had begun

    def test_at_any_moment_there_is_one_whole_file(self, tmp_path):
        path = tmp_path / "x.safetensors"
        write_safetensors(path, {"a": np.ones(10**6)})
        for delay in (0.0, 0.003, 0.011):
            process = subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE)
            with process:
                process.stdout.readline()  # the first is written: the loop is running
                time.sleep(delay)
                process.kill()
            array = read_safetensors(path)[0]["a"]
            assert array.shape == (10**6,)
            assert (array == array[0]).all()


def test_every_writer_goes_through_replacing(tmp_path, monkeypatch):
    used, original = [], storage.replacing
    for module in (storage.files, storage.safetensors):
        monkeypatch.setattr(module, "replacing", lambda path: used.append(path.name) or original(path))
    write_text(tmp_path / "x.txt", "")
    write_json(tmp_path / "x.json", {})
    write_safetensors(tmp_path / "x.safetensors", {})
    assert used == ["x.txt", "x.json", "x.safetensors"]
