"""What is read is of one version, while others write."""

import contextlib
import os
import signal
import time

import numpy as np
import pytest
from interruption_helpers import Lines, interrupted
from process_helpers import forks, start, wait

from lora_np import storage
from lora_np.storage import (
    is_there,
    one_version,
    open_gguf,
    open_safetensors,
    open_sharded_safetensors,
    read_json,
    read_safetensors,
    replacing,
    together,
    write_json,
    write_safetensors,
    write_text,
)

READS = 300
NAMES = [f"t{i}" for i in range(8)]


def arrays(version):
    return {name: np.full((50, 20), version, "f4") for name in NAMES}


class OneFile:
    def write(self, folder, version):
        write_safetensors(folder / "x", arrays(version))

    def read(self, folder):
        with open_safetensors(folder / "x") as file:
            return [file.read(name)[0, 0] for name in file.shapes]


class Whole(OneFile):
    def read(self, folder):
        return [array[0, 0] for array in read_safetensors(folder / "x")[0].values()]


class GGUF:
    def write(self, folder, version):
        import gguf

        with replacing(folder / "x") as temporary:
            writer = gguf.GGUFWriter(temporary, "llama")
            for name, array in arrays(version).items():
                writer.add_tensor(name, array)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

    def read(self, folder):
        with open_gguf(folder / "x") as file:
            return [file.read(name)[0, 0] for name in file.shapes]


class Shards:
    """The number of shards changes with the version: names come and go."""

    def write(self, folder, version):
        count = 2 + version % 3
        with together(folder):
            for i in range(count):
                mine = {name: array for name, array in arrays(version).items() if int(name[1:]) % count == i}
                write_safetensors(folder / f"{i}.safetensors", mine)
            for i in range(count, 4):
                storage.remove(folder / f"{i}.safetensors")
            weight_map = {name: f"{int(name[1:]) % count}.safetensors" for name in NAMES}
            write_json(folder / "x.index.json", {"weight_map": weight_map})

    def read(self, folder):
        with open_sharded_safetensors(folder / "x.index.json") as file:
            return [file.read(name)[0, 0] for name in file.shapes]


class Pair:
    """Weights and configuration, and a third file that some versions do not have."""

    def write(self, folder, version):
        with together(folder):
            write_safetensors(folder / "x", arrays(version))
            write_json(folder / "config.json", {"version": version, "more": version % 2})
            (write_text if version % 2 else lambda path, _: storage.remove(path))(folder / "more", str(version))

    @staticmethod
    @one_version
    def read_all(folder):
        config = read_json(folder / "config.json")
        more = float(storage.read_text(folder / "more")) if is_there(folder / "more") else None
        assert (more is not None) == config["more"]
        with open_safetensors(folder / "x") as file:
            values = [file.read(name)[0, 0] for name in file.shapes]
        return [*values, config["version"], *([more] if config["more"] else [])]

    def read(self, folder):
        return self.read_all(folder)


KINDS = [OneFile(), Whole(), GGUF(), Shards(), Pair()]


def write_for_ever(kind, folder, first):
    for version in range(first, 10**6, 2):
        kind.write(folder, version)


@forks
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_two_writers_and_one_reader(tmp_path, kind):
    if isinstance(kind, GGUF):
        pytest.importorskip("gguf")
    kind.write(tmp_path, 0)
    writers = [start(write_for_ever, kind, tmp_path, first) for first in (1, 2)]
    found = set()
    try:
        for _ in range(READS):
            values = set(kind.read(tmp_path))
            assert len(values) == 1
            found |= values
    finally:
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
            wait(writer)
    assert len(found) > 10  # there were many versions to mix


class TestOneHandle:
    """Replaced or changed between the opening and the reading of a tensor."""

    @pytest.fixture
    def path(self, tmp_path):
        write_safetensors(tmp_path / "x", arrays(1))
        return tmp_path / "x"

    def test_an_open_file_stays_what_it_was(self, path):
        with open_safetensors(path) as file:
            first = file.read("t0")
            write_safetensors(path, {"t1": np.full((50, 20), 2.0)})
            assert (file.read("t1") == 1).all()
            path.unlink()
            assert (file.read("t2") == first).all()

    def test_one_that_is_changed_where_it_is_is_refused(self, path):
        """Other libraries write over a file, and do not replace it."""
        with open_safetensors(path) as file:
            content = path.read_bytes()
            time.sleep(0.02)  # the clock of some file systems is slow
            path.write_bytes(content[:-4] + b"\0\0\0\0")
            with pytest.raises(ValueError, match=r"x was written to while it was read: read it again"):
                file.read("t0")

    def test_a_closed_one_says_so(self, path):
        with open_safetensors(path) as file:
            pass
        with pytest.raises(ValueError, match="x is closed: open it again"):
            file.read("t0")

    def test_nothing_stays_open(self, path):
        folder = f"/proc/{os.getpid()}/fd"
        if not os.path.isdir(folder):
            pytest.skip("the system does not list open files")

        def held():
            links = []
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):
                    links.append(os.readlink(f"{folder}/{name}"))
            return [link for link in links if str(path.parent) in link]

        read_safetensors(path)
        open_safetensors(path).read("t0")
        assert not is_there(path.parent / "y")
        write_safetensors(path, arrays(3))
        with pytest.raises(KeyError):
            open_safetensors(path).read("no such tensor")
        (path.parent / "bad").write_text("no weights")
        with pytest.raises(ValueError, match="bad"):
            open_safetensors(path.parent / "bad")
        assert held() == []


def test_a_file_that_comes_while_it_is_looked_for_makes_it_begin_again(tmp_path):
    write_text(tmp_path / "a", "1")
    seen = []

    @one_version
    def read(folder):
        seen.append(is_there(folder / "b"))
        if len(seen) == 1:
            with together(folder):
                write_text(folder / "a", "2")
                write_text(folder / "b", "2")
        return seen[-1], storage.read_text(folder / "a")

    assert read(tmp_path) == (True, "2")


def test_a_folder_that_changes_all_the_time_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.versions, "PATIENCE", 0.05)
    write_text(tmp_path / "a", "0")
    write_text(tmp_path / "b", "0")

    @one_version
    def read(folder):
        storage.read_text(folder / "a")
        write_text(folder / "a", str(time.monotonic()))
        return storage.read_text(folder / "b")

    with pytest.raises(OSError, match="is written to all the time"):
        read(tmp_path)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_after_an_interrupted_read_the_next_one_sees_what_is_there(tmp_path, kind):
    """What one call has seen of a folder is never that of the next, at whichever line the first was broken off."""
    path = tmp_path / "x.json"
    write_json(path, {"version": 0})
    lines = Lines()
    lines.run(lambda: read_json(path))
    for at in range(len(lines.lines)):
        interrupted(lambda: read_json(path), at, kind)
        write_json(path, {"version": at})
        assert read_json(path) == {"version": at}, f"broken off at {lines.lines[at]}"
