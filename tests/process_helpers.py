"""Functions in processes of their own: killed at a chosen line or time, as another user, many at once."""

import contextlib
import os
import pickle
import signal
import sys
import traceback
from pathlib import Path

import pytest

import lora_np.storage

STORAGE = str(Path(lora_np.storage.__file__).parent)

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


def start(function, *arguments):
    """The id of a forked process that calls the function and ends with 0, or with 1 after an error."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        function(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(process):
    """How a process ended: its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def in_child(function, *arguments):
    """What the function returns, or raises, in a process of its own."""
    reading, writing = os.pipe()

    def call():
        try:
            result = True, function(*arguments)
        except Exception as error:
            result = False, (type(error), str(error), getattr(error, "errno", None))
        os.write(writing, pickle.dumps(result))

    process = start(call)
    os.close(writing)
    with open(reading, "rb") as file:
        is_good, result = pickle.loads(file.read())
    assert wait(process) == 0
    if is_good:
        return result
    error = result[0](result[1])
    with contextlib.suppress(AttributeError):
        error.errno = result[2]
    raise error


def as_nobody(function, *arguments):
    """The same, as a user who may do nothing special; as it is, if this is one already."""

    def call():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        return function(*arguments)

    return in_child(call if os.geteuid() == 0 else function, *(() if os.geteuid() == 0 else arguments))


def at_line(number, act):
    """A trace function that calls `act` before the line of lora_np/storage that comes as this one."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(STORAGE) or "__del__" in callers(frame):
            return None  # what is raised in __del__, Python swallows
        if event == "line":
            count += 1
            if count == number:
                act()
        return trace

    return trace


def callers(frame):
    """The names of a function and of the one that called it."""
    return frame.f_code.co_name, frame.f_back.f_code.co_name


def killed_at_line(number, function, *arguments):
    """Call the function in a process that is killed before a line of lora_np/storage; was it?"""

    def call():
        sys.settrace(at_line(number, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        function(*arguments)

    status = wait(start(call))
    assert status in (0, -signal.SIGKILL)
    return status != 0


def raising_at_line(number, error, function, *arguments):
    """Call the function, in which `error()` is raised before a line of lora_np/storage; was it?"""

    raised = []

    def act():
        raised.append(number)
        sys.settrace(None)
        raise error()

    before = sys.gettrace()
    sys.settrace(at_line(number, act))
    try:
        function(*arguments)
    except type(error()):
        assert raised
    finally:
        sys.settrace(before)
    return bool(raised)
