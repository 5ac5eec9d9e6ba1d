"""LoRA's relatives, each with its own search for a rate: which runs there are follows from those before.

For each method and size: four rates a factor of 4 apart, wider where the best is at an edge; then the best one's
neighbours at a factor of 2, on three seeds. The rate that is best on validation text is the method's.
"""

from lora_np import LoraConfig
from lora_np.lora.family.delora import DeloraConfig
from lora_np.lora.family.hira import HiraConfig
from lora_np.lora.family.loha import LoHaConfig
from lora_np.lora.family.lokr import LoKrConfig
from lora_np.lora.family.miss import MissConfig
from lora_np.lora.family.oft import OFTConfig
from lora_np.lora.family.shira import ShiraConfig
from lora_np.lora.family.vera import VeraConfig

ALL = {"target_modules": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]}
SIZES = (8,)  # LoRA's rank; the others are made about as large. 1 and 32 are possible, too
COARSE = (1e-3, 4e-3, 1.6e-2, 6.4e-2)
MOST_COARSE = 7
SEEDS = (0, 1, 2)


def _lora(r, **more):
    return LoraConfig(r=r, lora_alpha=2 * r, fan_in_fan_out=True, **ALL, **more)


CONFIGS = {  # method: its config at the size of LoRA of rank r
    "LoRA": _lora,
    "LoRA+": _lora,
    "PiSSA": lambda r: _lora(r, init_lora_weights="pissa"),
    "DoRA": lambda r: _lora(r, use_dora=True),
    "LoHa": lambda r: LoHaConfig(r=max(1, r // 2), alpha=max(1, r // 2), **ALL),
    "LoKr": lambda r: LoKrConfig(r=128, alpha=128, decompose_factor={1: -1, 8: 4, 32: 2}[r], **ALL),
    "MiSS": lambda r: MissConfig(r={1: 1, 8: 16, 32: 64}[r], **ALL),
    "HiRA": lambda r: HiraConfig(r=r, fan_in_fan_out=True, **ALL),
    "DeLoRA": lambda r: DeloraConfig(r=r, **ALL),
    "SHiRA": lambda r: ShiraConfig(r=r, random_seed=0, fan_in_fan_out=True, **ALL),
    "OFT": lambda r: OFTConfig(oft_block_size={1: 8, 8: 32, 32: 128}[r], fan_in_fan_out=True, **ALL),
    "VeRA": lambda r: VeraConfig(r={1: 64, 8: 256, 32: 1024}[r], fan_in_fan_out=True, **ALL),
}
ARGUMENTS = {"LoRA+": {"loraplus_lr_ratio": 16.0}}  # of the training


def plan(done=()):
    """The points that there are to make, those that are done included; more follow when these are done."""
    found = []
    for size in SIZES:
        for method in CONFIGS:
            own = [run for run in done if run["method"] == method and run["size"] == size]
            found += [{"method": method, "size": size, "rate": rate, "seed": seed} for rate, seed in _wanted(own)]
    return found


def _wanted(runs):
    """(rate, seed) of one method and size."""
    losses = {(run["rate"], run["seed"]): last_validation(run) for run in runs}
    rates = sorted({*COARSE, *(rate for rate, _ in losses if _is_coarse(rate))})
    coarse = [(rate, 0) for rate in rates]
    if not all(one in losses for one in coarse):
        return coarse
    best = min(coarse, key=losses.get)[0]
    if best in (rates[0], rates[-1]) and len(rates) < MOST_COARSE:
        return [*coarse, (best / 4 if best == rates[0] else best * 4, 0)]
    around = [(factor * best, seed) for factor in (0.5, 1, 2) for seed in SEEDS]
    return list(dict.fromkeys(coarse + around))


def _is_coarse(rate):
    return any(rate == COARSE[0] * 4.0**k for k in range(-MOST_COARSE, MOST_COARSE))


def chosen_rate(runs):
    """The rate with the lowest mean validation loss among those with three seeds, of one method and size."""
    by_rate = {}
    for run in runs:
        if run["seed"] in SEEDS:
            by_rate.setdefault(run["rate"], []).append(last_validation(run))
    full = {rate: sum(found) for rate, found in by_rate.items() if len(found) == len(SEEDS)}
    return min(full, key=full.get)


def last_validation(run):
    """Of a run's last mark; infinite where training diverged."""
    return float("inf") if run["diverged"] else run["validation"][-1]
