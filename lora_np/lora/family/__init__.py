"""LoRA's relatives: kinds of adapters with a `peft_type` of their own, one file each, read when one is asked for.

A kind says in one class what its tensors are, how they are initialised, what it adds to a layer's result, its ΔW, and
what it refuses: see `adapter.Adapter`. One row here makes it known. Of several kinds in a row, the first that says it
is `wanted` is taken.
"""

FAMILY = {  # {peft_type: (module in this folder, class of the configurations, classes of the kinds)}
    "ADALORA": ("adalora", "AdaLoraConfig", "AdaLoraAdapter"),
    "DELORA": ("delora", "DeloraConfig", "DeloraAdapter"),
    "FOURIERFT": ("fourierft", "FourierFTConfig", "FourierFTAdapter"),
    "HIRA": ("hira", "HiraConfig", "HiraAdapter"),
    "HRA": ("hra", "HRAConfig", "HRAAdapter"),
    "IA3": ("ia3", "IA3Config", "IA3Adapter"),
    "LOHA": ("loha", "LoHaConfig", "LoHaAdapter"),
    "LOKR": ("lokr", "LoKrConfig", "LoKrAdapter"),
    "MISS": ("miss", "MissConfig", "MissAdapter"),
    "OFT": ("oft", "OFTConfig", "OFTEmbedding", "OFTAdapter"),
    "RANDLORA": ("randlora", "RandLoraConfig", "RandLoraAdapter"),
    "SHIRA": ("shira", "ShiraConfig", "ShiraAdapter"),
    "TINYLORA": ("tinylora", "TinyLoraConfig", "TinyLoraAdapter"),
    "VBLORA": ("vblora", "VBLoRAConfig", "VBLoRAAdapter"),
    "VERA": ("vera", "VeraConfig", "VeraAdapter"),
}
