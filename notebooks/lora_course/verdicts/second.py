"""A second scale: SmolLM2-135M learns the prose that the small model learns.

What it forgets is hardly seen on source, as that is plain text, too, and comes nearer with any. It is seen on what the
base itself had answered to a question, with a temperature of 1: there no other model can be better, on average, and how
much worse one is is the KL divergence from the base to it.

The file is the one that `lora-np fetch smollm2` brings, 4-bit weights turned back into floats. A run reads 384 windows
of 256 tokens, and each kind of training searches its rate by doubling and halving, for each seed until the best one has
a worse one on either side. `python -m lora_course.verdicts second --device cuda` makes the runs.
"""

import copy
import functools
import time

import numpy as np

from lora_np import LoraConfig, get_peft_model
from lora_np.autograd import manual_seed
from lora_np.cli.task import evenly_spaced
from lora_np.cli.writing import chat_prompt
from lora_np.lora.family.hira import HiraConfig
from lora_np.models import AutoModelForCausalLM, AutoTokenizer
from lora_np.models.output import IGNORED
from lora_np.training import TextData, TrainingArguments, evaluate, prose_documents, python_documents
from lora_np.training.data import split_documents

from .along import look_along
from .data import key_of
from .statistics import at_edge, best_rates, by, chosen, differences, final, interval, value_at, where
from .verdict import (
    LEARNS_LESS,
    RATE_MATTERS,
    WITHOUT_REGRET,
    Verdict,
    above,
    below,
    decided,
    higher,
    within_two_percent,
)

SEEDS = (0, 1, 2)
TARGETS = {
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "MLP": ["gate_proj", "up_proj", "down_proj"],
    "all linear": "all-linear",
}
ALPHA, ROWS, READ, LENGTH, SHOWN = 32, 8, 384, 256, 32  # rows of a batch; windows in a run, their length; held out
PARTS = (8, 4, 2, 4 / 3, 1)  # looks at these parts of a run, and before it
START = {"full": 1e-4, "HiRA": 1.6e-2}  # where a search begins
USUAL_START = 1e-3
MOST = 7  # rates of a search
QUESTION, ANSWERS, WRITTEN = "Tell me about something that you know well.", 32, 96  # answers and their tokens


def _lora(rank, targets="all linear", **more):
    return {"method": "LoRA", "targets": targets, "rank": rank, **more}


CORE = {
    "full": {"method": "full"},
    "rank 4": _lora(4),
    "rank 15": _lora(15),
    "rank 64": _lora(64),
    "attention, rank 40": _lora(40, "attention"),
    "MLP, rank 24": _lora(24, "MLP"),
}
BATCHES = {
    f"{name}, {rows} rows": {**fields, "batch": rows}
    for rows in (4, 32)
    for name, fields in (("full", CORE["full"]), ("rank 15", CORE["rank 15"]))
}
RELATIVES = {name: {**CORE["rank 15"], "method": name} for name in ("LoRA+", "DoRA", "HiRA")}
KINDS = {**CORE, **BATCHES, **RELATIVES}
GROUPS = (CORE, BATCHES, RELATIVES)  # in this order, if time is short
ARGUMENTS = {"LoRA+": {"loraplus_lr_ratio": 16.0}}


def kind_of(run):
    """The name in KINDS of a run, or of a point."""
    fields = {name: run[name] for name in ("method", "targets", "rank", "batch") if name in run}
    return next(kind for kind, own in KINDS.items() if own == fields)


def lateness(point):
    """Which of the groups a point is of."""
    return next(i for i, group in enumerate(GROUPS) if kind_of(point) in group)


def plan(done=()):
    """The points there are to make, those that are done included; more follow when these are done."""
    groups, found = by([{**run, "kind": kind_of(run)} for run in done], "kind", "seed"), []
    for kind, fields in KINDS.items():
        first, settled = _searched(groups.get((kind, SEEDS[0]), []), START.get(fields["method"], USUAL_START))
        found += [{**fields, "rate": rate, "seed": SEEDS[0]} for rate in first]
        for seed in SEEDS[1:] if settled else ():
            rates, _ = _searched(groups.get((kind, seed), []), settled)
            found += [{**fields, "rate": rate, "seed": seed} for rate in rates]
    return found


def _searched(runs, start):
    """(rates to try, the best of them once it has a worse one on either side, else None), from the runs so far."""
    losses = {run["rate"]: final(run, "validation") for run in runs}
    rates = sorted({start / 2, start, start * 2, *losses})
    if not all(rate in losses for rate in rates):
        return rates, None
    best = min(rates, key=losses.get)
    if best in (rates[0], rates[-1]) and len(rates) < MOST:
        return sorted([*rates, best / 2 if best == rates[0] else best * 2]), None
    return rates, best


def small_plan(done=()):
    """Each kind once."""
    return [point for point in plan() if point["rate"] == START.get(point["method"], USUAL_START)]


@functools.lru_cache(maxsize=2)
def _base(small):
    return AutoModelForCausalLM.from_pretrained("tiny-python" if small else "smollm2")


@functools.lru_cache(maxsize=2)
def _texts(small):
    """(what is learnt, {loss: windows})."""
    tokenizer = AutoTokenizer.from_pretrained("tiny-python" if small else "smollm2")
    prose, source = split_documents(prose_documents()), split_documents(python_documents(), held_out=0.05)
    length, count = (32, 2) if small else (LENGTH, SHOWN)
    held = {"validation": prose["validation"], "prose": prose["test"], "source": source["test"]}
    windows = {name: TextData(text, tokenizer, length, ROWS).windows() for name, text in held.items()}
    held = {name: evenly_spaced(found, count) for name, found in windows.items()}
    held["own"] = _own_words(small)
    return TextData(prose["train"], tokenizer, length, ROWS), held


@functools.lru_cache(maxsize=2)
def _own_words(small):
    """(ids, labels) of what the base answers; the question and what follows the end do not count."""
    tokenizer, model = AutoTokenizer.from_pretrained("tiny-python" if small else "smollm2"), _base(small)
    asked = tokenizer.encode("def ") if small else chat_prompt_ids(tokenizer)
    rows, written = np.tile(asked, (2 if small else ANSWERS, 1)), 8 if small else WRITTEN
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 0}
    ids = model.generate(rows, max_new_tokens=written, pad_token_id=0, **options)
    ids = ids.numpy() if hasattr(ids, "numpy") else np.asarray(ids)
    place, ends = np.arange(ids.shape[1]), ids == (tokenizer.eos_token_id if not small else -1)
    over = (ends & (place >= len(asked))).cumsum(axis=1) - ends > 0
    return ids, np.where((place < len(asked)) | over, IGNORED, ids)


def chat_prompt_ids(tokenizer):
    """The question as the model is asked it."""
    messages = [{"role": "user", "content": QUESTION}]
    return tokenizer.encode(chat_prompt(tokenizer, messages), add_special_tokens=False)


def _losses(model, held_out):
    """{"validation", "prose", "source", "own"}: in nats per token."""
    return {name: round(evaluate(model, windows, batch_size=16), 5) for name, windows in held_out.items()}


@functools.lru_cache(maxsize=2)
def _before(small, device):
    return _losses(copy.deepcopy(_base(small)).to(device), _texts(small)[1])


def config_of(point, small=False):
    """The settings of a point's adapter: alpha is 32 at every rank."""
    common = {"r": point["rank"], "fan_in_fan_out": small}
    common["target_modules"] = "all-linear" if small else TARGETS[point["targets"]]
    if point["method"] == "HiRA":
        return HiraConfig(**common)
    return LoraConfig(lora_alpha=ALPHA, use_dora=point["method"] == "DoRA", **common)


def run(point, small=False, device="cpu", marks=None):
    """A point with its losses at each marked step, the first of which is 0, "trainable" and "seconds"."""
    began = time.perf_counter()
    text, held_out = _texts(small)
    text = copy.copy(text)
    text.batch_size = point.get("batch", ROWS)
    steps = 4 if small else READ // text.batch_size
    marks = marks or tuple(dict.fromkeys(max(1, round(steps / part)) for part in PARTS))
    columns = {"step": [0], **{name: [loss] for name, loss in _before(small, device).items()}}
    manual_seed(point["seed"])
    model = copy.deepcopy(_base(small)).to(device)
    if point["method"] != "full":
        model = get_peft_model(model, config_of(point, small))
    args = TrainingArguments(
        steps=steps,
        learning_rate=point["rate"],
        warmup_steps=min(10, steps // 10),
        seed=point["seed"],
        **ARGUMENTS.get(point["method"], {}),
    )

    def look(step):
        for name, value in {"step": step, **_losses(model, held_out)}.items():
            columns[name].append(value)

    diverged = look_along(model, text, args, marks, look)
    trainable = sum(p.size for p in model.parameters() if p.requires_grad)
    seconds = round(time.perf_counter() - began, 2)
    return {**point, **columns, "trainable": trainable, "seconds": seconds, "diverged": diverged}


def of_kinds(data):
    """{kind: its runs}, in the order of KINDS."""
    found = by([{**run, "kind": kind_of(run)} for run in data["runs"]], "kind")
    return {kind: found[kind] for kind in KINDS if kind in found}


def settled(data):
    """The data set with the runs of those kinds alone whose searches are at their end, for all seeds."""
    known = {key_of(run) for run in data["runs"]}
    waiting = {kind_of(point) for point in plan(data["runs"]) if key_of(point) not in known}
    return {**data, "runs": [run for run in data["runs"] if kind_of(run) not in waiting]}


def best(data):
    """{kind: its runs at the rate that is best on validation text}."""
    return {kind: chosen(runs) for kind, runs in of_kinds(data).items()}


def ratios(data):
    """{label: interval of LoRA's best rate over full training's}, of three ranks and of the batches that are there."""
    rates = {kind: best_rates(runs) for kind, runs in of_kinds(data).items()}
    pairs = {f"{kind}, batch of {ROWS}": (kind, "full") for kind in ("rank 4", "rank 15", "rank 64")}
    pairs |= {f"rank 15, batch of {rows}": (f"rank 15, {rows} rows", f"full, {rows} rows") for rows in (4, 32)}
    pairs = {label: pair for label, pair in pairs.items() if rates.keys() >= set(pair)}
    return {label: interval([rates[a][s] / rates[b][s] for s in rates[b]]) for label, (a, b) in pairs.items()}


def spread(data):
    """The highest of the three ranks' best rates over the lowest: an interval over seeds."""
    rates = [best_rates(of_kinds(data)[kind]) for kind in ("rank 4", "rank 15", "rank 64")]
    return interval([max(own[s] for own in rates) / min(own[s] for own in rates) for s in rates[0]])


def gain(runs):
    """What runs have learnt, on average: how far the loss on test prose fell."""
    return interval([run["prose"][0] - final(run) for run in runs])[0]


def lag(data, one, other):
    """How far one kind is behind another, as a part of the other's gain: an interval over seeds."""
    found = best(data)
    return interval([x / gain(found[other]) for x in differences(found[one], found[other])])


def gaps(data):
    """{rows of a batch: LoRA's test loss less full training's, seed by seed}."""
    found = best(data)
    names = {rows: f", {rows} rows" for rows in (4, 32)} | {ROWS: ""}
    return {rows: differences(found["rank 15" + name], found["full" + name]) for rows, name in sorted(names.items())}


def level(data):
    """The loss on prose at which half of what full training gains has been learnt."""
    runs = best(data)["full"]
    return runs[0]["prose"][0] - gain(runs) / 2


def forgotten(data):
    """{kind: (rate, interval of the rise on the base's own words where prose gets to `level`)}, at the gentlest rate.

    Of all kinds with the usual batch; between the looks, and only at rates at which all seeds get there.
    """
    found, seeds = {}, len({run["seed"] for run in data["runs"]})
    for kind in [kind for kind in of_kinds(data) if kind in CORE]:
        for rate, runs in by(of_kinds(data)[kind], "rate").items():
            places = [where(run, "prose", level(data), run["prose"][0]) for run in runs]
            if len(runs) == seeds and all(place is not None for place in places):
                pairs = zip(runs, places, strict=True)
                pair = interval([value_at(r, p, "own", r["own"][0]) - r["own"][0] for r, p in pairs])
                if kind not in found or pair[0] < found[kind][1][0]:
                    found[kind] = rate, pair
    return found


def table(data):
    """{kind: {"rate", "edge", "prose", "part", "own"}}, of the kinds with the usual batch.

    The best rate, and whether it lies at the edge of what was tried; the mean test loss there; its part of what full
    training gains; and `forgotten`, the mean.
    """
    found, rises = {}, forgotten(data)
    whole = gain(best(data)["full"])
    for kind, runs in best(data).items():
        if kind in CORE:
            row = {"rate": runs[0]["rate"], "edge": at_edge(of_kinds(data)[kind])}
            row |= {"prose": interval([final(run) for run in runs])[0], "part": gain(runs) / whole}
            found[kind] = {**row, "own": rises[kind][1][0] if kind in rises else None}
    return found


def verdicts(data):
    """Claims of the other sections, with the rules that they have there, and one more, as far as kinds are settled."""
    regret = WITHOUT_REGRET
    data = settled(data)
    there, found = set(of_kinds(data)), []
    if there >= CORE.keys():
        found += [_tenfold(data, regret), _of_ranks(data, regret), _of_places(data, regret)]
    if there >= CORE.keys() | BATCHES.keys():
        found.append(_of_batches(data, regret))
    if there >= CORE.keys():
        found += [_of_small_ones(data), _of_forgetting(data)]
    return found + (_of_relatives(data) if there >= {"rank 15", *RELATIVES} else [])


def _verdict(claim, who, numbers, rule, word, seen):
    return Verdict(f"SmolLM2: {claim}", who, numbers, len(SEEDS), rule, word, seen, ("second",))


def _tenfold(data, who):
    numbers = ratios(data)
    means = [pair[0] for pair in numbers.values()]
    return _verdict(
        "LoRA's best rate is about ten times full training's",
        who,
        numbers,
        "each ratio is between 5 and 20, by its mean",
        decided(all(5 <= mean <= 20 for mean in means), all(not 5 <= mean <= 20 for mean in means)),
        "It lies above ten in each, at alpha = 32, by the mean; three of the intervals reach beyond 5 or 20.",
    )


def _of_ranks(data, who):
    found = spread(data)
    return _verdict(
        "the best rate hardly depends on the rank",
        who,
        {"highest of the best rates of ranks 4, 15, 64 over the lowest": found},
        "that ratio's interval lies below 2",
        decided(below(found, 2), above(found, 2)),
        "The rates were tried a factor of 2 apart, and read between them.",
    )


def _of_places(data, who):
    attention, mlp = lag(data, "attention, rank 40", "MLP, rank 24"), lag(data, "MLP, rank 24", "rank 15")
    return _verdict(
        "attention alone loses at equal size; the MLP alone does nearly as well as all layers",
        who,
        {"attention behind MLP, part of the gain": attention, "MLP behind all layers, part of the gain": mlp},
        "attention's lag lies above 0, and the MLP's below 0.05 of the gain; it fails if either is clearly otherwise",
        decided(above(attention) and below(mlp, 0.05), below(attention) or above(mlp, 0.05)),
        "At equal size, each at its own best rate.",
    )


def _of_batches(data, who):
    found = gaps(data)
    slope = interval([large - small for large, small in zip(found[32], found[4], strict=True)])
    return _verdict(
        "larger batches cost LoRA more than full training",
        who,
        {f"rank 15 minus full, batch of {rows}": interval(values) for rows, values in found.items()}
        | {"gap at 32 minus gap at 4": slope},
        "the gap grows from the smallest batch to the largest",
        decided(above(slope), below(slope)),
        "At 4 and 8 rows it is about the same. At 32 rows a run has 12 steps, and the gap is nearly twice as wide.",
    )


def _of_small_ones(data):
    parts = {kind: lag(data, kind, "full") for kind in ("rank 4", "rank 15", "rank 64")}
    parts = {kind: (1 - mean, half) for kind, (mean, half) in parts.items()}
    return _verdict(
        "with under 1% of the parameters LoRA learns nearly what full training learns",
        "tutorials",
        {f"{kind}, part of full training's gain": pair for kind, pair in parts.items()},
        "rank 4, 0.9% of the parameters, has at least 0.95 of the gain, the whole interval",
        decided(above(parts["rank 4"], 0.95), below(parts["rank 4"], 0.95)),
        "Rank 64 has 14.5% of the parameters, rank 15 3.4%.",
    )


def _of_forgetting(data):
    found = {kind: pair for kind, (_, pair) in forgotten(data).items() if kind == "full" or kind.startswith("rank")}
    full, plain = found.pop("full"), found
    return _verdict(
        "LoRA forgets less than full training, for what it learns",
        LEARNS_LESS,
        {"full": full, **plain},
        "where half of full training's gain is learnt, each rank that gets there forgets less, the intervals apart",
        decided(all(higher(full, p) for p in plain.values()), all(higher(p, full) for p in plain.values())),
        "What is forgotten: how far the loss on the base's own answers rises. Each row is at half its best rate, the "
        "lowest that all seeds tried. All ranks forget more.",
    )


def _of_relatives(data):
    found = best(data)
    behind = {name: interval(differences(found[name], found["rank 15"])) for name in RELATIVES if name in found}
    plain = interval([final(run) for run in found["rank 15"]])[0]
    percent = {name: tuple(100 * x / plain for x in pair) for name, pair in behind.items()}
    return [
        _verdict(
            "once each has its own rate, the relatives are within 2% of LoRA",
            RATE_MATTERS,
            {f"{name}, % of LoRA's loss": pair for name, pair in percent.items()},
            "each differs by less than 2% of the test loss, the whole interval; it fails if one differs by more",
            within_two_percent(percent),
            "All three are ahead of it, by 1 to 2%, and the intervals of two reach beyond 2%.",
        ),
        _verdict(
            "some relative of the same size is better than LoRA",
            "the papers of most of them",
            {f"{name} minus LoRA": pair for name, pair in behind.items()},
            "one has a lower test loss, its whole interval below 0",
            decided(any(map(below, behind.values())), all(map(above, behind.values()))),
            "LoRA+ and HiRA are, at rank 15; DoRA may be.",
        ),
    ]
