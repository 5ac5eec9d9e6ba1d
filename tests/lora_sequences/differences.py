"""Where this library and PEFT differ on purpose. Every row has its reason; what is in no row is a failure.

REFUSED_HERE      (regular expression for this library's message, why it is refused though PEFT does it)
REFUSED_BY_PEFT   (regular expression for PEFT's message, why it is done here though PEFT refuses it)
DONE_OTHERWISE    {what is done here: what PEFT does instead}; its model is then brought to the state of ours
OTHER_NUMBERS     (name, in which states the two compute different numbers, reason)
OTHER_COMBINATION (name, which combinations come out differently, reason)
OTHER_COMBINED_LAYERS (name, which combinations are of other layers, reason)
OTHER_UNLOADED    (name, which calls of merge_and_unload leave another model, reason)
"""

import re

REFUSED_HERE = [
    ("already merged", "PEFT adds a second adapter to the merged weight; here all that are merged are named at once"),
    ("would change a weight that", "PEFT takes a part out of the other layer's weight too"),
    ("is merged into the weights", "PEFT unmerges in silence, or saves and trains merged weights; here you are told"),
    ("does not go with modules_to_save", "PEFT has mixed batches through several copies of a module, here not"),
    ("only plain LoRA can be combined", "PEFT leaves out what is not A and B, in silence"),
    ("trains modules whole", "PEFT leaves the trained module out of the combination, in silence"),
    ("needs even ranks", "PEFT ignores the initialisation where all targets are embeddings"),
    ("needs the base weights, and an adapter's init", "PEFT takes what PiSSA left of the weight for the base model's"),
    ("needs density", "PEFT fails with a TypeError, which says less"),
    ("adapters that train biases", "trained biases are the base model's: PEFT trains other adapters upon them"),
    (
        "shares its weight with another layer",
        "PEFT changes the other layer too, or leaves the config telling an untruth",
    ),
    ("there is an adapter .* already", "PEFT's add_weighted_adapter does nothing then, in silence"),
    ("this is not .* at another time", "PEFT reads what fits, and keeps the settings, so that it is neither adapter"),
    ("trains .* whole: choose one", "PEFT drops one of the two; here it is said"),
    ("each train .* whole", "PEFT puts one of the copies in use, in silence"),
    ("was trained on another base model", "PEFT puts the file's base weight in the place of the model's, in silence"),
    ("draws random numbers", "PEFT saves it, and draws others when it loads: its model then computes something else"),
    ("is more than a pair A and B", "as_plain_lora: PEFT's conversion to plain LoRA is of other initialisations only"),
    ("must be alone on its layers", "PEFT adds adapters on what PiSSA left of the weight, which no file can say"),
]
REFUSED_BY_PEFT = [
    (
        "No matching LoRAs found|list index out of range",
        "PEFT looks for the combined layers as the first adapter's config filters them",
    ),
    (
        "`lora_bias=True` because the base layer has no bias",
        "PEFT merges the active adapters on top of those that are merged; here these are what is meant",
    ),
    ("Invalid combination_type: knots", "PEFT has no KnOTS"),
    ("should follow the same target modules type", "what is combined is named layer by layer here"),
    ("Unsupported data type for the base layer", "PEFT has PiSSA and OLoRA for weights of at most 32 bits"),
    ("Please initialize PiSSA", "PEFT has PiSSA for weights of at most 32 bits"),
    ("Length of `adapter_names`", "PEFT counts rows of positions, of which there is one for all rows of ids"),
    ("must have the same r value", "here ranks are compared where adapters meet: in a layer"),
    ("Please specify at least one adapter", "here it may be that no adapter is active, also beside modules_to_save"),
    (r"original_module\.(lora|base)_", "all-linear leaves out the head, also one that another adapter trains whole"),
    ("Mixed batching is only supported", "PEFT has no mixed batches where any adapter trains such a module whole"),
    ("when DoRA is enabled", "PEFT has mixed batches for plain LoRA only"),
    ("when the model is in training mode", "PEFT has mixed batches for inference only; here they can be trained"),
]
DONE_OTHERWISE = {
    "delete_adapter puts back what PiSSA took": "PEFT leaves the base without it",
    "the first of the others becomes active": "PEFT takes in each layer its first by the alphabet, or none",
    "an inactive adapter is frozen": "PEFT's load_adapter lets it be trained, though it takes no part",
    "set_adapter trains the biases, too": "PEFT chooses the trained biases when an adapter is added, and then for good",
    "all-linear leaves out the head": "PEFT adapts a head inside the wrapper that a deleted adapter has left",
    "entries keep their order": "PEFT sorts a pattern's entries in the file, where the first that matches counts",
    "loading leaves the mode": "PEFT's load_adapter calls eval() unless the adapter is trained",
}


def _dora_beside_others(ours, names=None):
    """Is there a layer where DoRA and another adapter take part at once? names: of those that are to be merged."""
    parts = [(layer, names or layer.merged_adapters or None) for _, layer in ours.base_model.layers()]
    active = ([layer.adapters[name] for name in layer.chosen(chosen)] for layer, chosen in parts)
    return any(len(adapters) > 1 and any(a.config.use_dora for a in adapters) for adapters in active)


def _filters(config):
    return config.exclude_modules, config.layers_to_transform, config.layers_pattern


OTHER_NUMBERS = [
    ("DoRA beside others", _dora_beside_others, "PEFT applies DoRA to the result so far, in order; here to the base"),
]
OTHER_COMBINATION = [
    (
        "rsLoRA",
        lambda kind, configs, svd_rank: configs[0].use_rslora,
        "PEFT sets lora_alpha = r, which with rsLoRA is a scaling of √r and not of 1",
    ),
    (
        "random",
        lambda kind, configs, svd_rank: "dare" in kind and len(configs) > 1,
        "each library draws its own numbers",
    ),
    (
        "svd_rank",
        lambda kind, configs, svd_rank: "svd" in kind and len(configs) == 1 and svd_rank is not None,
        "PEFT ignores svd_rank where there is one adapter; here that makes an adapter smaller",
    ),
]

OTHER_COMBINED_LAYERS = [
    (
        "filtered",
        lambda configs: any(_filters(c) != _filters(configs[0]) for c in configs),
        "PEFT combines only the layers that the first adapter's exclude_modules and layers_to_transform leave",
    ),
]
OTHER_UNLOADED = [
    (
        "named, and trained whole",
        lambda ours, names: names is not None and any(c.modules_to_save for c in ours.peft_config.values()),
        "PEFT keeps the active adapter's trained modules, whichever is named; here those of the named one",
    ),
    (
        "others merged already",
        lambda ours, names: names is None and set(ours.base_model.merged) not in (set(), set(ours.active_adapters)),
        "PEFT merges the active adapters on top of those that are merged; here these are what is meant",
    ),
]


def reason_for(table, text):
    """The reason in the first row of a table whose expression is found in `text`, or None."""
    return next((reason for expression, reason in table if re.search(expression, text)), None)


def reason_in(table, *state):
    """The reason in the first row of a table whose condition holds, or None."""
    return next((reason for _, holds, reason in table if holds(*state)), None)
