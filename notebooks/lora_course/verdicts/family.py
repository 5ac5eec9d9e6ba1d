"""LoRA's relatives, each with its own search for a rate: which runs there are follows from those before.

For each method and size: four rates a factor of 4 apart, wider where the best is at an edge; then the best one's
neighbours at a factor of 2, on three seeds. The rate that is best on validation text is the method's, and it has two
more seeds. All else has one setting for each method and size: CONFIGS. All are tried at the size of LoRA of rank 8, the
first twelve at those of ranks 1 and 32, too.

DeLoRA's lambda is 15, PEFT's default, and at rank 1 an eighth of it: the first step already takes the update to about
its bound. With 15 at rank 1, and with 60 at rank 32, every rate ended far above the base's loss.
"""

import contextlib

from lora_np import LoraConfig
from lora_np.lora.family.adalora import AdaLoraConfig
from lora_np.lora.family.delora import DeloraConfig
from lora_np.lora.family.fourierft import FourierFTConfig
from lora_np.lora.family.hira import HiraConfig
from lora_np.lora.family.hra import HRAConfig
from lora_np.lora.family.ia3 import IA3Config
from lora_np.lora.family.loha import LoHaConfig
from lora_np.lora.family.lokr import LoKrConfig
from lora_np.lora.family.miss import MissConfig
from lora_np.lora.family.oft import OFTConfig
from lora_np.lora.family.randlora import RandLoraConfig
from lora_np.lora.family.shira import ShiraConfig
from lora_np.lora.family.tinylora import TinyLoraConfig
from lora_np.lora.family.vblora import VBLoRAConfig
from lora_np.lora.family.vera import VeraConfig

ALL = {"target_modules": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]}
OF_ADALORA = {"task_type": "CAUSAL_LM", "fan_in_fan_out": True, **ALL}  # without a task it would lack its loss's term
SIZES = (8, 1, 32)  # ranks of LoRA; the others are made about as large
COARSE = (1e-3, 4e-3, 1.6e-2, 6.4e-2)
MOST_COARSE = 7
SEEDS, MORE_SEEDS = (0, 1, 2), (3, 4)  # that choose a rate, and that only run at it


def _lora(r, **more):
    return LoraConfig(r=r, lora_alpha=2 * r, fan_in_fan_out=True, **ALL, **more)


CONFIGS = {  # method: its config at about the size of LoRA of rank r; from AdaLoRA on for rank 8 alone
    "LoRA": _lora,
    "LoRA+": _lora,
    "PiSSA": lambda r: _lora(r, init_lora_weights="pissa"),
    "DoRA": lambda r: _lora(r, use_dora=True),
    "LoHa": lambda r: LoHaConfig(r=max(1, r // 2), alpha=max(1, r // 2), **ALL),
    "LoKr": lambda r: LoKrConfig(r=128, alpha=128, decompose_factor={1: -1, 8: 4, 32: 2}[r], **ALL),
    "MiSS": lambda r: MissConfig(r={1: 1, 8: 16, 32: 64}[r], **ALL),
    "HiRA": lambda r: HiraConfig(r=r, fan_in_fan_out=True, **ALL),
    "DeLoRA": lambda r: DeloraConfig(r=r, delora_lambda=15 * min(r, 8) / 8, **ALL),
    "SHiRA": lambda r: ShiraConfig(r=r, random_seed=0, fan_in_fan_out=True, **ALL),
    "OFT": lambda r: OFTConfig(oft_block_size={1: 8, 8: 32, 32: 128}[r], fan_in_fan_out=True, **ALL),
    "VeRA": lambda r: VeraConfig(r={1: 64, 8: 256, 32: 1024}[r], fan_in_fan_out=True, **ALL),
    "AdaLoRA": lambda r: AdaLoraConfig(
        init_r=12, target_r=8, lora_alpha=24, tinit=16, tfinal=48, deltaT=4, total_step=160, **OF_ADALORA
    ),
    "RandLoRA": lambda r: RandLoraConfig(r=4, randlora_alpha=80, fan_in_fan_out=True, **ALL),
    "HRA": lambda r: HRAConfig(r=18, **ALL),
    "FourierFT": lambda r: FourierFTConfig(n_frequency=4096, init_weights=True, fan_in_fan_out=True, **ALL),
    "VB-LoRA": lambda r: VBLoRAConfig(r=4, num_vectors=160, vector_length=128, fan_in_fan_out=True, **ALL),
    "TinyLoRA": lambda r: TinyLoraConfig(r=32, u=1024, fan_in_fan_out=True, **ALL),
    "IA3": lambda r: IA3Config(feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True, **ALL),
}
IN_ALL_SIZES = tuple(CONFIGS)[:12]
ARGUMENTS = {"LoRA+": {"loraplus_lr_ratio": 16.0}}  # of the training


def plan(done=()):
    """The points that there are to make, those that are done included; more follow when these are done."""
    found = []
    for size in SIZES:
        for method in CONFIGS if size == SIZES[0] else IN_ALL_SIZES:
            own = [run for run in done if run["method"] == method and run["size"] == size]
            found += [{"method": method, "size": size, "rate": rate, "seed": seed} for rate, seed in _wanted(own)]
    return found


def _wanted(runs):
    """The (rate, seed) pairs that one method and size wants, from its runs so far."""
    losses = {(run["rate"], run["seed"]): last_validation(run) for run in runs}
    rates = sorted({*COARSE, *(rate for rate, _ in losses if _is_coarse(rate))})
    coarse = [(rate, 0) for rate in rates]
    if not all(one in losses for one in coarse):
        return coarse
    best = min(coarse, key=losses.get)[0]
    if best in (rates[0], rates[-1]) and len(rates) < MOST_COARSE:
        return [*coarse, (best / 4 if best == rates[0] else best * 4, 0)]
    around = [(factor * best, seed) for factor in (0.5, 1, 2) for seed in SEEDS]
    found = list(dict.fromkeys(coarse + around))
    if all(one in losses for one in found):
        found += [(chosen_rate(runs), seed) for seed in MORE_SEEDS]
    return found


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


@contextlib.contextmanager
def without_terms(model):
    """A block in which the loss of AdaLoRA is that of the text, without the term for orthogonality."""
    found = [config for config in getattr(model, "peft_config", {}).values() if hasattr(config, "orth_reg_weight")]
    weights = [config.orth_reg_weight for config in found]
    try:
        for config in found:
            config.orth_reg_weight = 0.0
        yield
    finally:
        for config, weight in zip(found, weights, strict=True):
            config.orth_reg_weight = weight


def last_validation(run):
    """Of a run's last mark; infinite where training diverged."""
    return float("inf") if run["diverged"] else run["validation"][-1]
