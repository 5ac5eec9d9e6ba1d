r"""Data-parallel training: several processes, each with its own rows of every batch.

    # my_script.py, started with:  mpirun -n 2 python -m mpi4py my_script.py
    from lora_np import train
    from lora_np.training.parallel import communicator

    history = train(model, data, args, directory="runs/two", communicator=communicator())

Every process holds all weights and is given every batch (B, T), of which process i reads the rows from i·B/size to
(i+1)·B/size. It weighs its loss by its share of the batch's targets (see `joint_step.py`). The gradients are added up,
and from there on all processes do the same: clip, step, arrive at the same weights. These are the weights that one
process would reach with the whole batch, up to rounding and to dropout, which each process draws for itself.

One message a step crosses the wire, with the gradients of what is trained and the loss in it. Under LoRA that is A
and B: the frozen weights have no gradient that could be sent.

`-m mpi4py` ends all processes when one fails; without it the others would wait for ever. Several processes on one
computer share its cores: say LORA_NP_NUM_THREADS=1 where each is to use one. The script runs also without mpirun.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...autograd import Tensor
from ...autograd.devices import array_module, device_of, to_device, to_numpy
from ..protocols import Array, Batch

if TYPE_CHECKING:
    from ..loop import TrainingRun

INSTALL = "pip install -e '.[distributed]'"
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # what mpirun tells its processes: MPICH and its kin, Open MPI


class SoloCommunicator:
    """One process on its own: nothing to add up and nobody to wait for. `train` uses it unless it is given another."""

    rank, size, bytes_per_step = 0, 1, 0

    def sum_(self, arrays: Sequence[Array]) -> None:
        """The arrays are their own sum."""

    def sum_buffer(self, buffer: Array) -> None:
        """The buffer is its own sum."""

    def sum_step(self, parameters: Sequence[Tensor], loss: Any) -> Any:
        """The loss is the joint one. A parameter without a gradient stays without, and the optimizer passes it over."""
        return loss

    def any(self, flag: bool) -> bool:
        """Is `flag` true?"""
        return bool(flag)

    def check_same(self, things: Mapping[str, Iterable[bytes]]) -> None:
        """There is nothing to compare with."""

    def barrier(self) -> None:
        """Nobody to wait for."""


class Communicator:
    """What several processes do together. Abstract: subclasses write `add_up`.

    rank, size      this process's number, from 0, and how many there are
    bytes_per_step  the size of the last message of `sum_` or `sum_buffer`: what this process gives to the sum
    Every process must call the same methods in the same order; one that calls waits until all have.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.bytes_per_step = rank, size, 0

    def add_up(self, buffer: Array) -> Array:
        """The sum over all processes of a flat array (n,) of theirs, in an array of the same library. n is common."""
        raise NotImplementedError

    def sum_(self, arrays: Sequence[Array]) -> None:
        """Put into each of these arrays the sum over all processes, as one message.

        float32, unless one of the arrays has float64: then all of it travels as float64.
        """
        dtype = np.result_type(np.float32, *(array.dtype for array in arrays))
        packed = array_module(arrays[0]).concatenate([array.astype(dtype, copy=False).ravel() for array in arrays])
        self.sum_buffer(packed)
        for array, end in zip(arrays, itertools.accumulate(array.size for array in arrays), strict=True):
            array[...] = packed[end - array.size : end].reshape(array.shape)

    def sum_buffer(self, buffer: Array) -> None:
        """Put into a flat array (n,) the sum over all processes, as one message."""
        self.bytes_per_step = buffer.nbytes
        total = self.add_up(buffer)
        if total is not buffer:
            buffer[...] = total

    def sum_step(self, parameters: Sequence[Tensor], loss: Any) -> Any:
        """Add up the gradients of all processes, and their shares of the loss; returns the joint loss, an array.

        A parameter without a gradient sends zeros: a process whose rows have no target has nothing to send, but the
        messages of all must be equally long.
        """
        for p in parameters:
            p.grad = array_module(p.data).zeros_like(p.data) if p.grad is None else p.grad
        first = parameters[0].data
        loss = array_module(first).array(loss, dtype=np.result_type(np.float32, first.dtype))
        self.sum_([*(p.grad for p in parameters), loss])
        return loss

    def any(self, flag: bool) -> bool:
        """Is `flag` true in one process at least? The same answer in all."""
        return bool(self.add_up(np.array([flag], np.float32))[0])

    def check_same(self, things: Mapping[str, Iterable[bytes]]) -> None:
        """ValueError, in all processes, if one of `things` {name: iterable of bytes} is not the same in all."""
        digests = np.zeros((self.size, len(things)))
        digests[self.rank] = [_digest(parts) for parts in things.values()]
        self.sum_([digests])  # each process has filled in its own row, so that now all rows are known to all
        for name, column in zip(things, digests.T, strict=True):
            others = np.flatnonzero(column != column[0]).tolist()
            if others:
                raise ValueError(
                    f"{name} must be the same in all {self.size} processes, but not in process "
                    f"{', '.join(map(str, others))} as in process 0: give all of them the same seed, files and settings"
                )

    def barrier(self) -> None:
        """Wait until all processes are here: nobody knows the answer before everybody has asked."""
        self.any(False)


def _digest(parts: Iterable[bytes]) -> int:
    """48 bits of the SHA-256 of these bytes: a whole number that float64 holds exactly."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest()[:6], "little")


class MPICommunicator(Communicator):
    """Processes started by mpirun. Arrays on a GPU travel through the computer's own memory.

    comm: a communicator of mpi4py, such as MPI.COMM_WORLD. Sums use its calls for plain buffers, which pickle nothing.
    """

    def __init__(self, comm: Any) -> None:
        super().__init__(comm.Get_rank(), comm.Get_size())
        self._comm = comm

    def add_up(self, buffer: Array) -> Array:
        own = to_numpy(buffer)
        total = np.empty_like(own)
        self._comm.Allreduce(own, total)
        return to_device(total, device_of(buffer))


class NCCLCommunicator(Communicator):
    """Processes with a GPU each, whose messages go from GPU to GPU through NVIDIA's NCCL.

        group = lora_np.cuda.connected(rank, size, port)    # once in each process; waits for the others
        train(model.to(f"cuda:{rank}"), ..., communicator=NCCLCommunicator(group, rank, size, f"cuda:{rank}"))

    group   has all_reduce(in, out), which adds up by default
    device  this process's GPU on its computer, the one that is in use. A sum is put into the GPU's queue: the host
            goes on. Arrays that are not there (see `any`) are taken there and back, and waited for.
    """

    def __init__(self, group: Any, rank: int, size: int, device: str) -> None:
        super().__init__(rank, size)
        self._group, self._device = group, device

    def add_up(self, buffer: Array) -> Array:
        total = to_device(buffer, self._device)
        self._group.all_reduce(total, total)
        return to_device(total, device_of(buffer))


def communicator() -> Communicator | SoloCommunicator:
    """The processes that mpirun has started, or a `SoloCommunicator` if this one was started alone.

    RuntimeError if mpirun has started several, but mpi4py is missing or sees only one: each would train alone.
    """
    launched = max(int(os.environ.get(name) or 1) for name in SIZE_VARIABLES)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, an MPI library is not
        if launched == 1:
            return SoloCommunicator()
        raise RuntimeError(f"mpirun has started {launched} processes, but mpi4py fails ({error}): {INSTALL}") from error
    size = MPI.COMM_WORLD.Get_size()
    if size == 1 < launched:
        raise RuntimeError(
            f"mpirun has started {launched} processes, but mpi4py sees one: it uses another MPI than this mpirun "
            f"({MPI.Get_library_version().split(',')[0].strip()}). Use the mpirun of that MPI; `python -m mpi4py --mpi-"
            f"lib-version` shows which it is"
        )
    return MPICommunicator(MPI.COMM_WORLD) if size > 1 else SoloCommunicator()


def own_rows(batch: Batch, communicator: Communicator | SoloCommunicator) -> Batch:
    """This process's rows of a batch {name: (B, ...)}. ValueError if B is not a multiple of the number of processes."""
    rows, size = len(batch["input_ids"]), communicator.size
    if rows % size:
        raise ValueError(
            f"a batch of {rows} rows cannot be shared out evenly among {size} processes: "
            f"use a batch size that is a multiple of {size}"
        )
    start = communicator.rank * rows // size
    return {name: array[start : start + rows // size] for name, array in batch.items()}


def start_together(run: "TrainingRun", first_batch: Callable[[], Any], progress: bool) -> None:
    """ValueError unless all processes of a `TrainingRun` start from the same point; says what a step will send.

    first_batch: a function that returns it; it stands for the data. A process on its own computes and says nothing.
    """

    def of_weights() -> Iterator[bytes]:
        for name, array in run.model.state_dict().items():
            yield from (name.encode(), to_numpy(array).tobytes())

    def of_arguments() -> Iterator[bytes]:
        yield json.dumps([run.step, run.arguments()], sort_keys=True).encode()

    def of_batch() -> Iterator[bytes]:
        yield from (to_numpy(array).tobytes() for _, array in sorted(first_batch().items()))

    things = {"the weights": of_weights(), "the training arguments": of_arguments(), "the first batch": of_batch()}
    run.communicator.check_same(things)
    if progress and run.communicator.size > 1 and run.communicator.rank == 0:
        print(describe(run.communicator, run.trainable.values()))


def describe(communicator: Communicator | SoloCommunicator, parameters: Iterable[Tensor]) -> str:
    """What a process sends of these trained parameters: "2 processes; each step sends 0.26 MB ..."."""
    arrays = [p.data for p in parameters]
    numbers, megabytes = sum(x.size for x in arrays), sum(x.nbytes for x in arrays) / 1e6
    return (
        f"{communicator.size} processes; each step sends {megabytes:.2f} MB ({numbers:,} trained numbers) per process"
    )
