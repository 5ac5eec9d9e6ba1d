"""LoRA beside a base in 4 bits: what rounding costs in training, and again when the update is merged.

QLoRA (Dettmers et al., 2023, arXiv 2305.14314), LoftQ (Li et al., 2023, arXiv 2310.08659), QA-LoRA (Xu et al., 2024,
arXiv 2309.14717), and LoRA beside the base as it is. `python -m lora_course.verdicts four_bits` makes the runs.
"""

import warnings

from lora_np import LoraConfig
from lora_np.nn import memory_footprint, quantize_model

from .statistics import by, chosen, differences, final, interval
from .verdict import Verdict, above, below, decided

FLOAT = "float base"
GROUP = 16  # weights with a scale and a zero point of their own, for QA-LoRA
SETTINGS = {
    FLOAT: {},
    "QLoRA": {},
    "LoftQ": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 4}},
    "QA-LoRA": {"use_qalora": True, "qalora_group_size": GROUP},
}
SMALL_PART, NOTHING = 0.05, 1e-4  # of the gain; nats per byte
SEEN = (
    "Rounding a model of this size costs an eighth of the gain.",
    "No difference is seen.",
    "To the last digit. The others lose a fifth of their gain or more when they are rounded again.",
    "As trained it is behind, with fewer trained numbers; QLoRA loses more than that in merging. QA-LoRA's base is "
    "half as large again.",
)


def rounded(base, method):
    """The base as a method has it; LoftQ rounds it when the adapter is made."""
    options = {"QLoRA": {}, "QA-LoRA": {"group_size": GROUP}}
    return quantize_model(base, **options[method]) if method in options else base


def config(method, fan_in_fan_out=True):
    """Rank 8, alpha 16, all linear layers."""
    common = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "fan_in_fan_out": fan_in_fan_out}
    return LoraConfig(**common, **SETTINGS[method])


def after(model, losses, method):
    """{"merged": losses once the update is merged, in 4 bits, "base_bytes": of the base in training}.

    QLoRA and QA-LoRA merge into the rounded layers; the two others into floats, which are rounded then as QLoRA's base.
    """
    adapter = sum(4 * p.size for p in model.parameters() if p.requires_grad)
    size = memory_footprint(model) - adapter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that merging into 4 bits rounds
        merged = model.merge_and_unload()
    if method in (FLOAT, "LoftQ"):
        merged = quantize_model(merged)
    return {"merged": losses(merged), "base_bytes": size}


def trained(data):
    """{method: its runs at its best rate}."""
    return {method: chosen(runs) for method, runs in by(data["runs"], "method").items()}


def merging(runs):
    """How much merging into 4 bits adds to the test loss: an interval over seeds."""
    return interval([run["merged"]["prose"] - final(run) for run in runs])


def verdicts(data, where="", file="four_bits", seen=SEEN):
    """Four claims. where: what they begin with; file: the data set; seen: a sentence for each."""
    best = trained(data)
    seeds = len(best[FLOAT])
    gain = data["base"]["prose"] - interval([final(run) for run in best[FLOAT]])[0]
    cost = interval([x / gain for x in differences(best["QLoRA"], best[FLOAT])])
    loftq = interval(differences(best["LoftQ"], best["QLoRA"]))
    added = {method: merging(runs) for method, runs in best.items()}
    ends = {m: {r["seed"]: r["merged"]["prose"] for r in best[m]} for m in ("QA-LoRA", "QLoRA")}
    merged = interval([ends["QA-LoRA"][seed] - ends["QLoRA"][seed] for seed in ends["QLoRA"]])
    return [
        Verdict(
            f"{where}beside a base in 4 bits LoRA learns as well as beside one in floats",
            "[Dettmers et al., 2023](https://arxiv.org/abs/2305.14314)",
            {"QLoRA behind LoRA, part of the gain": cost},
            seeds,
            f"it lacks less than {SMALL_PART} of what LoRA gained",
            decided(below(cost, SMALL_PART), above(cost, SMALL_PART)),
            seen[0],
            (file,),
        ),
        Verdict(
            f"{where}LoftQ's start makes it better than QLoRA",
            "[Li et al., 2023](https://arxiv.org/abs/2310.08659)",
            {"LoftQ minus QLoRA": loftq},
            seeds,
            "the difference in test loss lies below 0",
            decided(below(loftq), above(loftq)),
            seen[1],
            (file,),
        ),
        Verdict(
            f"{where}QA-LoRA merges into 4 bits without a loss, QLoRA does not",
            "[Xu et al., 2024](https://arxiv.org/abs/2309.14717)",
            {f"merging adds, {method}": pair for method, pair in added.items()},
            seeds,
            f"merging adds less than {NOTHING} to QA-LoRA's test loss, and more than that to QLoRA's",
            decided(
                abs(added["QA-LoRA"][0]) < NOTHING and above(added["QLoRA"], NOTHING),
                abs(added["QA-LoRA"][0]) >= NOTHING,
            ),
            seen[2],
            (file,),
        ),
        Verdict(
            f"{where}merged into 4 bits, QA-LoRA is better than QLoRA",
            "[Xu et al., 2024](https://arxiv.org/abs/2309.14717)",
            {"QA-LoRA minus QLoRA, both merged": merged},
            seeds,
            "the difference in test loss lies below 0",
            decided(below(merged), above(merged)),
            seen[3],
            (file,),
        ),
    ]
