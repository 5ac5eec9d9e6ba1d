"""MonteCLoRA: A is drawn anew in each training step."""

import math

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    assert_loss_falls,
    assert_merges,
    assert_state_comes_back,
    logits_of,
    peft_model,
    peft_twin,
    perturbed,
    refusal,
    relative,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import LoraConfig, MontecloraConfig, Tensor, get_peft_model, gradcheck, manual_seed
from lora_np.lora.variants import monteclora as module
from lora_np.training.parallel import recorded

BASES = {"gpt2": (tiny_model, ["c_attn", "mlp.c_proj"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}
each_base = pytest.mark.parametrize("base", BASES)
STRONG = {"num_samples": 5, "sample_scaler": 0.3, "kl_loss_weight": 0.7, "use_entropy": True}


def config_of(base="llama", monteclora=STRONG, **options):
    options = {"r": 3, "lora_alpha": 5, "fan_in_fan_out": base == "gpt2", **options}
    given = MontecloraConfig(**monteclora)
    return LoraConfig(**{"target_modules": BASES[base][1], "monteclora_config": given, **options})


def model_of(base="llama", dtype=np.float32, **options):
    return perturbed(get_peft_model(BASES[base][0]().to(dtype=dtype), config_of(base, **options)), scale=0.3)


@each_base
def test_outside_of_training_it_is_lora(base):
    model = get_peft_model(BASES[base][0](), config_of(base)).train()
    assert np.array_equal(logits_of(model), logits_of(BASES[base][0]()))  # B = 0, whatever A is
    moved, plain = model_of(base), peft_model(BASES[base][1], BASES[base][0](), r=3, lora_alpha=5)
    plain.load_state_dict({n: p.data for n, p in moved.named_parameters() if "sampler" not in n})
    assert relative(logits_of(moved.eval()), logits_of(plain)) < 1e-6
    more = moved.get_nb_trainable_parameters()[0] - plain.get_nb_trainable_parameters()[0]
    assert more == len(moved.base_model.adapted) * (3 + 5)


def test_each_training_step_draws_another():
    model, ids = model_of(monteclora={"sample_scaler": 0.03}).train(), some_ids(tiny_llama().config)
    manual_seed(0)
    first, second = (model(ids).logits.data for _ in range(2))
    manual_seed(0)
    assert np.array_equal(model(ids).logits.data, first)
    assert 1e-3 < relative(second, first) < 1
    still = model_of(monteclora={"sample_scaler": 0.0}).train()
    assert np.array_equal(*(still(ids).logits.data for _ in range(2)))


def test_the_draws_have_the_distributions_of_the_formulas():
    manual_seed(0)
    r, n, width = 4, 6, 500
    sampler = module.Sampler(r, MontecloraConfig(num_samples=n, sample_scaler=2.0))
    sampler.std_prior.data = np.log(np.array([0.5, 1.0, 2.0, 3.0], np.float32))
    found = [
        (sampler(width).data, sampler.gaussian_var_prior.data.diagonal(), sampler.expert_weights.data)
        for _ in range(400)
    ]
    v, w = (np.array([one[i] for one in found]) for i in (1, 2))
    sigma = np.exp(sampler.std_prior.data)
    np.testing.assert_allclose(v.mean(axis=0), r * sigma**2, rtol=0.15)  # χ²(r) has mean r and variance 2r
    np.testing.assert_allclose(v.var(axis=0), 2 * r * sigma**4, rtol=0.4)
    np.testing.assert_allclose(w.sum(axis=1), 1, rtol=1e-5)
    inside = np.array([(E / np.sqrt(own)[:, None] / 2.0).var() / (weights**2).sum() for E, own, weights in found])
    np.testing.assert_allclose(inside.mean(), 1, rtol=0.02)  # Σ w Z has variance Σ w²


def test_gradients_in_float64():
    settings, rng = MontecloraConfig(**STRONG), np.random.default_rng(0)
    sampler = module.Sampler(3, settings).to("cpu", np.float64)
    factor = rng.standard_normal((3, 4))

    def value(*_):
        manual_seed(1)
        return (sampler(4) * factor).sum() + sampler.term()

    gradcheck(value, [sampler.std_prior, sampler.expert_weights_prior])
    x = Tensor(np.array([0.07, 0.5, 1.0, 3.7, 41.0]), requires_grad=True)
    gradcheck(lambda x: module.log_gamma(x).sum() + module.digamma(x).sum(), [x])


def test_the_functions_of_gamma():
    x = np.array([1e-3, 0.1, 0.5, 1.0, 2.0, 9.9, 100.0, 1e4])
    assert relative(module.log_gamma(Tensor(x)).data, [math.lgamma(one) for one in x]) < 1e-12
    euler = 0.5772156649015329
    assert relative(module.digamma(Tensor(x[[2, 3]])).data, [-euler - 2 * math.log(2), -euler]) < 1e-12
    found = module.digamma(Tensor(x + 1)).data - module.digamma(Tensor(x)).data
    np.testing.assert_allclose(found, 1 / x, rtol=1e-7)


@each_base
def test_merging(base):
    assert_merges(model_of(base), 1e-5)


@each_base
def test_it_comes_back_from_a_file_bit_for_bit(base, tmp_path):
    assert_state_comes_back(model_of(base), BASES[base][0](), tmp_path, "lora_monteclora_sampler")


def test_the_loss_falls_with_its_term():
    model = get_peft_model(tiny_llama(), config_of()).train()
    assert_loss_falls(model, lr=0.05, steps=8, by=0.05, term=model._get_monteclora_loss)
    assert model.eval()._get_monteclora_loss() == 0.0
    assert get_peft_model(tiny_llama(), LoraConfig(r=2))._get_monteclora_loss() == 0.0


def test_no_step_with_it_is_recorded(monkeypatch):
    monkeypatch.setattr(recorded, "on_gpu", lambda array: True)
    assert "same random numbers" in refusal(ValueError, lambda: recorded._check(model_of()))
    recorded._check(peft_model(["q_proj"], tiny_llama()))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: MontecloraConfig(num_samples=0), "num_samples must be an integer of at least 1"),
        (lambda: MontecloraConfig(dirichlet_prior=0), "dirichlet_prior must be above 0"),
        (lambda: MontecloraConfig(buffer_size=-1), "buffer_size must be an integer of at least 1"),
        (lambda: MontecloraConfig(use_entropy=1), "use_entropy must be True or False"),
        (lambda: config_of(use_dora=True), "monteclora_config and use_dora do not go together"),
        (lambda: model_of(target_modules=["embed_tokens"]), "embed_tokens is an Embedding"),
        (lambda: LoraConfig(monteclora_config={"samples": 3}), "monteclora_config has a field 'samples'"),
        (lambda: model_of().add_weighted_adapter(["default"], [1.0], "sum"), "only plain LoRA"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


@pytest.mark.parity
class TestAgainstPeft:
    def test_names_logits_and_gradients(self):
        assert_equal_to_peft(config_of(), tiny_llama())

    def test_files(self, tmp_path):
        layout = assert_exchanged_with_peft(config_of(), tiny_llama(), tmp_path)
        assert layout["base_model.model.model.layers.0.mlp.down_proj.lora_monteclora_sampler.std_prior"] == (3,)

    def test_a_training_step_from_the_same_draws(self, monkeypatch):
        import torch

        config, drawn = config_of(), {}
        twin, ours = peft_twin(tiny_llama(), config).train(), perturbed(get_peft_model(tiny_llama(), config)).train()
        values = dict(ours.named_parameters())
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p.copy_(torch.tensor(values[name].data))

        class Remembered:
            """This thread's random numbers, kept."""

            def __init__(self):
                self.rng, self.kept = np.random.default_rng(0), []

            def chisquare(self, *given):
                self.kept.append([self.rng.chisquare(*given)])
                return self.kept[-1][0]

            def standard_normal(self, *given):
                self.kept[-1].append(self.rng.standard_normal(*given))
                return self.kept[-1][-1]

        remembered, ids = Remembered(), some_ids(ours.config)
        monkeypatch.setattr(module, "generator", lambda: remembered)
        loss = ours(ids, labels=ids).loss + ours._get_monteclora_loss()
        loss.backward()
        drawn = iter(remembered.kept)
        for _, theirs in twin.named_modules():
            if type(theirs).__name__ == "MontecloraSampler":
                u, z, Z = next(drawn)
                sample = {"z_mvn": Z.reshape(5, -1, 3), "z_wishart": np.diag(u), "z_dirichlet": z}
                sample = {name: torch.tensor(one, dtype=torch.float32) for name, one in sample.items()}
                monkeypatch.setattr(theirs.sampler, "get", lambda sample=sample: sample)
        tokens = torch.tensor(ids)
        expected = twin(input_ids=tokens, labels=tokens).loss + twin._get_monteclora_loss()
        expected.backward()
        assert relative(loss.item(), expected.item()) < 2e-5
        for name, p in twin.named_parameters():
            if p.requires_grad:
                assert relative(values[name].grad, p.grad) < 5e-5, name
