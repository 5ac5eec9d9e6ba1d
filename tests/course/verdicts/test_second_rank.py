"""The rank of full training's update at the second scale: which runs there are, what a cut leaves, and the rule."""

import copy

import numpy as np
import pytest

from lora_course.verdicts import second, second_rank, shipped
from lora_course.verdicts.second_rank import RATE, energy, plan, small_plan, taken_apart, verdicts
from lora_course.verdicts.verdict import FAILS, HOLDS, OPEN
from lora_np.lora.analysis import singular_spectrum
from lora_np.models import AutoModelForCausalLM


def test_the_rate_is_that_of_the_longer_runs():
    assert {point["rate"] for point in plan()} == {second.table(shipped("second"))["full"]["rate"]}


def test_energy_of_known_spectra():
    flat, one = np.ones(10), np.eye(10)[0]
    assert energy(np.array([flat])) == [0.8, 5.0, 9.0]
    assert energy(np.array([one])) == [1.0, 1.0, 1.0]
    assert energy(np.array([flat, one])) == [0.9, 3.0, 5.0]


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (9, 9)])
def test_the_first_directions_are_those_of_numpys_svd(shape):
    delta = np.random.default_rng(0).standard_normal(shape, np.float32)
    U, S, Vt = np.linalg.svd(delta, full_matrices=False)
    left, right = second_rank._first(delta, 5)
    for k in (1, 3, 5):
        np.testing.assert_allclose(left[:, :k] @ right[:k], (U[:, :k] * S[:k]) @ Vt[:k], atol=1e-5)
    np.testing.assert_allclose(np.linalg.eigvalsh(second_rank._gram(delta))[::-1], S**2, rtol=1e-4)


def test_what_is_left_of_an_update():
    base = AutoModelForCausalLM.from_pretrained("tiny-python")
    model = copy.deepcopy(base)
    rng = np.random.default_rng(0)
    names = [name for name, p in base.named_parameters() if p.ndim == 2 and ".h." in name]
    for name, p in model.named_parameters():
        if name in names:
            shape = p.shape
            p.data = p.data + rng.standard_normal((shape[0], 3), np.float32) @ rng.standard_normal(
                (3, shape[1]), np.float32
            )
    norm = model.transformer.ln_f.weight
    before, norm.data = norm.data, norm.data + 1
    expected = {name: p.data for name, p in model.named_parameters()}
    seen = []

    def loss(found):
        seen.append({name: p.data.copy() for name, p in found.named_parameters()})
        return len(seen)

    found = taken_apart(model, base, loss)
    assert found["cut"] == {"1": [1, 2], "8": [3, 4], "64": [5, 6], "all": [7, 8]}
    assert len(names) == 16
    ranks = [singular_spectrum(seen[1][name] - base.get_parameter(name).data) for name in names]
    assert all(values[1] < 1e-5 * values[0] for values in ranks)
    for one in seen[2:]:  # of rank 3: nothing is cut
        for name in names:
            np.testing.assert_allclose(one[name], expected[name], rtol=1e-4, atol=1e-4)
    for alone, beside in zip(seen[::2], seen[1::2], strict=True):
        np.testing.assert_array_equal(alone["transformer.ln_f.weight"], before)
        np.testing.assert_array_equal(beside["transformer.ln_f.weight"], norm.data)
    assert found["energy"]["update"][0] == 1
    assert found["energy"]["random"][0] < found["energy"]["weight"][0] < 1


@pytest.mark.parametrize(("left", "word"), [(0.95, HOLDS), (0.5, FAILS), (0.9, OPEN)])
def test_the_rule(left, word):
    runs = []
    for seed in (0, 1, 2):
        cut = {k: [2.9, 3.0 - left - 0.001 * seed] for k in ("1", "8", "64", "all")}
        spectra = {"update": [0.1, 100.0, 300.0 + seed]}
        losses = {"step": [0, 24], "validation": [3.0, 2.0], "prose": [3.0, 2.0]}
        run = {"method": "full", "rate": RATE, "seed": seed, "cut": cut, "energy": spectra, "diverged": False}
        runs.append({**run, **losses})
    (found,) = verdicts({"runs": runs})
    assert found.verdict == word
    assert found.claim.startswith("SmolLM2: ")
    assert np.isclose(found.numbers["directions of 576 for nine tenths of ΔW's energy"][0], 301)


def test_a_run():
    (point,) = small_plan()
    run = second_rank.run(point, small=True)
    assert run["step"] == [0, 4]
    assert run["prose"][1] < run["prose"][0]
    assert run["cut"]["all"][1] == run["prose"][1]
    assert run["cut"]["1"][0] > run["cut"]["8"][0] > run["cut"]["64"][0] > run["cut"]["all"][0]
