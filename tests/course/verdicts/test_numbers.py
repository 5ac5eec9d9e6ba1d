"""Every number on the page of verdicts, computed again from the files, with NumPy and not with the package."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lora_course.verdicts.page import number

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
T = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}  # Student's t for 95%, by the number of values
PAGE = (NOTEBOOKS / "book" / "verdicts.md").read_text(encoding="utf-8")


def read(name):
    folder = NOTEBOOKS / "lora_course" / ("" if name == "rank_sweep" else "verdicts")
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def stated(claim):
    """{name: text} of the numbers in the section whose heading begins so."""
    section = PAGE.partition(f"\n### {claim}")[2].partition("\nRule:")[0]
    return dict(re.findall(r"^\| (.+) \| (.+) \|$", section, re.MULTILINE))


def check(claim, numbers):
    assert {name: number(pair) for name, pair in numbers.items()} == stated(claim)


def t95(values):
    values = np.array(values, dtype=float)
    return values.mean(), T[len(values)] * values.std(ddof=1) / len(values) ** 0.5


def runs(data, **wanted):
    return [run for run in data["runs"] if wanted.items() <= run.items()]


def grid(found, value):
    """(rates, array of rates x seeds) of the last value of each run; of rates that all seeds have."""
    cells = {(run["rate"], run["seed"]): run[value][-1] for run in found}
    seeds = sorted({seed for _, seed in cells})
    rates = [r for r in sorted({r for r, _ in cells}) if all((r, s) in cells for s in seeds)]
    return rates, np.array([[cells[r, s] for s in seeds] for r in rates])


def tuned(found):
    """The test losses of the seeds at the rate that is best on validation text."""
    return grid(found, "prose")[1][grid(found, "validation")[1].mean(1).argmin()]


def vertices(rates, losses):
    """For each seed, the rate at which a parabola through the best one and its neighbours is lowest."""
    x, found = np.log(rates), []
    for y in losses.T:
        i = y.argmin()
        if 0 < i < len(y) - 1 and np.isfinite(y[i - 1 : i + 2]).all():
            (a, b, c), (p, q, r) = x[i - 1 : i + 2], y[i - 1 : i + 2]
            num, den = (b - a) ** 2 * (q - r) - (b - c) ** 2 * (q - p), (b - a) * (q - r) - (b - c) * (q - p)
            found.append(np.exp(b - num / den / 2))
        else:
            found.append(rates[i])
    return np.array(found)


def best_rates(found):
    return vertices(*grid(found, "validation"))


def swept(rule):
    """{rank or None for full training: best rate of each seed} of the rank sweep."""
    kept = [
        r
        for r in read("rank_sweep")["runs"]
        if r["method"] == "full" or (r["targets"], r["rule"]) == ("all linear", rule)
    ]
    result = {}
    for rank in {run["rank"] for run in kept}:
        cells = {(r["learning_rate"], r["seed"]): r["validation"] for r in kept if r["rank"] == rank}
        rates = sorted({rate for rate, _ in cells})
        losses = [[np.inf if cells[rate, s] is None else cells[rate, s] for s in (0, 1, 2)] for rate in rates]
        result[rank] = vertices(rates, np.array(losses))
    return result


def crossing(run, name, level, base):
    """Where run[name] first passes a level: (index of the mark after it, weight of that mark)."""
    y = np.array([base, *run[name]])
    i = int(np.flatnonzero((y[:-1] - level) * (y[1:] - level) <= 0)[0])
    return i, (level - y[i]) / (y[i + 1] - y[i])


def read_at(run, place, name, base):
    i, weight = place
    y = [base, *run[name]]
    return y[i] + weight * (y[i + 1] - y[i])


def passes(run, name, level, base):
    y = np.array([base, *run[name]])
    return bool(((y[:-1] - level) * (y[1:] - level) <= 0).any())


CURVES, BASE = read("curves"), read("curves")["base"]
RANKS = (1, 4, 16, 64)


def groups(data, *names):
    found = {}
    for run in data["runs"]:
        found.setdefault(tuple(run.get(name) for name in names), []).append(run)
    return found


def test_ten_times():
    rates, batch = swept("alpha = 16"), read("batch")
    numbers = {f"ratio, alpha 16, rank {r}": t95(rates[r] / rates[None]) for r in (1, 2, 4, 8, 16, 32, 64, 128)}
    for rows in (4, 16, 64):
        lora, full = (best_rates(runs(batch, batch=rows, method=method)) for method in ("LoRA", "full"))
        numbers[f"ratio, alpha 32, rank 16, batch of {rows}"] = t95(lora / full)
    check("LoRA's best rate is about ten", numbers)


def test_the_rate_over_ranks():
    rates = np.array([found for rank, found in swept("alpha = 16").items() if rank])
    name = "highest of the best rates of ranks 1 to 128 over the lowest"
    check("The best rate hardly depends on the rank", {name: t95(rates.max(0) / rates.min(0))})


def test_placement():
    data = read("placement")
    attention, mlp, every = (tuned(runs(data, rank=rank)) for rank in (40, 24, 15))
    base = data["base"]["prose"]
    numbers = {"attention behind MLP, part of the gain": t95((attention - mlp) / (base - mlp.mean()))}
    numbers["MLP behind all layers, part of the gain"] = t95((mlp - every) / (base - every.mean()))
    check("Attention alone loses", numbers)


def test_batches():
    data = read("batch")
    gaps = {
        n: tuned(runs(data, batch=n, method="LoRA")) - tuned(runs(data, batch=n, method="full")) for n in (4, 16, 64)
    }
    numbers = {f"LoRA minus full, batch of {n}": t95(gap) for n, gap in gaps.items()}
    check("Larger batches cost", {**numbers, "gap at 64 minus gap at 4": t95(gaps[64] - gaps[4])})


def test_capacity():
    best = {}
    for (rank,), found in groups(CURVES, "rank").items():
        rates = sorted({run["rate"] for run in found})
        best[rank] = np.min([np.mean([run["prose"] for run in found if run["rate"] == rate], 0) for rate in rates], 0)
    numbers, steps = {}, CURVES["runs"][0]["step"]
    for rank in RANKS:
        below = np.flatnonzero(best[rank] - best[None] <= 0.01)
        numbers[f"rank {rank} leaves at step"] = (steps[below[-1] + 1 if len(below) else 0], None)
    numbers |= {f"rank {rank}, gap at step 400": (best[rank][-1] - best[None][-1], None) for rank in RANKS}
    check("A rank follows full training", numbers)


def share(blocks, width, inner, kv, vocabulary, length, r, gated):
    """Operations of a LoRA step over those of a full one: all but the first layer's dx, and no dW, are needed."""
    one = [width * (width + 2 * kv), width * width] + [width * inner] * (3 if gated else 2)
    fans = [2 * width + 2 * kv, 2 * width] + [width + inner] * (3 if gated else 2)
    if gated:  # q, k and v apart
        fans[0] = 2 * width + 2 * (width + kv)
    weights, branch = blocks * sum(one) + width * vocabulary, r * blocks * sum(fans)
    attention = 2 * length * width * blocks
    full = 3 * weights + 3 * attention
    first = width * width if gated else one[0]
    inputs = first + (2 * width * kv if gated else 0)  # what reads the first block's input has no dx below it
    return (weights + attention + branch + (weights - inputs) + 2 * attention + 2 * branch) / full, inputs / full


def test_operations():
    numbers = stated("A step of LoRA takes two thirds")
    for rank in RANKS:
        found, slack = share(4, 128, 512, 128, 256, 256, rank, gated=False)
        assert float(numbers[f"share, rank {rank}"]) == pytest.approx(found, abs=slack + 1e-3)
    found, slack = share(32, 4096, 11008, 4096, 32000, 2048, 16, gated=True)
    assert float(numbers["share, Llama-2-7B's shape, rank 16, 2,048 tokens"]) == pytest.approx(found, abs=slack + 1e-3)


def test_intruders_at_a_loss():
    found = {}
    for (rank, _), own in groups(CURVES, "rank", "rate").items():
        if all(passes(run, "prose", 1.12, BASE["prose"]) for run in own):
            places = [crossing(run, "prose", 1.12, BASE["prose"]) for run in own]
            lost = np.mean([read_at(r, p, "source", BASE["source"]) for r, p in zip(own, places, strict=True)])
            count = t95([read_at(r, p, "intruders", 0) for r, p in zip(own, places, strict=True)])
            found[rank] = min(found.get(rank, (np.inf,)), (lost, count))
    numbers = {"full, of 160": found[None][1]} | {f"rank {rank}, of 160": found[rank][1] for rank in RANKS}
    check("LoRA brings intruder dimensions", numbers)


def test_intruders_at_a_size():
    means = {}
    for (rank, _), own in groups(CURVES, "rank", "rate").items():
        if all(passes(run, "size", 0.2, 0.0) for run in own):
            counts = [read_at(run, crossing(run, "size", 0.2, 0.0), "intruders", 0) for run in own]
            means.setdefault(rank, []).append(np.mean(counts))
    numbers = {}
    for rank in RANKS:
        low, high = min(means[rank]), max(means[rank])
        numbers[f"rank {rank}: middle and half range over rates"] = (low + high) / 2, (high - low) / 2
    check("A lower rank brings more", numbers)


def test_what_explains_intruders():
    rows = np.array(
        [
            (size, run["rate"], run["rank"], count)
            for run in runs(CURVES, method="LoRA")
            for step, size, count in zip(run["step"], run["size"], run["intruders"], strict=True)
            if step >= 40
        ]
    )
    logs, y, numbers = np.log(rows[:, :3]), rows[:, 3], {}
    for name, columns in (("size", [0]), ("rate", [1]), ("rank", [2]), ("all three", [0, 1, 2])):
        X = np.column_stack([np.ones(len(y)), logs[:, columns]])
        numbers[f"R² of {name}"] = (np.corrcoef(X @ np.linalg.pinv(X) @ y, y)[0, 1] ** 2, None)
    check("It is the size of the update", numbers)


def test_intruders_made_smaller():
    kept = [r for r in runs(CURVES, method="LoRA") if r["intruders"][-1] >= 5 and BASE["prose"] - r["prose"][-1] >= 0.1]
    numbers = {}
    for strength in ("0.75", "0.5"):
        parts = []
        for seed in range(5):
            own = [run for run in kept if run["seed"] == seed]
            end, less = (
                {c: np.mean([f(r)[c] for r in own]) for c in ("prose", "source")} for f in (_last, _reduced(strength))
            )
            back = (end["source"] - less["source"]) / (end["source"] - BASE["source"])
            parts.append((back, (less["prose"] - end["prose"]) / (BASE["prose"] - end["prose"])))
        back, lost = np.transpose(parts)
        numbers[f"at {strength}, part of the forgotten that comes back"] = t95(back)
        numbers[f"at {strength}, part of the learnt that goes"] = t95(lost)
    check("Making them smaller", numbers)


def _last(run):
    return {name: run[name][-1] for name in ("prose", "source")}


def _reduced(strength):
    return lambda run: run["reduced"][strength]


def test_starts():
    data, lags, ratios = read("starts"), {}, {}
    for rank in (4, 64):
        first, other = (runs(data, rank=rank, start=start) for start in ("A first", "B first"))
        lags[f"B first minus A first, rank {rank}"] = t95(tuned(other) - tuned(first))
        ratios[f"best rate, A first over B first, rank {rank}"] = t95(best_rates(first) / best_rates(other))
    check("A random and B zero ends better", lags)
    check("A random and B zero allows a higher rate", ratios)


def scaled():
    """{(width, rule, seed): {rank: best rate}}, of the scaling runs and of the rank sweep."""
    found = {}
    for (method, width, rank, rule, seed), own in groups(
        read("scaling"), "method", "width", "rank", "rule", "seed"
    ).items():
        if method == "LoRA":
            for name in ("alpha / r", "alpha / sqrt(r)") if rank == 8 else (rule,):
                found.setdefault((width, name, seed), {})[rank] = best_rates(own)[0]
    for rule, name in (("alpha / r", "alpha = 16"), ("alpha / sqrt(r)", "alpha = 16, rsLoRA")):
        rates = swept(name)
        for seed in range(3):
            found[128, rule, seed] = {rank: rates[rank][seed] for rank in rates if rank}
    return found


def test_rate_over_ranks_and_widths():
    found, numbers = scaled(), {}
    for rule in ("alpha / r", "alpha / sqrt(r)"):
        own = [rates for (_, name, _), rates in found.items() if name == rule]
        slopes = [np.polyfit(np.log(list(rates)), np.log(list(rates.values())), 1)[0] for rates in own]
        numbers[f"p in best rate ~ rank^p, {rule}"] = t95(slopes)
    check("With alpha / sqrt(r) the best rate stays", numbers)
    numbers = {}
    for rank in (8, 64):
        logs = {
            w: [np.log(r[rank]) for (x, u, _), r in found.items() if (x, u) == (w, "alpha / r")]
            for w in (128, 256, 512)
        }
        means = [np.exp(np.mean(values)) for values in logs.values()]
        numbers[f"highest over lowest of widths 128, 256, 512, rank {rank}"] = (max(means) / min(means), None)
    check("LoRA's best rate hardly depends on the width", numbers)


def law(r, s, rows=16):
    return 0.036 * r**-0.58 * s**-0.51 * (rows / 16) ** 0.5


def middle(values):
    return np.exp(np.mean(np.log(values)))


def test_the_law_of_the_rate():
    pairs = []
    for (_, _, rank, rule), own in groups(read("scaling"), "method", "width", "rank", "rule").items():
        if rule:
            seeds = [
                best_rates([run for run in own if run["seed"] == s])[0] for s in sorted({run["seed"] for run in own})
            ]
            pairs.append((law(rank, own[0]["scaling"]), middle(seeds)))
    pairs += [(law(16, 2.0, n), middle(best_rates(runs(read("batch"), batch=n, method="LoRA")))) for n in (4, 16, 64)]
    pairs += [(law(r, 32 / r), middle(best_rates(runs(read("starts"), rank=r, start="A first")))) for r in (4, 64)]
    misses = np.exp(abs(np.log([a / b for a, b in pairs])))
    numbers = {"largest factor by which 0.036 r^-0.58 s^-0.51 √(rows / 16) misses": (misses.max(), None)}
    numbers[f"settings within 1.5, of {len(misses)}"] = (int((misses <= 1.5).sum()), None)
    check("The best rate can be foretold", numbers)


def of_relatives(size=8):
    """{method: its runs at the rate that is best on validation text over seeds 0 to 2, of all five seeds}."""
    found = {}
    for (method,), own in groups({"runs": runs(read("family"), size=size)}, "method").items():
        three = [r for r in own if r["seed"] < 3 and sum(o["rate"] == r["rate"] and o["seed"] < 3 for o in own) == 3]
        rates, validation = grid(three, "validation")
        rate = rates[validation.mean(1).argmin()]
        found[method] = sorted((r for r in own if r["rate"] == rate), key=lambda r: r["seed"])
        assert [r["seed"] for r in found[method]] == [0, 1, 2, 3, 4]
    return found


def lasts(found, name="prose"):
    return np.array([run[name][-1] for run in found])


SMALLER = ("VeRA", "TinyLoRA", "IA3")


def test_the_family():
    ends = {method: lasts(found) for method, found in of_relatives().items()}
    plain = ends["LoRA"]
    behind = {m: t95(losses - plain) for m, losses in ends.items() if m not in ("LoRA", *SMALLER)}
    percent = {f"{m}, % of LoRA's loss": tuple(100 * x / plain.mean() for x in pair) for m, pair in behind.items()}
    check("Once each has its own rate", percent)
    first = sorted(behind, key=lambda method: behind[method][0])[:3]
    check("Some relative of the same size", {f"{method} minus LoRA": behind[method] for method in first})


LINES = ("LoRA+", "PiSSA", "DoRA", "LoHa", "LoKr", "MiSS", "HiRA", "DeLoRA", "SHiRA", "OFT")  # of LoRA's size


def at_as_many(method):
    """{rank: losses of the seeds less those of LoRA with as many parameters}, LoRA's on lines over their logarithm."""
    every, gaps = {rank: of_relatives(rank) for rank in (1, 8, 32)}, {}
    x = [np.log(every[rank]["LoRA"][0]["trainable"]) for rank in every]
    y = np.array([lasts(every[rank]["LoRA"]) for rank in every])
    for rank, found in every.items():
        size = np.log(found[method][0]["trainable"])
        k = 0 if size < x[1] else 1
        slope = (y[k + 1] - y[k]) / (x[k + 1] - x[k])
        gaps[rank] = lasts(found[method]) - (y[k] + slope * (size - x[k]))
    return gaps


def test_the_family_at_three_sizes():
    percent = {}
    for rank in (1, 32):
        ends = {method: lasts(found) for method, found in of_relatives(rank).items()}
        for method in LINES:
            pair = t95(ends[method] - ends["LoRA"])
            percent[f"{method}, rank {rank}, % of LoRA's loss"] = tuple(100 * x / ends["LoRA"].mean() for x in pair)
    check("At the sizes of ranks 1 and 32", percent)
    gaps = {method: at_as_many(method) for method in LINES}
    apart = {rank: np.mean([abs(gaps[method][rank]) for method in LINES], 0) for rank in (1, 8, 32)}
    numbers = {f"mean distance from LoRA of as many parameters, rank {r}": t95(v) for r, v in apart.items()}
    numbers |= {f"rank {b} minus rank {a}": t95(apart[b] - apart[a]) for a, b in ((1, 8), (8, 32))}
    check("The larger the adapter", numbers)


def test_the_table_of_three_sizes():
    lines = re.findall(r"^\| ([\w-]+\+?) \| (.+) \|$", PAGE.partition("| rank 32 | trained |")[2], re.MULTILINE)[:12]
    every, source = {rank: of_relatives(rank) for rank in (1, 8, 32)}, read("family")["base"]["source"]
    assert {method for method, _ in lines} == set(every[1]) == set(every[32])
    for method, line in lines:
        gaps = at_as_many(method)
        cells = [f"{number(t95(lasts(every[rank][method])))} ({gaps[rank].mean():+.3f})" for rank in every]
        counts = ", ".join(f"{found[method][0]['trainable']:,}" for found in every.values())
        assert line.split(" | ") == [*cells, counts]
    for rank, found in every.items():
        means = {m: (lasts(found[m]).mean(), lasts(found[m], "source").mean() - source) for m, _ in lines}
        front = [m for m, (x, y) in means.items() if not any(a < x and b < y for a, b in means.values())]
        (told,) = re.findall(rf"at rank {rank} ([\w, +]+)[;.]", PAGE.partition("Twelve at three sizes")[2])
        assert sorted(told.split(", ")) == sorted(front)


def test_dora_and_vera_at_as_many_parameters():
    numbers = {}
    for rank in (1, 8, 32):
        found = of_relatives(rank)
        numbers[f"DoRA minus LoRA, rank {rank}"] = t95(lasts(found["DoRA"]) - lasts(found["LoRA"]))
    check("DoRA is better than LoRA of the same rank", numbers)
    head = "DoRA minus LoRA of as many parameters, rank {}"
    check("DoRA is better than LoRA of as many", {head.format(r): t95(gap) for r, gap in at_as_many("DoRA").items()})
    sizes = {rank: of_relatives(rank)["VeRA"][0]["trainable"] for rank in (1, 8, 32)}
    head = "VeRA minus LoRA of as many parameters, {:,}"
    check("VeRA needs fewer", {head.format(sizes[rank]): t95(gap) for rank, gap in at_as_many("VeRA").items()})


def test_the_table_of_the_family():
    clock = {run["method"]: f"{run['milliseconds']:.1f}" for run in read("times")["runs"]}
    found, source = of_relatives(), read("family")["base"]["source"]
    lines = re.findall(r"^\| ([\w-]+\+?) \| ([\d.]+) \| (.+) \|$", PAGE.partition("| best rate |")[2], re.MULTILINE)
    lines = [line for line in lines if line[0] in found]
    assert len(lines) == len(found)
    means = {m: (lasts(own).mean(), lasts(own, "source").mean()) for m, own in found.items()}
    front = [m for m, (x, y) in means.items() if not any(a < x and b < y for a, b in means.values())]
    (told,) = re.findall(r"less forgotten than these: (.+)\.", PAGE)
    assert sorted(told.split(", ")) == sorted(front)
    for line in lines:
        own = found[line[0]]
        losses, lost, size = lasts(own), lasts(own, "source") - source, own[0]["trainable"]
        cells = [number(t95(losses)), number(t95(lost)), f"{size:,}", f"{4 * size / 1000:.0f}", clock[line[0]]]
        assert line[2].split(" | ") == cells
        assert float(line[1]) == own[0]["rate"]


def forgotten(own):
    """The interval of the rise on source where prose comes to 1.06; None if not all runs come there."""
    if not all(passes(run, "prose", 1.06, BASE["prose"]) for run in own):
        return None
    return t95(list(forgotten_by_seed(own).values()))


def forgotten_by_seed(found):
    """{seed: the rise of the loss on source where prose gets to 1.06}."""
    places = {run["seed"]: crossing(run, "prose", 1.06, BASE["prose"]) for run in found}
    return {r["seed"]: read_at(r, places[r["seed"]], "source", BASE["source"]) - BASE["source"] for r in found}


def test_forgetting():
    found = {key: forgotten(own) for key, own in groups(CURVES, "rank", "rate").items()}
    best = {rank: min(p for (r, _), p in found.items() if r == rank and p) for rank in (None, 64, 16)}
    assert not any(pair for (rank, _), pair in found.items() if rank in (1, 4))
    check("LoRA forgets less", {"full": best[None], "LoRA r=64": best[64], "LoRA r=16": best[16]})


def test_four_bits():
    data = read("four_bits")
    own = {method: runs(data, method=method) for method in ("float base", "QLoRA", "LoftQ", "QA-LoRA")}
    ends = {method: tuned(found) for method, found in own.items()}
    merged = {method: tuned_merged(found) for method, found in own.items()}
    gain = data["base"]["prose"] - ends["float base"].mean()
    cost = t95((ends["QLoRA"] - ends["float base"]) / gain)
    check("Beside a base in 4 bits", {"QLoRA behind LoRA, part of the gain": cost})
    check("LoftQ's start", {"LoftQ minus QLoRA": t95(ends["LoftQ"] - ends["QLoRA"])})
    check("QA-LoRA merges", {f"merging adds, {m}": t95(merged[m] - ends[m]) for m in data_order(data)})
    check("Merged into 4 bits", {"QA-LoRA minus QLoRA, both merged": t95(merged["QA-LoRA"] - merged["QLoRA"])})


def test_four_bits_at_the_second_scale():
    data = read("second_bits")
    best = {}
    for method in ("float base", "QLoRA", "LoftQ", "QA-LoRA"):
        first = runs(data, method=method, seed=0)
        rate = min(first, key=lambda r: r["validation"][-1])["rate"]
        best[method] = sorted(runs(data, method=method, rate=rate), key=lambda r: r["seed"])
        assert [r["seed"] for r in best[method]] == [0, 1, 2]
    ends = {method: np.array([r["prose"][-1] for r in found]) for method, found in best.items()}
    merged = {method: np.array([r["merged"]["prose"] for r in found]) for method, found in best.items()}
    gain = best["float base"][0]["prose"][0] - ends["float base"].mean()
    check(
        "SmolLM2: beside a base in 4",
        {"QLoRA behind LoRA, part of the gain": t95((ends["QLoRA"] - ends["float base"]) / gain)},
    )
    check("SmolLM2: LoftQ's start", {"LoftQ minus QLoRA": t95(ends["LoftQ"] - ends["QLoRA"])})
    adds = {f"merging adds, {method}": t95(merged[method] - ends[method]) for method in data_order(data)}
    check("SmolLM2: QA-LoRA merges", adds)
    check("SmolLM2: merged into 4 bits", {"QA-LoRA minus QLoRA, both merged": t95(merged["QA-LoRA"] - merged["QLoRA"])})
    learnt = best["QLoRA"][0]["prose"][0] - ends["QLoRA"].mean()
    assert 0.85 < (merged["QLoRA"] - ends["QLoRA"]).mean() / learnt < 0.95  # "nine tenths"
    text = PAGE.partition("## A second scale")[2]
    for method, found in best.items():
        first = found[0]
        edge = "*" * (first["rate"] in (1e-3, 4e-3))
        cells = f"{first['rate']:g}{edge} | {first['base_bytes'] / 1e6:.0f} MB | {first['prose'][0]:.3f}"
        assert f"| {method} | {cells} | {ends[method].mean():.3f} | {merged[method].mean():.3f} |" in text


def tuned_merged(found):
    rates, validation = grid(found, "validation")
    best = [run for run in found if run["rate"] == rates[validation.mean(1).argmin()]]
    return np.array([run["merged"]["prose"] for run in sorted(best, key=lambda run: run["seed"])])


def data_order(data):
    return list(dict.fromkeys(run["method"] for run in data["runs"]))


def test_what_helps():
    plain = {"rank 16, none": forgotten(runs(CURVES, rank=16, rate=2e-3))}
    names = ("weight decay 2", "replay of 2 in 16", "replay of 5 in 16")
    tried = {f"rank 16, {name}": forgotten(runs(read("protected"), name=name, rate=2e-3)) for name in names}
    check("Weight decay of A and B", plain | dict(list(tried.items())[:1]))
    check("A little of the old text", plain | dict(list(tried.items())[1:]))


def test_bits_remembered():
    data = read("capacity")
    usual = [r for r in data["runs"] if (r["steps"], r["load"]) == (2400, 1.2)]
    powers, each = [], {32: [], 64: []}
    for seed in range(3):
        own = [r for r in usual if r["seed"] == seed]
        x = np.log([r["trainable"] for r in own])
        y = np.log([max(r["remembered"]) for r in own])
        wide = np.array([r["width"] == 64 for r in own])
        dx, dy = (v - np.where(wide, v[wide].mean(), v[~wide].mean()) for v in (x, y))  # a level for each width
        powers.append((dx @ dy) / (dx @ dx))
        for width, kept in ((32, ~wide), (64, wide)):
            each[width].append(np.exp((y - x)[kept].mean()))
    head = "bits a parameter, width {}, all places, strings of 1.2"
    numbers = {head.format(width): t95(values) for width, values in each.items()}
    for width in (32, 64):
        same = {"width": width, "targets": "all linear", "rank": 1, "steps": 2400, "seed": 0}
        for r in sorted(runs(data, **same), key=lambda r: r["load"]):
            name = f"the same, rank 1, all layers, width {width}, strings of {r['load']}"
            numbers[name] = (max(r["remembered"]) / r["trainable"], None)
    numbers["the most of any run"] = (max(max(r["remembered"]) / r["trainable"] for r in data["runs"]), None)
    for long in [r for r in data["runs"] if r["steps"] == 4800]:
        (short,) = (r for r in usual if all(r[k] == long[k] for k in ("width", "targets", "rank", "seed")))
        name = f"twice the steps, width {long['width']}, rank {long['rank']}: times as much"
        numbers[name] = (max(long["remembered"]) / max(short["remembered"]), None)
    assert stated("LoRA remembers about two bits") == {name: number(pair) for name, pair in numbers.items()}
    check("What an adapter remembers grows", {"b in bits ~ parameters^b": t95(powers)})
    held = {(r["targets"], r["rank"]): [] for r in usual if r["width"] == 32}
    for r in runs({"runs": usual}, width=32):
        held[r["targets"], r["rank"]].append(max(r["remembered"]))
    times = [np.mean(held[place, 4]) / np.mean(held[place, 1]) for place in ("attention", "MLP", "all linear")]
    assert [f"{x:.1f}" for x in (min(times), max(times))] == ["4.5", "7.5"]
    assert "holds 4.5 to 7.5 times as much" in PAGE
    ratios = {}
    for width, rank in ((32, 1), (32, 4), (64, 1)):
        means = [
            np.mean([max(r["remembered"]) / r["trainable"] for r in usual if wanted.items() <= r.items()])
            for place in ("attention", "MLP", "all linear")
            for wanted in [{"rank": rank, "width": width, "targets": place}]
        ]
        ratios[f"the best place over the worst, width {width}, rank {rank}"] = (max(means) / min(means), None)
    check("It does not matter where", ratios)


def test_bits_of_larger_adapters():
    held, data = {}, [r for r in read("larger")["runs"] if r["steps"] >= 2400]
    for r in data:
        key = r["width"], r["rank"], r["targets"], r["data"], r["load"], r["steps"]
        held.setdefault(key, {})[r["seed"]] = max(r["remembered"]) / r["trainable"]
    held = {key: np.array([values[seed] for seed in range(3)]) for key, values in held.items()}
    whole = {(w, r, x, n, steps): v for (w, r, place, x, n, steps), v in held.items() if place == "all linear"}
    numbers = {
        f"bits a parameter, width {w}, rank {r}, {x} of {n}" + (", 9,600 steps" if steps == 9600 else ""): number(
            t95(v)
        )
        for (w, r, x, n, steps), v in whole.items()
    }
    for rank in (16, 64):
        long, short = (whole[64, rank, "strings", 4.8, steps].mean() for steps in (9600, 2400))
        numbers[f"4 times the steps, rank {rank}: times as much"] = number((long / short, None))
    assert stated("At higher ranks and widths") == numbers
    for low, high in ((1, 16), (16, 64)):
        numbers = {}
        for w in (64, 128):
            x, y = whole[w, low, "strings", 1.2, 2400], whole[w, high, "strings", 1.2, 2400]
            numbers[f"b in bits ~ parameters^b, width {w}"] = t95(1 + np.log(y / x) / np.log(high / low))
        check(f"From rank {low} to {high}", numbers)
    numbers = {}
    for rank in (1, 16):
        facts, strings = (whole[64, rank, what, 1.2, 2400] for what in ("facts", "strings"))
        numbers[f"facts over strings, width 64, rank {rank}"] = t95(facts / strings)
    check("As many bits of facts", numbers)
    times = [
        16 * (whole[w, 16, "strings", 1.2, 2400]).mean() / whole[w, 1, "strings", 1.2, 2400].mean() for w in (64, 128)
    ]
    assert [f"{x:.0f}" for x in times] == ["26", "34"]
    assert "hold 26 and 34 times as much" in PAGE
    more = {
        rank: whole[64, rank, "strings", 4.8, 9600].mean() / whole[64, rank, "strings", 4.8, 2400].mean() - 1
        for rank in (16, 64)
    }
    assert abs(more[16] - 1 / 8) < 0.01
    assert abs(more[64] - 2 / 5) < 0.02
    numbers = {}
    for rank in (16, 64):
        means = [held[64, rank, p, "strings", 1.2, 2400].mean() for p in ("all linear", "attention", "MLP")]
        numbers[f"the best place over the worst, width 64, rank {rank}"] = (max(means) / min(means), None)
    check("At ranks 16 and 64 it does not matter", numbers)


SECOND = {"full": ("full", None, None, None), "MLP, rank 24": ("LoRA", 24, "MLP", None)}
SECOND |= {f"rank {r}": ("LoRA", r, "all linear", None) for r in (4, 15, 64)}
SECOND |= {"attention, rank 40": ("LoRA", 40, "attention", None), "full, 4 rows": ("full", None, None, 4)}
SECOND |= {f"rank 15, {rows} rows": ("LoRA", 15, "all linear", rows) for rows in (4, 32)}
SECOND["full, 32 rows"] = ("full", None, None, 32)
RELATIVES = {name: (name, 15, "all linear", None) for name in ("LoRA+", "DoRA", "HiRA")}
SECOND |= RELATIVES


def of_second(kind):
    names = ("method", "rank", "targets", "batch")
    return [r for r in read("second")["runs"] if tuple(r.get(name) for name in names) == SECOND[kind]]


def best_of_each_seed(kind):
    """Each seed has tried rates of its own here."""
    found = []
    for seed in (0, 1, 2):
        own = sorted((r["rate"], r["validation"][-1]) for r in of_second(kind) if r["seed"] == seed)
        losses = [loss for _, loss in own]
        assert 0 < int(np.argmin(losses)) < len(own) - 1  # the best one has a worse one on either side
        found.append(vertices([rate for rate, _ in own], np.array(losses)[:, None])[0])
    return np.array(found)


def at_best(kind):
    """The runs at the rate that is best on validation text by the mean of all seeds."""
    rates, losses = grid(of_second(kind), "validation")
    rate = rates[losses.mean(1).argmin()]
    return sorted((r for r in of_second(kind) if r["rate"] == rate), key=lambda r: r["seed"])


def ends_at_best(kind):
    return np.array([r["prose"][-1] for r in at_best(kind)])


def gained(kind):
    return np.mean([r["prose"][0] - r["prose"][-1] for r in at_best(kind)])


def risen(kind):
    """The rise of each seed on the base's own words, at the gentlest rate of those at which all get half-way."""
    level = at_best("full")[0]["prose"][0] - gained("full") / 2
    found = []
    for rate in grid(of_second(kind), "own")[0]:
        own = sorted((r for r in of_second(kind) if r["rate"] == rate), key=lambda r: r["seed"])
        if all(min(r["prose"]) < level for r in own):
            found.append([_risen(r, level) for r in own])
    return min(found, key=np.mean)


def _risen(run, level):
    i = int(np.flatnonzero(np.array(run["prose"]) <= level)[0])
    (y0, y1), (z0, z1) = run["prose"][i - 1 : i + 1], run["own"][i - 1 : i + 1]
    return z0 + (y0 - level) / (y0 - y1) * (z1 - z0) - run["own"][0]


def test_the_second_scale():
    ranks = ("rank 4", "rank 15", "rank 64")
    rates = {kind: best_of_each_seed(kind) for kind in SECOND}
    numbers = {f"{kind}, batch of 8": t95(rates[kind] / rates["full"]) for kind in ranks}
    for rows in (4, 32):
        numbers[f"rank 15, batch of {rows}"] = t95(rates[f"rank 15, {rows} rows"] / rates[f"full, {rows} rows"])
    check("SmolLM2: LoRA's best rate", numbers)
    three = np.array([rates[kind] for kind in ranks])
    label = "highest of the best rates of ranks 4, 15, 64 over the lowest"
    check("SmolLM2: the best rate hardly", {label: t95(three.max(0) / three.min(0))})
    attention, mlp, whole, full = map(ends_at_best, ("attention, rank 40", "MLP, rank 24", "rank 15", "full"))
    numbers = {"attention behind MLP, part of the gain": t95((attention - mlp) / gained("MLP, rank 24"))}
    numbers["MLP behind all layers, part of the gain"] = t95((mlp - whole) / gained("rank 15"))
    check("SmolLM2: attention alone", numbers)
    parts = {kind: t95(1 - (ends_at_best(kind) - full) / gained("full")) for kind in ranks}
    check("SmolLM2: with under 1%", {f"{kind}, part of full training's gain": pair for kind, pair in parts.items()})
    check("SmolLM2: LoRA forgets less", {kind: t95(risen(kind)) for kind in ("full", *ranks)})
    names = {4: ", 4 rows", 8: "", 32: ", 32 rows"}
    gaps = {rows: ends_at_best("rank 15" + name) - ends_at_best("full" + name) for rows, name in names.items()}
    numbers = {f"rank 15 minus full, batch of {rows}": t95(gap) for rows, gap in gaps.items()}
    check("SmolLM2: larger batches", {**numbers, "gap at 32 minus gap at 4": t95(gaps[32] - gaps[4])})
    behind = {name: ends_at_best(name) - whole for name in RELATIVES}
    check("SmolLM2: some relative", {f"{name} minus LoRA": t95(found) for name, found in behind.items()})
    percent = {name: t95(100 * found / whole.mean()) for name, found in behind.items()}
    check("SmolLM2: once each has", {f"{name}, % of LoRA's loss": pair for name, pair in percent.items()})


def test_the_table_of_the_second_scale():
    text = PAGE.partition("## A second scale")[2]
    cell = r" \| (.+?)"
    lines = re.findall(rf"^\| (.+?){cell}{cell}{cell}{cell} \|$", text, re.MULTILINE)
    rows = {line[0]: line[1:] for line in lines}
    for kind in [kind for kind in SECOND if "rows" not in kind and kind not in RELATIVES]:
        best = at_best(kind)
        rates = sorted({r["rate"] for r in of_second(kind)})
        assert rates[0] < best[0]["rate"] < rates[-1]
        part = f"{gained(kind) / gained('full'):.0%}"
        cells = f"{best[0]['rate']:g}", f"{ends_at_best(kind).mean():.3f}", part, f"{np.mean(risen(kind)):.3f}"
        assert rows[kind] == cells
        lowest = min(r for r in rates if {0, 1, 2} == {run["seed"] for run in of_second(kind) if run["rate"] == r})
        assert lowest == best[0]["rate"] / 2  # as the page says
    about, starts = read("second")["about"], [r["own"][0] for r in read("second")["runs"] if r["seed"] == 0]
    assert "3 seeds,\n144 runs" in text
    assert "(114 of\nSmolLM2 in float32)" in PAGE
    assert starts.count(min(starts)) == about["other_precision"]["runs"] == 30  # TF32 rounds otherwise


def test_the_rank_of_an_update_at_the_second_scale():
    data = read("second_rank")
    best = sorted(runs(data), key=lambda r: r["seed"])
    assert [(r["rate"], r["seed"]) for r in best] == [(2e-4, 0), (2e-4, 1), (2e-4, 2)]
    gains = np.array([r["prose"][0] - r["prose"][-1] for r in best])
    left = {
        k: np.array([[r["prose"][0] - x for x in r["cut"][k]] for r in best]) / gains[:, None] for k in best[0]["cut"]
    }
    numbers = {f"cut to {k}, all else as trained, part of the gain": t95(left[k][:, 1]) for k in ("1", "8", "64")}
    bits = read("second_bits")
    lora_rate = min(runs(bits, method="float base", seed=0), key=lambda r: r["validation"][-1])["rate"]
    lora = [r["prose"][0] - r["prose"][-1] for r in runs(bits, method="float base", rate=lora_rate)]
    numbers["LoRA of rank 8 on the same batches, part of the gain"] = t95(np.array(lora) / gains.mean())
    directions = [r["energy"]["update"][2] for r in best]
    numbers["directions of 576 for nine tenths of ΔW's energy"] = t95(directions)
    check("SmolLM2: the update of full", numbers)
    text = PAGE.partition("## A second scale")[2]
    for i, where in enumerate(("as in the base", "as trained")):
        assert f"| {where} | {' | '.join(f'{part[:, i].mean():.0%}' for part in left.values())} |" in text
    for name, shown in (("update", "ΔW"), ("weight", "W"), ("random", "random numbers")):
        share, half, most = np.mean([r["energy"][name] for r in best], axis=0)
        assert f"| {shown} | {share:.0%} | {half:.0f} | {most:.0f} |" in text


def taught(method, teacher):
    """The five runs at the rate with the fewest bits left on validation numbers."""
    found = runs(read("reward"), method=method, teacher=teacher)
    rates, left = grid(found, "validation")
    best = rates[left.mean(1).argmin()]
    return sorted((run for run in found if run["rate"] == best), key=lambda run: run["seed"])


def ends_of(found):
    return np.array([run["success"][-1] for run in found])


def test_learning_from_reward():
    full, one, tiny = (taught(method, "reward") for method in ("full", "LoRA r=1", "13 numbers"))
    named = {f"right after 100 steps, {m}": t95(ends_of(r)) for m, r in (("full", full), ("LoRA r=1", one))}
    shown = {f"by examples, {m}": t95(ends_of(taught(m, "examples"))) for m in ("full", "LoRA r=1")}
    check("By reward, rank 1 learns", named | {"full minus rank 1": t95(ends_of(full) - ends_of(one))} | shown)
    whole, part = (ends_of(r) - [run["success"][0] for run in r] for r in (full, tiny))
    named = {"right after 100 steps, 13 numbers": t95(ends_of(tiny)), "part of full training's gain": t95(part / whole)}
    check("By reward, 13 numbers", named)
    shown = taught("13 numbers", "examples")
    named = {f"right after 100 steps, by {t}": t95(ends_of(r)) for t, r in (("reward", tiny), ("examples", shown))}
    check("By examples, 13 numbers", named | {"by reward minus by examples": t95(ends_of(tiny) - ends_of(shown))})


def test_what_a_reward_teaches():
    bits, steps = {}, {}
    for teacher in ("reward", "examples"):
        found = taught("full", teacher)
        bits[teacher] = t95([run["heard"][run["step"].index(10)] / 640 for run in found])
        steps[teacher] = t95([first_at(run, 0.7) for run in found])
    named = {f"bits each, by {t}": pair for t, pair in bits.items()}
    check("An answer with a reward", named | {f"steps to 0.7 right, by {t}": pair for t, pair in steps.items()})


def first_at(run, level):
    """The step at which the line between marks first passes a level; the last step if it never does."""
    y, at = run["success"], run["step"]
    for i in range(1, len(y)):
        if y[i] >= level:
            return at[i - 1] + (level - y[i - 1]) / (y[i] - y[i - 1]) * (at[i] - at[i - 1])
    return at[-1]


def distances_without(method):
    """The interval of rank 8's mean distance minus rank 1's, with one method left out."""
    gaps = [at_as_many(other) for other in LINES if other != method]
    return t95(np.mean([abs(gap[8]) - abs(gap[1]) for gap in gaps], 0))


def test_the_sentences_on_the_family():
    apart = {rank: abs(at_as_many("LoRA+")[rank]).mean() for rank in (1, 8, 32)}
    assert apart[1] < apart[8] < apart[32]
    touching = {method for method in LINES if sum(distances_without(method)) > 0}
    assert touching == {"LoHa", "MiSS", "SHiRA"}
    assert "without LoHa, MiSS or SHiRA the first step would not be clear" in PAGE
    share = [
        found[method][0]["trainable"] / found["LoRA"][0]["trainable"]
        for found in (of_relatives(1), of_relatives(32))
        for method in LINES
    ]
    assert (round(min(share), 2), max(share)) == (0.56, 2)
    percent = {}
    for rank in (1, 32):
        plain = lasts(of_relatives(rank)["LoRA"]).mean()
        percent[rank] = {method: t95(100 * at_as_many(method)[rank] / plain) for method in LINES}
    assert f"LoHa is out at rank 1, too, by {percent[1]['LoHa'][0]:.1f}%, and none is at rank 32" in PAGE
    assert percent[1]["LoHa"][0] - percent[1]["LoHa"][1] > 2
    assert all(abs(mean) - half <= 2 for mean, half in percent[32].values())
    dora, lora = (of_relatives()[method][0]["trainable"] for method in ("DoRA", "LoRA"))
    assert f"It has {dora / lora - 1:.0%} more parameters" in PAGE


def test_the_other_sentences():
    plain, decayed = (
        forgotten_by_seed(found)
        for found in (runs(CURVES, rank=16, rate=2e-3), runs(read("protected"), name="weight decay 2", rate=2e-3))
    )
    less = t95([plain[seed] - decayed[seed] for seed in decayed])
    told = number(less).replace("\N{NO-BREAK SPACE}", " ")
    assert f"seed by seed it is less by {told}" in PAGE
    half = forgotten_by_seed(runs(CURVES, rank=16, rate=1e-3))
    assert f"nearly as much: {np.mean(list(half.values())):.3f}" in PAGE
    for rank in (16, 64, None):
        rates, losses = grid([run for run in CURVES["runs"] if run.get("rank") == rank], "validation")
        assert rates[losses.mean(1).argmin()] == 2 * rates[0]
    most = max(max(run["intruders"]) for run in runs(CURVES, rank=1))
    assert f"at rank 1 there are at most {most} in 16 layers" in PAGE
    first, other = (best_rates(runs(read("starts"), rank=4, start=start)) for start in ("A first", "B first"))
    assert (first > other).all()
    assert 1.9 < (first / other).max() < 2.1
    counts = {run["trainable"] for run in runs(read("four_bits"), method="QA-LoRA")}
    assert counts == {38656}
    again = law(4, 8.0) / middle(best_rates(runs(read("starts"), rank=4, start="A first")))
    assert f"rank 4, which is missed by {1 / again:.2f}" in PAGE


def test_the_sentences_on_larger_adapters():
    held = {}
    wanted = {"targets": "all linear", "data": "strings", "steps": 2400}
    for r in [r for r in read("larger")["runs"] if wanted.items() <= r.items()]:
        held.setdefault((r["width"], r["rank"], r["load"]), []).append(max(r["remembered"]) / r["trainable"])
    times = [np.mean(held[w, r, 4.8]) / np.mean(held[w, r, 1.2]) for w, r in ((64, 16), (64, 64), (128, 16))]
    assert 1.9 < min(times) < max(times) < 2.4
    assert "Four times the strings about double it" in PAGE


def test_what_was_forgotten_at_the_best_rate_after_400_steps():
    """The sentence of notebook 13 on those that forget less because they learn less."""
    learnt, lost = {}, {}
    for rank in (*RANKS, None):
        found = [run for run in CURVES["runs"] if run.get("rank") == rank]
        best = grid(found, "validation")[1].mean(1).argmin()
        learnt[rank], lost[rank] = (BASE[x] - grid(found, x)[1][best].mean() for x in ("prose", "source"))
    assert [f"{-lost[rank]:.2f}" for rank in (1, 4, 16, 64, None)] == ["0.14", "0.22", "0.26", "0.26", "0.24"]
    assert max(learnt, key=learnt.get) is None


def test_the_claims_of_the_course_have_the_numbers_of_three_seeds():
    readme = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    parts = [f"{100 * gained(kind) / gained('full'):.0f}" for kind in ("rank 4", "rank 15", "rank 64")]
    assert f"on SmolLM2 ranks 4, 15, 64 reach {', '.join(parts)}% of its gain" in readme
    assert f"on SmolLM2 0.9% of the parameters reach {parts[0]}%" in readme
    assert f"on SmolLM2 {gained('attention, rank 40') / gained('rank 15'):.0%}" in readme
