"""Starts of A and B that need more than the weights' shapes: passes over data, or a base that is about to be rounded.

    config.py    their settings, `EvaConfig` and its like, as fields of `LoraConfig`
    gather.py    one function that runs a model and hears what its layers are given, which the next three use
    eva.py       A from the directions in which a layer's inputs vary most, and ranks to match
    corda.py     A and B from W times the covariance of the inputs
    lora_ga.py   A and B from the gradient of the first batches
    loftq.py     A and B from what rounding to 4 bits does to W

Those that read the weights alone (PiSSA, OLoRA, MiCA) are in `init.py`. These modules are read when they are asked for.
"""

STARTS: dict[str, tuple[str, ...]] = {  # {module: its public names}
    "config": ("CordaConfig", "EvaConfig", "LoftQConfig", "LoraGAConfig"),
    "eva": ("get_eva_state_dict", "initialize_lora_eva_weights"),
    "corda": ("preprocess_corda",),
    "lora_ga": ("preprocess_loraga",),
    "loftq": ("replace_lora_weights_loftq",),
}
