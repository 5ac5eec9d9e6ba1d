"""Several processes train as one does on the joined batch: processes played by threads, real ones under MPI, GPUs."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import communicator_helpers
import numpy as np
import pytest
from communicator_helpers import Meeting, ThreadCommunicator, in_threads, results

from lora_np import GPT2Config, GPT2LMHeadModel, LoraConfig, TrainingArguments, get_peft_model, manual_seed, train
from lora_np.autograd.random import generator
from lora_np.storage import write_safetensors
from lora_np.training.parallel.processes import NCCLCommunicator, SoloCommunicator, communicator, own_rows

ROWS, LENGTH, STEPS = 4, 12, 4
INSTALL = "pip install -e '.[distributed]'"


def full(seed=0, dropout=0.0):
    """A small model, trained whole."""
    manual_seed(seed)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, **rates))


def lora(seed=0, dropout=0.0):
    """The same with an adapter, of which only A and B are trained; its base does not depend on the seed."""
    base = full()
    manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["c_attn"], lora_dropout=dropout, fan_in_fan_out=True)
    return get_peft_model(base, config)


def without_labels(labels, *empty):
    """These labels (batches, B, T) with none in `empty`: pairs of a batch and rows of it."""
    for batch, rows in empty:
        labels[batch, rows] = -100
    return labels


class Batches:
    """Batches that follow from a seed.

    share  of the labels that count: in the first rows of a batch less, in the last ones more
    empty  pairs of a batch and rows of it in which nothing counts
    """

    def __init__(self, share=1.0, empty=(), rows=ROWS, seed=0):
        rng = np.random.default_rng(seed)
        self.ids = rng.integers(0, 40, (3 * STEPS, rows, LENGTH))
        chance = 2 * share * np.linspace(0.1, 0.9, rows)[:, None] if share < 1 else 1.0
        self.labels = without_labels(np.where(rng.random(self.ids.shape) < chance, self.ids, -100), *empty)

    def batch(self, seed, step):
        return {"input_ids": self.ids[step], "labels": self.labels[step]}


FIRST, SECOND, BOTH = slice(0, 2), slice(2, 4), slice(0, 4)

CASES = {  # name: (model, data, changed arguments)
    "adapter": (lora, Batches(), {}),
    "whole model": (full, Batches(), {"weight_decay": 0.1}),
    "uneven labels": (lora, Batches(0.3), {}),
    "clipping": (lora, Batches(0.3), {"max_grad_norm": 0.01}),
    "accumulation": (lora, Batches(0.3), {"accumulation": 3, "max_grad_norm": 0.01}),
    "nothing counts in one process": (lora, Batches(empty=[(0, FIRST), (2, SECOND)]), {}),
    "nothing counts in parts of a step": (lora, Batches(empty=[(0, FIRST), (3, SECOND)]), {"accumulation": 2}),
    "nothing counts in a batch of a step": (lora, Batches(empty=[(0, BOTH), (3, BOTH)]), {"accumulation": 2}),
}


def arguments(**changes):
    return TrainingArguments(**{"steps": STEPS, "learning_rate": 0.01, "warmup_steps": 1, "eval_every": 2, **changes})


def trained(case, communicator=None, dtype=np.float32):
    """(history, {name: array of what was trained}) of a case."""
    make, data, changes = CASES[case]
    model = make().to(dtype=dtype)
    held_out = {"held out": Batches(seed=9).ids[0]}
    history = train(model, data, arguments(**changes), held_out, progress=False, communicator=communicator)
    return history, {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def assert_equal_runs(found, expected, **tolerance):
    for (history, weights), (expected_history, expected_weights) in zip(found, expected, strict=True):
        np.testing.assert_allclose(history["loss"], expected_history["loss"], **tolerance)
        for entry, other in zip(history["evaluation"], expected_history["evaluation"], strict=True):
            assert entry == pytest.approx(other, rel=tolerance["rtol"])
        assert weights.keys() == expected_weights.keys()
        for name, array in weights.items():
            np.testing.assert_allclose(array, expected_weights[name], **tolerance, err_msg=name)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_processes_train_as_one_does_on_the_joined_batch(case, size):
    expected = trained(case, dtype=np.float64)
    found = results(size, lambda communicator: trained(case, communicator, np.float64))
    assert_equal_runs(found, [expected] * size, rtol=1e-8, atol=1e-11)


def test_the_cases_tell_right_from_wrong():
    """Where labels are uneven, the mean of the processes' own means is another loss; and clipping does clip."""
    make, data, _ = CASES["uneven labels"]
    model, batch = make(), data.batch(0, 0)
    halves = [model(**{name: array[rows] for name, array in batch.items()}).loss.item() for rows in (FIRST, SECOND)]
    assert abs(np.mean(halves) - model(**batch).loss.item()) > 1e-3
    (_, clipped), (_, free) = trained("clipping"), trained("uneven labels")
    assert max(abs(clipped[name] - free[name]).max() for name in free) > 1e-4


def test_all_processes_end_with_the_same_bits():
    first, second = results(2, lambda communicator: trained("clipping", communicator))
    assert first[0] == second[0]
    assert {k: v.tobytes() for k, v in first[1].items()} == {k: v.tobytes() for k, v in second[1].items()}


def test_sum_adds_up_arrays_of_any_shape_in_place_with_one_message():
    def work(communicator):
        mine = float(10**communicator.rank)
        arrays = [np.full((2, 3), mine, np.float32), np.array(mine, np.float16), np.arange(6.0, dtype="f4")[::2]]
        arrays.append(np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)))
        kept = list(arrays)
        communicator.sum_(arrays)
        assert all(a is b for a, b in zip(arrays, kept, strict=True))
        return arrays, communicator.messages, communicator.bytes_per_step

    for (a, b, c, d), messages, count in results(3, work):
        assert (a == 111).all()
        assert (b, b.dtype) == (111, np.float16)
        assert c.tolist() == [0, 6, 12]
        assert d.tolist() == [[0, 3, 6], [9, 12, 15]]
        assert messages == [4 * (6 + 1 + 3 + 6)]
        assert count == messages[0]


def test_float64_travels_as_float64():
    def work(communicator):
        arrays = [np.ones(2, np.float32), np.array([1 + 2.0**-40])]  # 2.0**-40 would be lost in float32
        communicator.sum_(arrays)
        return arrays[1][0], communicator.bytes_per_step

    assert results(2, work) == [(2 + 2.0**-39, 24)] * 2


def test_only_what_is_trained_crosses_the_wire(capsys):
    """4 bytes for each number of A and B, one number more for the loss; beside that a few bytes that keep step."""

    def work(communicator):
        model = lora()
        train(model, Batches(0.3), arguments(accumulation=2), communicator=communicator)
        return model, communicator

    for model, group in results(2, work):
        numbers = model.num_parameters(only_trainable=True)
        assert group.bytes_per_step == 4 * (numbers + 1)
        assert group.messages.count(group.bytes_per_step) == STEPS
        assert sum(group.messages) - STEPS * group.bytes_per_step < 100
        assert numbers < model.num_parameters() / 10
    out = capsys.readouterr().out
    assert out.count("2 processes; each step sends 0.00 MB (256 trained numbers) per process\n") == 1
    assert numbers == 256


def test_a_process_on_its_own_says_nothing_of_processes(capsys):
    train(lora(), Batches(), arguments())
    assert capsys.readouterr().out == ""


def test_the_sentence_that_says_what_is_sent(capsys):
    """65,536 numbers of 4 bytes."""

    def work(communicator):
        manual_seed(0)
        base = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=256, n_layer=2, n_head=2))
        model = get_peft_model(base, LoraConfig(r=32, target_modules=["c_attn"], fan_in_fan_out=True))
        train(model, Batches(), arguments(steps=1), communicator=communicator)
        return communicator.bytes_per_step

    assert results(2, work) == [65_536 * 4 + 4] * 2
    assert "2 processes; each step sends 0.26 MB (65,536 trained numbers) per process\n" in capsys.readouterr().out


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_each_row_is_read_by_one_process(size):
    batch = Batches(0.5, rows=6).batch(0, 0)
    shares = [own_rows(batch, ThreadCommunicator(rank, Meeting(size))) for rank in range(size)]
    for name, array in batch.items():
        np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), array)


def test_a_batch_that_can_not_be_shared_out_evenly_is_refused():
    def work(communicator):
        with pytest.raises(ValueError, match=r"batch of 4 rows .* 3 processes.*multiple of 3"):
            train(full(), Batches(), arguments(), progress=False, communicator=communicator)

    results(3, work)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_in_which_nothing_counts_anywhere_is_refused_as_with_one_process(accumulation):
    data = Batches(empty=[(2, BOTH), (3, BOTH)])

    def work(communicator=None):
        with pytest.raises(ValueError, match=r"nothing to average.*-100"):
            train(lora(), data, arguments(accumulation=accumulation), progress=False, communicator=communicator)

    work()
    results(2, work)


def other_base(rank):
    """An adapter as everywhere, but one frozen number of the base differs in process 1."""
    model = lora()
    next(p for p in model.parameters() if not p.requires_grad).data[0, 0] += rank
    return model


@pytest.mark.parametrize(
    ("what", "make", "data", "changes"),
    [
        ("the weights", lambda rank: lora(seed=rank), lambda rank: Batches(), lambda rank: {}),
        ("the weights", other_base, lambda rank: Batches(), lambda rank: {}),
        ("the training arguments", lambda rank: lora(), lambda rank: Batches(), lambda rank: {"seed": rank}),
        ("the first batch", lambda rank: lora(), lambda rank: Batches(seed=rank), lambda rank: {}),
        ("the first batch", lambda rank: lora(), lambda rank: Batches(0.5 + rank / 2), lambda rank: {}),
    ],
    ids=["adapter", "base", "seed", "ids", "labels"],
)
def test_processes_that_do_not_start_from_the_same_point_are_refused(what, make, data, changes):
    """In every process, with the name of what differs and the number of who differs."""

    def work(communicator):
        rank = communicator.rank // 2  # 0, 0, 1
        with pytest.raises(ValueError, match=rf"^{what} must be the same in all 3 .* process 2 as in process 0"):
            train(make(rank), data(rank), arguments(**changes(rank)), progress=False, communicator=communicator)

    results(3, work)


class DrawsANumber(Batches):
    """Asks for a random number whenever it is asked for a batch."""

    def __init__(self):
        super().__init__()
        self.numbers = []

    def batch(self, seed, step):
        self.numbers.append(generator().random())
        return super().batch(seed, step)


def drawn(communicator):
    data = DrawsANumber()
    with_check = communicator is not None and communicator.size > 1
    train(lora(), data, arguments(seed=7), progress=False, communicator=communicator)
    return data.numbers[with_check:]  # less the batch that is compared at the start


def test_chance_follows_from_seed_step_and_process_and_the_first_draws_what_one_process_draws():
    def after(*seed):
        manual_seed(seed)
        return generator().random()

    alone = [after(7, step) for step in range(STEPS)]
    assert drawn(None) == alone
    first, second = results(2, drawn)
    assert first == alone
    assert second == [after(7, step, 1) for step in range(STEPS)]
    assert not set(first) & set(second)


class TwiceTheSame(Batches):
    """Both processes get the same rows: what differs between them can only be dropout."""

    def batch(self, seed, step):
        return {name: np.concatenate([array[:2]] * 2) for name, array in super().batch(seed, step).items()}


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_processes_drop_different_numbers(dropout):
    class Watched(ThreadCommunicator):
        def sum_step(self, parameters, loss):
            self.shares.append(float(loss))
            return super().sum_step(parameters, loss)

    def work(communicator):
        communicator.__class__, communicator.shares = Watched, []
        train(full(dropout=dropout), TwiceTheSame(), arguments(), progress=False, communicator=communicator)
        return communicator.shares

    first, second = results(2, work)
    assert [a == b for a, b in zip(first, second, strict=True)] == [not dropout] * STEPS


def test_the_first_process_alone_writes_and_shows_progress(tmp_path, capsys):
    def work(communicator):
        directory = tmp_path / str(communicator.rank)
        directory.mkdir()
        train(lora(), Batches(), arguments(checkpoint_every=2), directory=directory, communicator=communicator)

    results(2, work)
    assert os.listdir(tmp_path / "0") == ["checkpoint.safetensors"]
    assert os.listdir(tmp_path / "1") == []
    bar, *others = capsys.readouterr().err.split("\n")
    assert others == [""]  # one bar, drawn anew on its line as often as time has it
    assert "4/4" in bar.rpartition("\r")[2]


def test_the_checkpoint_is_there_for_every_process_once_the_run_is_over(tmp_path, monkeypatch):
    def slowly(*given):
        time.sleep(0.3)
        write_safetensors(*given)

    def work(communicator):
        train(lora(), Batches(), arguments(), directory=tmp_path, progress=False, communicator=communicator)
        return (tmp_path / "checkpoint.safetensors").exists()

    monkeypatch.setattr("lora_np.training.checkpoint.write_safetensors", slowly)
    assert results(2, work) == [True, True]


@pytest.mark.parametrize("then", [1, 2])
def test_a_run_goes_on_from_its_checkpoint_with_any_number_of_processes(tmp_path, then):
    class Broken(Batches):
        def batch(self, seed, step):
            if step == 3:
                raise KeyError("stop here")
            return super().batch(seed, step)

    def go(data, resume, communicator=None):
        model, args = lora(), arguments(checkpoint_every=2)
        history = train(model, data, args, None, tmp_path, resume, progress=False, communicator=communicator)
        return history, {name: p.data for name, p in model.named_parameters() if p.requires_grad}

    assert all(
        isinstance(e, KeyError | threading.BrokenBarrierError) for e in in_threads(2, lambda c: go(Broken(), False, c))
    )
    found = results(then, lambda communicator: go(Batches(), True, communicator))
    model = lora()
    expected = train(model, Batches(), arguments(), progress=False)
    weights = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
    assert_equal_runs(found, [(expected, weights)] * then, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_in_one_process_stops_all_before_the_weights_change():
    def work(communicator):
        model = lora()
        before = {name: p.data.copy() for name, p in model.named_parameters()}
        if communicator.rank == 1:
            forward = model.forward
            model.forward = lambda *a, **k: times(forward(*a, **k), np.nan)
        with pytest.raises(FloatingPointError, match="nan at step 0"):
            train(model, Batches(), arguments(), progress=False, communicator=communicator)
        return all((p.data == before[name]).all() for name, p in model.named_parameters())

    def times(out, number):
        out.loss = out.loss * number
        return out

    assert results(2, work) == [True, True]


def test_any_is_true_for_all_if_it_is_for_one():
    def work(communicator):
        return communicator.any(communicator.rank == 1), communicator.any(False), communicator.any(True)

    assert results(3, work) == [(True, False, True)] * 3
    solo = SoloCommunicator()
    assert (solo.any(True), solo.any(False)) == (True, False)


def test_nobody_passes_a_barrier_before_all_are_there():
    arrived, seen = [], []

    def work(communicator):
        for _ in range(20):
            arrived.append(communicator.rank)
            communicator.barrier()
            seen.append(len(arrived))
            communicator.barrier()

    results(3, work)
    assert sorted(seen) == [n for n in range(3, 63, 3) for _ in range(3)]


def test_nccl_adds_up_with_the_groups_all_reduce():
    """The group that CuPy makes needs a GPU for each process. This one does on arrays of NumPy what it does there."""

    class Group:
        def __init__(self, thread):
            self.thread = thread

        def all_reduce(self, given, out):
            out[...] = self.thread.add_up(given.copy())

    def work(thread):
        return trained("accumulation", NCCLCommunicator(Group(thread), thread.rank, thread.size, "cpu"), np.float64)

    expected = trained("accumulation", dtype=np.float64)
    assert_equal_runs(results(2, work), [expected] * 2, rtol=1e-8, atol=1e-11)


# Real processes: each test starts some with a function of this file.


def with_helpers():
    """The environment, in which Python finds what tests have in common."""
    paths = [str(Path(communicator_helpers.__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def child(code, *before, **environment):
    """The finished process of Python that ran `code` in this folder; `before` stands before the interpreter."""
    environment = {**with_helpers(), "LORA_NP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environment}
    command = [*before, *([sys.executable, "-m", "mpi4py"] if before else [sys.executable]), "-c", code]
    folder = Path(__file__).parent
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def under_mpi(size, code):
    """The finished mpirun of `size` processes that each ran `code`; skipped by name without MPI."""
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip(f"needs mpi4py: {INSTALL}")
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    mpiexec = shutil.which("mpiexec", path=folders)
    if mpiexec is None:
        pytest.skip(f"needs mpiexec: {INSTALL}")
    open_mpi = {  # allows what other kinds allow anyway: running as root, and more processes than cores
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    return child(code, mpiexec, "-n", str(size), **open_mpi)


def save_all_cases(directory):
    """In each process of several: train every case, and write what came of it."""
    group = communicator()
    for number, case in enumerate(CASES):
        history, weights = trained(case, group)
        path = Path(directory) / f"{number}-{group.rank}"
        np.savez(f"{path}.npz", **weights)
        path.with_suffix(".json").write_text(json.dumps([history, type(group).__name__, group.bytes_per_step]))


def read_case(directory, case, rank):
    path = Path(directory) / f"{list(CASES).index(case)}-{rank}"
    with np.load(f"{path}.npz") as arrays:
        weights = dict(arrays)
    return *json.loads(path.with_suffix(".json").read_text()), weights


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder with what two processes under MPI made of every case."""
    directory = tmp_path_factory.mktemp("processes")
    done = under_mpi(2, f"import test_processes; test_processes.save_all_cases({str(directory)!r})")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize("case", CASES)
def test_two_processes_under_mpi_train_as_one_does_on_the_joined_batch(two_processes, case):
    found = []
    for rank in range(2):
        history, kind, size, weights = read_case(two_processes, case, rank)
        assert kind == "MPICommunicator"
        assert size == 4 * (sum(array.size for array in weights.values()) + 1)
        found.append((history, weights))
    assert_equal_runs(found, [trained(case)] * 2, rtol=1e-5, atol=1e-5)
    assert {k: v.tobytes() for k, v in found[0][1].items()} == {k: v.tobytes() for k, v in found[1][1].items()}


def interrupted(directory):
    """In each process of two: train; the second alone gets a Ctrl-C, in its third step."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    group = communicator()

    class Interrupts(Batches):
        def batch(self, seed, step):
            if step == 2 and group.rank == 1:
                signal.raise_signal(signal.SIGINT)
            return super().batch(seed, step)

    history = train(lora(), Interrupts(), arguments(), None, directory, progress=False, communicator=group)
    (Path(directory) / f"{group.rank}.json").write_text(json.dumps(history))


def test_ctrl_c_in_one_process_ends_all_after_the_same_step(tmp_path):
    done = under_mpi(2, f"import test_processes; test_processes.interrupted({str(tmp_path)!r})")
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        history = json.loads((tmp_path / f"{rank}.json").read_text())
        assert history["interrupted"] is True
        assert len(history["loss"]) == 3
    model = lora()
    history = train(model, Batches(), arguments(), None, tmp_path, resume=True, progress=False)
    assert history["loss"] == pytest.approx(trained("adapter")[0]["loss"], rel=1e-5)


def failing():
    """In each process of two: train; the second fails in its third step."""
    group = communicator()

    class Fails(Batches):
        def batch(self, seed, step):
            if step == 2 and group.rank == 1:
                raise KeyError("the second process fails")
            return super().batch(seed, step)

    train(lora(), Fails(), arguments(), progress=False, communicator=group)


def test_an_error_in_one_process_ends_all():
    done = under_mpi(2, "import test_processes; test_processes.failing()")
    assert done.returncode != 0
    assert "the second process fails" in done.stderr


ASK = "from lora_np.training.parallel.processes import communicator; print(type(communicator()).__name__)"
WITHOUT_MPI4PY = "import sys; sys.modules['mpi4py'] = None; "


def test_a_process_that_was_started_alone_is_alone():
    for code in (ASK, WITHOUT_MPI4PY + ASK):
        done = child(code)
        assert (done.returncode, done.stdout) == (0, "SoloCommunicator\n"), done.stderr


@pytest.mark.parametrize("variable", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_several_processes_without_mpi4py_are_refused(variable):
    """Each would train alone, and nobody would notice."""
    done = child(WITHOUT_MPI4PY + ASK, **{variable: "2"})
    assert re.search(
        r"RuntimeError: mpirun has started 2 processes, but mpi4py .*pip install .*distributed", done.stderr
    )


def test_an_mpirun_of_another_mpi_is_refused():
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip(f"needs mpi4py: {INSTALL}")
    done = child(ASK, OMPI_COMM_WORLD_SIZE="2")
    assert re.search(r"RuntimeError: mpirun has started 2 processes, but mpi4py sees one", done.stderr)


def on_gpu(rank, directory, port):
    """In each process of two: train every case on a GPU of its own, with messages through NCCL."""
    from lora_np.autograd import gpus

    group = gpus.connected(rank, 2, port)
    for number, (make, data, changes) in enumerate(CASES.values()):
        model = make().to(f"cuda:{rank}")
        communicator = NCCLCommunicator(group, rank, 2, f"cuda:{rank}")
        history = train(model, data, arguments(**changes), progress=False, communicator=communicator)
        path = Path(directory) / f"{number}-{rank}"
        np.savez(f"{path}.npz", **{name: p.data.get() for name, p in model.named_parameters() if p.requires_grad})
        path.with_suffix(".json").write_text(json.dumps([history, "NCCL", communicator.bytes_per_step]))


@pytest.mark.gpu
def test_two_gpus_train_as_one_process_does_on_the_joined_batch(tmp_path):
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "import test_processes; test_processes.on_gpu({}, {!r}, {})"
    commands = [[sys.executable, "-c", code.format(rank, str(tmp_path), port)] for rank in range(2)]
    started = [subprocess.Popen(command, cwd=Path(__file__).parent, env=with_helpers()) for command in commands]
    try:
        end = time.monotonic() + 300
        while any(process.poll() is None for process in started) and time.monotonic() < end:
            assert all(process.poll() in (None, 0) for process in started)  # one that fails leaves the other waiting
            time.sleep(0.2)
        assert [process.poll() for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    for case in CASES:
        expected, expected_weights = trained(case)
        for rank in range(2):
            history, _, _, weights = read_case(tmp_path, case, rank)
            np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
            for name, array in weights.items():
                np.testing.assert_allclose(array, expected_weights[name], rtol=1e-3, atol=1e-4, err_msg=name)
