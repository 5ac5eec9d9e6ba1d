"""Random base models and random adapters' settings, most of them valid, some not."""

from hypothesis import strategies as st
from lora_helpers import tiny_llama, tiny_model

FAMILIES = {
    "gpt2": lambda: tiny_model(),
    "gpt2-untied": lambda: tiny_model(tie_word_embeddings=False),
    "llama": lambda: tiny_llama(),
    "llama-tied": lambda: tiny_llama(tie_word_embeddings=True, attention_bias=True),
}

TARGETS = {
    "gpt2": [
        *("c_attn", "attn.c_proj", "mlp.c_proj", "c_proj", "c_fc", "wte", "wpe", "lm_head"),
        *("transformer.h.1.mlp.c_fc", "h.0.attn.c_attn"),
    ],
    "llama": [
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "mlp.up_proj", "down_proj", "embed_tokens", "lm_head"),
        *("model.layers.1.self_attn.q_proj", "layers.0.mlp.down_proj"),
    ],
}
REGEXES = {
    "gpt2": [r".*\.c_(attn|fc)", r"transformer\.h\.1\..*c_proj", r".*nothing"],
    "llama": [r".*\.[qv]_proj", r"model\.layers\.1\.mlp\..*_proj", r".*nothing"],
}
WHOLE = {
    "gpt2": ["lm_head", "wte", "ln_f", "h.1.mlp", "mlp", "h.0.attn"],
    "llama": ["lm_head", "embed_tokens", "model.norm", "mlp"],
}
PATTERNS = {"gpt2": ["c_attn", r"h\.1\..*", "lm_head"], "llama": ["q_proj", r"layers\.1\..*", "embed_tokens"]}
BLOCKS = {"gpt2": "h", "llama": "layers"}


def kind_of(family):
    """ "gpt2" or "llama"."""
    return family.partition("-")[0]


def _features(kind):
    """{field of LoraConfig: its unusual values}; a config has a few of these."""
    some = st.lists(st.sampled_from(TARGETS[kind]), min_size=1, max_size=2, unique=True)
    return {
        "use_rslora": st.just(True),
        "use_dora": st.just(True),
        "lora_bias": st.just(True),
        "bias": st.sampled_from(["all", "lora_only"]),
        "modules_to_save": st.lists(st.sampled_from(WHOLE[kind]), min_size=1, max_size=2, unique=True),
        "rank_pattern": st.dictionaries(st.sampled_from(PATTERNS[kind]), st.integers(1, 5), min_size=1, max_size=2),
        "alpha_pattern": st.dictionaries(st.sampled_from(PATTERNS[kind]), st.integers(1, 9), min_size=1, max_size=2),
        "init_lora_weights": st.sampled_from([False, "gaussian", "orthogonal", "pissa", "pissa_niter_2", "olora"]),
        "exclude_modules": st.one_of(some, st.sampled_from(REGEXES[kind])),
        "layers_to_transform": st.sampled_from([0, 1, [0], [0, 1], [7]]),
        "layers_pattern": st.just(BLOCKS[kind]),
        "inference_mode": st.just(True),
    }


@st.composite
def lora_fields(draw, kind):
    """The fields of a LoraConfig for a model of this kind."""
    targets = st.one_of(
        st.lists(st.sampled_from(TARGETS[kind]), min_size=1, max_size=3, unique=True),
        st.lists(st.sampled_from(TARGETS[kind][:5]), min_size=1, max_size=2, unique=True),
        st.sampled_from([*REGEXES[kind], "all-linear", None]),
    )
    fields = {"target_modules": draw(targets), "r": draw(st.integers(1, 4)), "lora_alpha": draw(st.integers(1, 8))}
    features = _features(kind)
    for name in draw(st.lists(st.sampled_from(sorted(features)), max_size=2, unique=True)):
        fields[name] = draw(features[name])
    return fields
