"""What takes long says so; what is fast says nothing."""

import threading
import time

import pytest

from lora_np.cli.waiting import waiting


def test_what_is_fast_says_nothing(capsys):
    with waiting("Loading"):
        pass
    assert capsys.readouterr() == ("", "")


def test_what_takes_long_is_named_again_and_again(capsys):
    said = threading.Event()
    with waiting("Loading", pause=0.01):
        while capsys.readouterr().err.count("Loading (") < 1:
            time.sleep(0.01)
        said.set()
        time.sleep(0.05)
    assert said.is_set()
    before = threading.active_count()
    assert "Loading (0 s)\n" in capsys.readouterr().err
    assert threading.active_count() == before


def test_where_no_thread_starts_the_work_is_done_in_silence(capsys, monkeypatch):
    def refuse(*_args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "_start_new_thread", refuse)
    monkeypatch.setattr(threading, "_start_joinable_thread", refuse, raising=False)  # Python 3.13
    done = []
    with waiting("Loading", pause=0.01):
        done.append(True)
    assert done
    assert capsys.readouterr() == ("", "")


def test_an_error_ends_it(capsys):
    with pytest.raises(KeyError), waiting("Loading", pause=0.01):
        raise KeyError
    time.sleep(0.05)
    assert capsys.readouterr().err == ""
