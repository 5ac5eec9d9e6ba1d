"""Threads that play processes which train together."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lora_np.training.parallel.processes import Communicator


class Meeting:
    """Where threads that play processes meet."""

    def __init__(self, size):
        self.barrier, self.given = threading.Barrier(size, timeout=60), [None] * size


class ThreadCommunicator(Communicator):
    """A thread that plays a process."""

    def __init__(self, rank, meeting):
        super().__init__(rank, len(meeting.given))
        self.meeting, self.messages = meeting, []

    def add_up(self, buffer):
        self.messages.append(buffer.nbytes)
        self.meeting.given[self.rank] = buffer
        self.meeting.barrier.wait()
        total = np.sum(self.meeting.given, axis=0, dtype=buffer.dtype)
        self.meeting.barrier.wait()  # nobody gives the next buffer before all have read these
        return total


def in_threads(size, work):
    """What `work(communicator)` returns or raises in each of `size` threads that play processes."""
    meeting = Meeting(size)

    def run(rank):
        try:
            return work(ThreadCommunicator(rank, meeting))
        except Exception as error:
            meeting.barrier.abort()  # as mpirun ends the others
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def results(size, work):
    """What `work(communicator)` returns in each thread; none may raise."""
    found = in_threads(size, work)
    for outcome in found:
        if isinstance(outcome, Exception):
            raise outcome
    return found
