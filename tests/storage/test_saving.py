"""Replacing files: one in one step, several as one, whatever happens in between; errors are sentences."""

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from process_helpers import as_nobody, in_child, killed_at_line, raising_at_line

from lora_np import storage
from lora_np.storage import (
    claimed,
    is_there,
    read_safetensors,
    remove,
    replacing,
    together,
    write_json,
    write_safetensors,
    write_text,
)


@pytest.fixture
def open_folder():
    """A folder that other users can get into, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)
    shutil.rmtree(folder)


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


# Several files as one.

CONTENTS = {"weights": ("old weights", "new weights"), "config": ("old config", "new config"), "more": ("old", None)}
OLD = {name: old for name, (old, _) in CONTENTS.items()}
NEW = {name: new for name, (_, new) in CONTENTS.items() if new}


def write(folder, contents):
    for name, text in contents.items():
        write_text(folder / name, text)


def save_new(folder):
    with together(folder):
        write(folder, NEW)
        remove(folder / "more")


@storage.one_version
def read(folder):
    """{name: text}, as a reader of this library finds it."""
    return {name: storage.read_text(folder / name) for name in CONTENTS if is_there(folder / name)}


def plainly(folder):
    """{name: text}, as anybody finds it who knows nothing of this library."""
    return {name: (folder / name).read_text() for name in CONTENTS if (folder / name).exists()}


def write_all_and_fail(folder):
    write(folder, NEW)
    remove(folder / "more")
    raise ZeroDivisionError


class TestTogether:
    def test_nothing_changes_before_the_block_ends(self, tmp_path):
        write(tmp_path, OLD)
        with together(tmp_path):
            write(tmp_path, NEW)
            remove(tmp_path / "more")
            assert plainly(tmp_path) == read(tmp_path) == OLD
        assert plainly(tmp_path) == read(tmp_path) == NEW
        assert names(tmp_path) == ["config", "weights"]

    def test_an_error_after_all_is_written_changes_nothing(self, tmp_path):
        write(tmp_path, OLD)
        with pytest.raises(ZeroDivisionError), together(tmp_path):
            write_all_and_fail(tmp_path)
        assert plainly(tmp_path) == OLD
        assert names(tmp_path) == sorted(OLD)

    def test_folders_that_were_made_for_nothing_go_again(self, tmp_path):
        with pytest.raises(ZeroDivisionError), together(tmp_path / "a" / "b"):
            write_all_and_fail(tmp_path / "a" / "b")
        assert names(tmp_path) == []

    def test_blocks_in_blocks_wait_for_the_outermost_also_in_other_folders(self, tmp_path):
        with together(tmp_path):
            with together(tmp_path / "inside"):
                write(tmp_path / "inside", NEW)
            write(tmp_path, NEW)
            assert plainly(tmp_path) == plainly(tmp_path / "inside") == {}
        assert plainly(tmp_path) == plainly(tmp_path / "inside") == NEW

    def test_of_a_file_that_is_written_twice_the_last_counts(self, tmp_path):
        with together(tmp_path):
            write_text(tmp_path / "weights", "first")
            write(tmp_path, NEW)
            remove(tmp_path / "config")
            write_text(tmp_path / "config", "last")
        assert plainly(tmp_path) == {**NEW, "config": "last"}
        assert names(tmp_path) == ["config", "weights"]

    def test_where_one_file_changes_others_see_one_step_as_well(self, tmp_path, monkeypatch):
        """Weights saved again with the same configuration: there is no moment without a file."""
        write(tmp_path, {**NEW, "weights": "old weights"})
        monkeypatch.setattr(os, "unlink", lambda path: pytest.fail(str(path)) if Path(path).name in NEW else None)
        with together(tmp_path):
            write(tmp_path, NEW)
        assert plainly(tmp_path) == NEW


def every_line(act, tmp_path, folder):
    """Fresh folders, in each of which `act(line, folder)` breaks off at a later line; ends with the last.

    With LORA_NP_EVERY_LINE set, the next line each time; without it, the fifth.
    """
    step = 1 if os.environ.get("LORA_NP_EVERY_LINE") else 5
    for line in range(1, 10_000, step):
        (tmp_path / str(line)).mkdir()
        place = folder(tmp_path / str(line))
        if not act(line, place):
            assert line > 100
            return
        yield line, place


def with_old(folder):
    write(folder, OLD)
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_killed_at_any_line_there_is_all_of_the_old_or_all_of_the_new(tmp_path):
    found = []
    for line, folder in every_line(lambda line, folder: killed_at_line(line, save_new, folder), tmp_path, with_old):
        found.append(read(folder))
        assert found[-1] in (OLD, NEW), line
        seen = plainly(folder)
        assert "config" not in seen or seen["config"][:3] == seen["weights"][:3], line  # others find no mixture either
        write_text(folder / "other", "the next save")
        assert plainly(folder) == found[-1], line  # which has finished what was begun
        assert set(names(folder)) == {*found[-1], "other"}, line  # and removed what was left
    assert found[0] == OLD
    assert found[-1] == NEW
    assert found == sorted(found, key=lambda state: state == NEW)  # there is one moment from which on the new counts


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, lambda: OSError(errno.EIO, "broken")], ids=["Ctrl-C", "broken disk"]
)
def test_an_error_at_any_line_leaves_all_of_the_old_or_all_of_the_new(tmp_path, error):
    act = lambda line, folder: raising_at_line(line, error, save_new, folder)  # noqa: E731
    for line, folder in every_line(act, tmp_path, with_old):
        found = read(folder)
        assert found in (OLD, NEW), line
        write_text(folder / "other", "the next save")
        assert plainly(folder) == found, line
        assert set(names(folder)) == {*found, "other"}, line


class TestHalfDone:
    """A save that was killed after its journal was written, and before anything had its name."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        write(tmp_path, OLD)
        with monkeypatch.context() as patch, contextlib.suppress(ZeroDivisionError):
            patch.setattr(storage.journal.Journal, "carry_out", lambda *_, **__: 1 / 0)
            save_new(tmp_path)
        assert plainly(tmp_path) == OLD
        assert read(tmp_path) == NEW
        return tmp_path

    def test_what_another_program_has_written_since_counts(self, folder):
        (folder / "config").write_text("by another program")
        assert read(folder) == {**OLD, "config": "by another program"}
        write_text(folder / "other", "")
        assert plainly(folder) == {**OLD, "config": "by another program"}
        assert names(folder) == ["config", "more", "other", "weights"]

    @pytest.mark.parametrize("lost", [".lora_np-saving", "weights"])
    def test_a_copy_without_hidden_files_holds_the_old_ones(self, folder, lost):
        for path in [path for path in folder.iterdir() if path.name.startswith(("." + lost).replace("..", "."))]:
            path.unlink()
        assert read(folder) == OLD

    def test_a_whole_copy_is_as_good(self, folder, tmp_path_factory):
        copy = tmp_path_factory.mktemp("copy") / "copy"
        shutil.copytree(folder, copy)
        assert read(copy) == NEW

    def test_reading_changes_nothing(self, folder):
        before = names(folder)
        assert read(folder) == NEW
        assert names(folder) == before
        assert plainly(folder) == OLD

    @pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "..", "", "a\\b", "c:x", "a\0"])
    def test_a_journal_that_names_files_elsewhere_is_none(self, folder, name):
        text = (folder / ".lora_np-saving").read_text()
        write = (folder / ".lora_np-saving").write_text
        for part in ("config", next(name for name in names(folder) if name.startswith(".weights"))):
            assert part in text
            write(text.replace(json_text(part), json_text(name)))
            assert read(folder) == OLD

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"changes": {}}', '{"changes": {"a": 1}, "removed": {}}', "[" * 10**5]
    )
    def test_a_damaged_journal_is_none(self, folder, text):
        (folder / ".lora_np-saving").write_text(text)
        assert read(folder) == OLD
        write_text(folder / "other", "")
        assert names(folder) == ["config", "more", "other", "weights"]


def json_text(text):
    import json

    return json.dumps(text)


class TestLeftovers:
    def test_those_of_a_live_writer_stay(self, tmp_path):
        with replacing(tmp_path / "file") as temporary:
            assert in_child(write_text, tmp_path / "other", "another process") is None
            assert temporary.exists()
            temporary.write_text("new")
        assert (tmp_path / "file").read_text() == "new"
        assert names(tmp_path) == ["file", "other"]

    def test_what_looks_like_one_and_is_a_users_stays(self, tmp_path):
        kept = [".file.backup_1", ".weights.abcdefgh", "lora_np-tmp"]
        for name in kept:
            (tmp_path / name).write_text("mine")
        write_text(tmp_path / "file", "new")
        assert names(tmp_path) == sorted([*kept, "file"])

    def test_they_go_before_anything_is_written(self, tmp_path):
        (tmp_path / ".weights.0123abcd.lora_np-tmp").write_text("fills the disk")
        with replacing(tmp_path / "file") as temporary:
            assert names(tmp_path) == [temporary.name]


class TestPermissions:
    def test_the_disk_has_the_file_then_its_name(self, tmp_path, monkeypatch):
        """fsync of the file before it takes its name, and of the folder afterwards: a power cut brings nothing back."""
        calls, fsync, replace = [], os.fsync, os.replace

        def note_fsync(handle):
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            calls.append("folder" if is_folder else "file")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", lambda *paths: calls.append("name") or replace(*paths))
        write_text(tmp_path / "file", "new")
        assert calls == ["file", "name", "folder"]
        calls.clear()
        save_new(tmp_path)
        files, journal, names_ = ["file"] * 2, ["file", "folder", "name", "folder"], ["name", "name", "folder"]
        assert calls == [*files, *journal, *names_]

    def test_folders_that_can_not_be_synced_are_no_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(storage.journal.os, "open", refuse_folders(os.open))
        write_text(tmp_path / "file", "new")
        assert (tmp_path / "file").read_text() == "new"

    def test_the_mode_is_kept_by_another_user_too_and_never_wider_in_between(self, open_folder):
        path = open_folder / "file"
        path.write_text("old")
        path.chmod(0o600)
        with replacing(path) as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
            temporary.write_text("new")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives files away")
    def test_the_owner_is_kept(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        path.chmod(0o4750)
        os.chown(path, 1234, 2345)
        path.chmod(0o4750)
        write_text(path, "new")
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 2345, 0o4750)

    @pytest.mark.parametrize("save", [lambda f: write_text(f / "file", "new"), save_new, lambda f: claim(f)])
    def test_without_permission_there_is_a_sentence_and_nothing_changes(self, open_folder, save):
        folder = open_folder / "closed"
        folder.mkdir()
        write(folder, OLD)
        folder.chmod(0o555)
        with pytest.raises(PermissionError, match=r"closed.* cannot be written: you have no permission .* choose"):
            as_nobody(save, folder)
        assert plainly(folder) == OLD
        assert names(folder) == sorted(OLD)

    def test_what_can_not_be_read_is_named(self, open_folder):
        (open_folder / "secret").write_text("text")
        (open_folder / "secret").chmod(0)
        with pytest.raises(PermissionError, match=r"secret cannot be read: you have no permission"):
            as_nobody(storage.read_text, open_folder / "secret")
        (open_folder / "closed").mkdir(mode=0)
        (open_folder / "closed").chmod(0)
        with pytest.raises((PermissionError, FileNotFoundError), match=r"no permission to look into"):
            as_nobody(storage.read_text, open_folder / "closed" / "file")

    def test_a_half_done_save_in_a_folder_that_can_only_be_read_is_read(self, open_folder, monkeypatch):
        write(open_folder, OLD)
        monkeypatch.setattr(storage.journal.Journal, "carry_out", lambda *_, **__: 1 / 0)
        with contextlib.suppress(ZeroDivisionError):
            save_new(open_folder)
        open_folder.chmod(0o555)
        assert as_nobody(read, open_folder) == NEW


def claim(folder):
    with claimed(folder):
        pass


def refuse_folders(open_):
    def refusing(path, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "no folders here", str(path))
        return open_(path, *args, **kwargs)

    return refusing


@contextlib.contextmanager
def no_file_larger_than(size):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFullDisk:
    @pytest.mark.skipif(os.name == "nt", reason="there are no such limits on Windows")
    @pytest.mark.parametrize("existed", [True, False])
    def test_a_limit_for_files(self, tmp_path, existed):
        path = tmp_path / "out" / "weights"
        if existed:
            write_safetensors(path, {"a": np.ones(3)})
        with no_file_larger_than(10_000), pytest.raises(OSError, match=r"weights cannot be written: .*; what was") as e:
            write_safetensors(path, {"a": np.zeros(10**5)})
        assert e.value.errno == errno.EFBIG
        assert str(e.value).count("\n") == 0
        assert "Errno" not in str(e.value)
        assert names(tmp_path) == (["out"] if existed else [])
        assert not existed or (read_safetensors(path)[0]["a"] == 1).all()

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_the_disk_is_full_at_the_end(self, tmp_path, monkeypatch, number, call):
        write(tmp_path, OLD)

        def full(*_):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(OSError, match=r"cannot be written: the disk is full .*: free some space"):
                save_new(tmp_path)
        assert plainly(tmp_path) == read(tmp_path) == OLD
        assert names(tmp_path) == sorted(OLD)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root mounts a small disk")
    def test_a_small_disk(self, tmp_path):
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True
        ).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            write_safetensors(tmp_path / "weights", {"a": np.ones(20_000, "f4")})
            for _ in range(2):  # what does not fit leaves nothing, so that what fits still does
                with pytest.raises(OSError, match="the disk is full") as error:
                    write_safetensors(tmp_path / "weights", {"a": np.zeros(60_000, "f4")})
                assert error.value.errno == errno.ENOSPC
                assert (read_safetensors(tmp_path / "weights")[0]["a"] == 1).all()
                write_safetensors(tmp_path / "other", {"a": np.ones(15_000, "f4")})
        finally:
            subprocess.run(["umount", tmp_path], check=True)


class TestPlaces:
    """What a path can lead to."""

    def test_a_link_stays_and_its_file_is_replaced(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "weights").write_text("old")
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "weights").symlink_to(tmp_path / "there" / "weights")
        save_new(tmp_path / "here")
        assert (tmp_path / "here" / "weights").is_symlink()
        assert (tmp_path / "there" / "weights").read_text() == NEW["weights"]
        assert plainly(tmp_path / "here") == NEW
        assert names(tmp_path / "there") == ["weights"]

    def test_a_link_to_a_folder(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "here").symlink_to(tmp_path / "there")
        save_new(tmp_path / "here")
        assert plainly(tmp_path / "there") == NEW
        assert (tmp_path / "here").is_symlink()

    def test_a_link_to_a_file_that_is_not_there_makes_it(self, tmp_path):
        (tmp_path / "file").symlink_to(tmp_path / "later")
        write_text(tmp_path / "file", "new")
        assert (tmp_path / "file").is_symlink()
        assert (tmp_path / "later").read_text() == "new"

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("nowhere/file", r"nowhere is a link to .*gone, which does not exist"),
            ("nowhere/a/b/file", r"nowhere is a link to .*gone, which does not exist"),
            ("a file/file", r"a file is a file, and a folder is needed there"),
            ("a file/a/file", r"a file is a file, and a folder is needed there"),
            ("a folder", r"a folder cannot be written: it is a folder"),
            ("x" * 300, r"the name is too long"),
            ("pipe", r"pipe cannot be written: it is no file"),
        ],
    )
    def test_where_nothing_can_be_written(self, tmp_path, path, message):
        (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
        (tmp_path / "a file").write_text("")
        (tmp_path / "a folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        before = names(tmp_path)
        with pytest.raises(OSError, match=message) as error:
            write_text(tmp_path / path, "new")
        assert "Errno" not in str(error.value)
        assert names(tmp_path) == before

    def test_a_device_is_not_replaced_by_a_file(self):
        with pytest.raises(OSError, match="it is no file"):
            write_text(os.devnull, "")
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)

    def test_names_may_be_as_long_as_they_can(self, tmp_path):
        for name in ("x" * 255, "é" * 127):
            write_text(tmp_path / name, "new")
        assert len(names(tmp_path)) == 2

    def test_errors_about_something_else_stay_as_they_are(self, tmp_path):
        with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "file") as temporary:
            temporary.write_text((tmp_path / "nowhere").read_text())
        assert error.value.filename == str(tmp_path / "nowhere")
