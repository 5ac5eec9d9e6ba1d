"""The family at three sizes: LoRA of as many parameters, how far apart they are, and the rules that decide."""

import numpy as np
import pytest

from lora_course.verdicts import fair_fight
from lora_course.verdicts.family import CONFIGS, IN_ALL_SIZES, MORE_SEEDS, SEEDS, SIZES
from lora_course.verdicts.verdict import FAILS, HOLDS, OPEN

COUNTS = {1: 8192, 8: 65536, 32: 262144}
PARTS = {"VeRA": 1 / 8, "AdaLoRA": 1.5, "IA3": 0.1, "TinyLoRA": 0.25}  # of LoRA's parameters; the others have as many


def plain(count):
    """LoRA's loss: 0.02 less for each doubling of the parameters."""
    return 1.4 - 0.02 * np.log2(count)


def family(above=None, spread=0.0, parts=None):
    """Runs at one rate whose losses lie on LoRA's line, or so far above it: {(method, size): nats}."""
    above, parts, runs = above or {}, PARTS | (parts or {}), []
    for size in SIZES:
        for method in CONFIGS if size == 8 else IN_ALL_SIZES:
            count = round(parts.get(method, 1) * COUNTS[size])
            for seed in (*SEEDS, *MORE_SEEDS):
                more = above.get((method, size), 0.0) + spread * ((seed % 3) - 1) * (method != "LoRA")
                point = {"method": method, "size": size, "rate": 0.004, "seed": seed}
                losses = {name: [plain(count) + more] for name in ("validation", "prose", "source")}
                runs.append({**point, "step": [160], **losses, "trainable": count, "seconds": 1.0, "diverged": False})
    return {"base": {"prose": 1.3, "source": 0.9}, "runs": runs}


@pytest.mark.parametrize("part", [0.5, 1, 1.5, 4])
def test_what_lies_on_loras_line_is_not_above_lora_of_as_many_parameters(part):
    found = fair_fight.at_as_many(family(parts={"DoRA": part}), "DoRA")
    assert sorted(found) == [1, 8, 32]
    np.testing.assert_allclose(list(found.values()), 0, atol=1e-5)
    found = fair_fight.at_as_many(family({("DoRA", 8): 0.03}, parts={"DoRA": part}), "DoRA")
    np.testing.assert_allclose(found[8], 0.03, atol=1e-5)


def test_only_those_that_have_loras_size_at_each_rank_are_compared_there():
    names = set(fair_fight.of_one_size(family())[1])
    assert names == set(IN_ALL_SIZES) - {"LoRA", "VeRA"}


def test_how_far_apart_they_are_is_a_mean_over_methods():
    found = fair_fight.apart(family({("PiSSA", 1): 0.1, ("OFT", 1): -0.1}))
    np.testing.assert_allclose(found[1], 0.2 / 10, atol=1e-5)
    np.testing.assert_allclose(found[8], 0, atol=1e-5)


def verdict(claim, **options):
    (found,) = (v.verdict for v in fair_fight.verdicts(family(**options)) if claim in v.claim)
    return found


def everywhere(method, *nats):
    return {(method, size): x for size, x in zip((1, 8, 32), nats, strict=True)}


@pytest.mark.parametrize(
    ("claim", "above", "spread", "wanted"),
    [
        ("sizes of ranks 1 and 32", {}, 0.0, HOLDS),
        ("sizes of ranks 1 and 32", {("OFT", 32): 0.05}, 0.0, FAILS),
        ("sizes of ranks 1 and 32", {("OFT", 8): 0.05}, 0.0, HOLDS),
        ("sizes of ranks 1 and 32", {("OFT", 32): 0.0205}, 0.002, OPEN),
        ("the larger the adapter", everywhere("MiSS", 0.3, 0.2, 0.1), 0.0, HOLDS),
        ("the larger the adapter", everywhere("MiSS", 0.3, 0.1, 0.2), 0.0, FAILS),
        ("the larger the adapter", {}, 0.001, OPEN),
        ("DoRA is better than LoRA of the same rank", everywhere("DoRA", -0.02, -0.01, -0.01), 0.0, HOLDS),
        ("DoRA is better than LoRA of the same rank", everywhere("DoRA", -0.01, -0.02, -0.01), 0.0, OPEN),
        ("DoRA is better than LoRA of the same rank", everywhere("DoRA", 0.01, -0.02, -0.01), 0.0, FAILS),
        ("DoRA is better than LoRA of as many", everywhere("DoRA", -0.01, -0.02, -0.01), 0.0, HOLDS),
        ("DoRA is better than LoRA of as many", everywhere("DoRA", 0.0, -0.02, -0.01), 0.001, OPEN),
        ("DoRA is better than LoRA of as many", everywhere("DoRA", 0.01, -0.02, -0.01), 0.001, FAILS),
        ("VeRA needs fewer", everywhere("VeRA", -0.01, -0.01, -0.01), 0.0, HOLDS),
        ("VeRA needs fewer", everywhere("VeRA", 0.01, 0.01, -0.01), 0.0, OPEN),
        ("VeRA needs fewer", everywhere("VeRA", 0.01, 0.01, 0.01), 0.0, FAILS),
    ],
)
def test_the_rule_decides(claim, above, spread, wanted):
    assert verdict(claim, above=above, spread=spread) == wanted
