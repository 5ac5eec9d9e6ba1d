"""Arrow: a router that takes, for each token, the adapters whose updates look most in its direction."""

import numpy as np
import pytest
from lora_helpers import (
    hugging_face_twin,
    logits_of,
    peft_model,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import ArrowConfig, LoraConfig, PeftModel, Tensor, create_arrow_model, gradcheck, nn
from lora_np.lora import LoraLinear
from lora_np.lora.variants.arrow import direction

QV = ["q_proj", "v_proj"]


def saved(folder, seed, targets=QV, r=3, make=tiny_llama, **options):
    """The folder of an adapter in which one singular value is much larger than the others."""
    model = peft_model(targets, make(), r=r, **options)
    rng = np.random.default_rng(seed)
    for _, layer in model.base_model.layers():
        A, B = layer.matrices("default")
        for p in (A, B):
            p.data = rng.standard_normal(p.shape).astype(np.float32) * 0.2
        A.data[0] *= 5
        B.data[:, 0] *= 5
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    return [saved(tmp_path / str(seed), seed) for seed in range(4)]


def by_hand(layer, x, config, general=()):
    """The result of one layer, written out."""
    W = layer.base_layer.weight.data.astype(np.float64)
    pairs = {n: [p.data.astype(np.float64) for p in layer.matrices(n)] for n in layer.adapters if n != "arrow_router"}
    means = [np.mean([pairs[n][i] for n in general], axis=0) if general else 0 for i in (0, 1)]
    tasks = [[p - mean for p, mean in zip(pair, means, strict=True)] for n, pair in pairs.items() if n not in general]
    sims = np.stack([abs(x @ np.linalg.svd(B @ A)[2][0]) for A, B in tasks], -1)
    chosen = sims >= np.sort(sims, -1)[..., -config.top_k, None]
    weights = np.where(chosen, np.exp(sims / config.router_temperature), 0)
    weights /= weights.sum(-1, keepdims=True)
    scaling = layer.scaling["task_0"]
    parts = [
        w[..., None] * (x @ (B @ A).T) * scaling for w, (A, B) in zip(np.moveaxis(weights, -1, 0), tasks, strict=True)
    ]
    return x @ W.T + sum(parts)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 1}, {"top_k": 2, "router_temperature": 0.3}, {"use_gks": True, "top_k": 2}]
)
def test_each_token_has_its_own_weights(folders, options):
    config = ArrowConfig(**options)
    general = folders[3:] if config.use_gks else None
    model = create_arrow_model(tiny_llama(), folders[:3], config, general)
    before = snapshot(model)
    x = np.random.default_rng(5).standard_normal((2, 4, 16)).astype(np.float32)
    for _, layer in model.base_model.layers():
        expected = by_hand(layer, x.astype(np.float64), config, ["gks_0"] if general else ())
        assert relative(layer(Tensor(x)).data, expected) < 1e-5
    assert snapshot(model) == before  # also with use_gks, which changes the adapters in PEFT
    assert model.active_adapter == "arrow_router"
    with model.disable_adapter():
        assert np.array_equal(logits_of(model), logits_of(tiny_llama()))


def test_the_direction_is_the_first_right_singular_vector():
    rng = np.random.default_rng(0)
    for shape in ((3, 7, 5), (7, 4, 3), (1, 6, 6)):
        A, B = rng.standard_normal(shape[:2]), rng.standard_normal((shape[2], shape[0]))
        assert abs(abs(direction(A, B) @ np.linalg.svd(B @ A)[2][0]) - 1) < 1e-9
    assert not direction(A, 0 * B).any()


def test_gradients_in_float64():
    base = nn.Linear(6, 5).to(dtype=np.float64).requires_grad_(False)
    layer = LoraLinear(base)
    for i in range(3):
        layer.add_adapter(f"task_{i}", LoraConfig(r=2, init_lora_weights=False))
    layer.add_adapter("arrow_router", LoraConfig(r=2, arrow_config=ArrowConfig(top_k=2)))
    layer.active_adapters = ["arrow_router"]
    x = Tensor(np.random.default_rng(1).standard_normal((3, 6)), requires_grad=True)
    gradcheck(lambda x: layer(x), [x])
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.matrices("task_0"))


def test_adapters_that_come_and_go(folders):
    model = create_arrow_model(tiny_llama(), folders[:3], ArrowConfig(top_k=2))
    three = logits_of(model)
    model.load_adapter(folders[3], "more")
    assert relative(logits_of(model), three) > 1e-4
    model.delete_adapter("more")
    assert np.array_equal(logits_of(model), three)
    model.rename_adapter("task_1", "another")
    assert np.array_equal(logits_of(model), three)
    model.set_adapter("task_0")
    alone = PeftModel.from_pretrained(tiny_llama(), folders[0])
    assert relative(logits_of(model), logits_of(alone)) < 1e-6
    ids = some_ids(model.config)
    rows = model(ids, adapter_names=["arrow_router", "task_0"]).logits.numpy()
    assert relative(rows[0], three[0]) < 1e-6
    assert relative(rows[1], logits_of(alone)[1]) < 1e-6


def test_general_adapters_keep_their_part_under_a_new_name(folders, tmp_path):
    model = create_arrow_model(tiny_llama(), folders[:3], ArrowConfig(use_gks=True, top_k=2), folders[3:])
    expected = logits_of(model)
    model.rename_adapter("gks_0", "general")
    assert np.array_equal(logits_of(model), expected)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "general", "general")
    for name in ("task_0", "task_1", "task_2", "arrow_router"):
        loaded.load_adapter(tmp_path / name, name)
    loaded.set_adapter("arrow_router")
    assert np.array_equal(logits_of(loaded), expected)
    loaded.delete_adapter("general")
    assert "general adapters; general is not there" in refusal(ValueError, lambda: logits_of(loaded))


def test_a_router_in_float16(folders):
    model = create_arrow_model(tiny_llama(), folders[:3], ArrowConfig(top_k=3))
    expected = logits_of(model)
    model.to(dtype=np.float16)
    assert logits_of(model).dtype == np.float16
    assert relative(logits_of(model), expected) < 1e-2


def test_it_comes_back_from_a_file_bit_for_bit(folders, tmp_path):
    model = create_arrow_model(tiny_llama(), folders[:2], ArrowConfig(top_k=1, router_temperature=2))
    model.save_pretrained(tmp_path / "all")
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "all" / "task_0", "task_0")
    for name in ("task_1", "arrow_router"):
        loaded.load_adapter(tmp_path / "all" / name, name)
    loaded.set_adapter("arrow_router")
    assert loaded.peft_config["arrow_router"].arrow_config == model.peft_config["arrow_router"].arrow_config
    assert np.array_equal(logits_of(loaded), logits_of(model))


def test_it_cannot_be_merged(folders):
    model = create_arrow_model(tiny_llama(), folders[:3], ArrowConfig())
    before = snapshot(model)
    assert "Arrow chooses adapters for each token" in refusal(ValueError, model.merge_adapter)
    assert snapshot(model) == before
    model.merge_adapter(["task_0"])


def test_on_gpt2_too(tmp_path):
    paths = [saved(tmp_path / str(i), i, ["c_attn"], make=tiny_model) for i in range(2)]
    with pytest.warns(UserWarning, match="fan_in_fan_out set to True"):
        model = create_arrow_model(tiny_model(), paths, ArrowConfig(top_k=1))
    one = PeftModel.from_pretrained(tiny_model(), paths[0])
    with pytest.warns(UserWarning, match="fan_in_fan_out set to True"):
        alone = create_arrow_model(tiny_model(), paths[:1], ArrowConfig(top_k=1))
    assert relative(logits_of(alone), logits_of(one)) < 1e-6
    assert relative(logits_of(model), logits_of(one)) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be an integer of at least 1"),
        ({"router_temperature": 0}, "router_temperature must be above 0"),
        ({"use_gks": 1}, "use_gks must be True or False"),
        ({"rng_seed": "a"}, "rng_seed must be an integer or None"),
    ],
)
def test_wrong_settings(options, message):
    assert message in refusal(ValueError, lambda: ArrowConfig(**options))


def test_what_is_refused_leaves_the_model_as_it_was(folders, tmp_path):
    model = tiny_llama()
    before = snapshot(model)
    other = saved(tmp_path / "other", 9, ["q_proj"])
    wide = saved(tmp_path / "wide", 9, r=4)
    dora = saved(tmp_path / "dora", 9, use_dora=True)
    for paths, config, message in (
        ([], ArrowConfig(), "at least one adapter"),
        (folders[:1], ArrowConfig(use_gks=True), "needs general_adapter_paths"),
        ([folders[0], other], ArrowConfig(), "task_1 has rank [3] on q_proj, and task_0 rank [3] on q_proj, v_proj"),
        ([folders[0], wide], ArrowConfig(), "task_1 has rank [4]"),
        ([folders[0], dora], ArrowConfig(), "task_1 is not plain LoRA"),
    ):
        assert message in refusal(ValueError, lambda p=paths, c=config: create_arrow_model(model, p, c))
        assert snapshot(model) == before
    routed = create_arrow_model(model, folders[:2], ArrowConfig())
    assert "top_k=3 is more than the 2 adapters" in refusal(ValueError, lambda: logits_of(routed))


@pytest.mark.parity
@pytest.mark.parametrize("use_gks", [False, True])
def test_against_peft(folders, use_gks):
    import peft
    import torch

    torch.manual_seed(0)
    options = {"top_k": 2, "router_temperature": 0.7, "use_gks": use_gks, "rng_seed": 3}
    general = [folders[3]] if use_gks else None
    ours = create_arrow_model(tiny_llama(), folders[:3], ArrowConfig(**options), general)
    paths = [str(folder) for folder in folders]
    theirs = peft.create_arrow_model(
        hugging_face_twin(tiny_llama()), paths[:3], peft.ArrowConfig(**options), paths[3:] if use_gks else None
    ).eval()
    ids = torch.tensor(some_ids(ours.config))
    assert relative(logits_of(ours), theirs(ids).logits.detach()) < 2e-5
    names = {name for name, _ in ours.named_parameters()}
    assert names == {name for name, _ in theirs.named_parameters()}
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
