"""Numbers that are not finite: the run stops and says so, and leaves good weights and a good checkpoint."""

import math

import numpy as np
import pytest
from safetensors.numpy import load_file
from training_helpers import FILE, KINDS, Batches, full, lora, run, saved_step, text_data, tiny, weights

from lora_np import LoraConfig, TrainingArguments, evaluate, get_peft_model, train

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, about overflow

RUINOUS = {"warmup_steps": 0, "checkpoint_every": 1, "eval_every": 100}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("learning_rate", [1e10, 1e38, 1e300])
@KINDS
def test_a_learning_rate_that_ruins_the_weights(tmp_path, make, learning_rate, max_grad_norm, accumulation):
    """The weights are those from before the step that ruined them, and no checkpoint holds one that is not finite."""
    model = make()
    before = evaluate(model, text_data().windows()[:5])
    settings = {**RUINOUS, "learning_rate": learning_rate, "max_grad_norm": max_grad_norm, "accumulation": accumulation}
    with pytest.raises(FloatingPointError, match=r"(loss|weights).* step \d+: .*again; "):
        run(model, tmp_path, **settings)
    assert all(np.isfinite(p.data).all() for p in model.parameters())
    assert math.isfinite(evaluate(model, text_data().windows()[:5]))
    assert evaluate(model, text_data().windows()[:5]) == pytest.approx(before, rel=0.2)
    if (tmp_path / FILE).exists():
        assert all(np.isfinite(array).all() for array in load_file(tmp_path / FILE).values())


@pytest.mark.gpu
@pytest.mark.parametrize("accumulation", [1, 2], ids=["recorded", "joint"])
@pytest.mark.parametrize("learning_rate", [1e10, 1e38])
def test_on_a_gpu_the_weights_of_some_steps_ago_are_put_back(tmp_path, learning_rate, accumulation):
    """Its losses are looked at every tenth step, and what was copied then is put back."""
    model = tiny(0).to("cuda")
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    before = weights(model.to("cpu"))
    args = TrainingArguments(steps=40, learning_rate=learning_rate, warmup_steps=0, accumulation=accumulation)
    with pytest.raises(FloatingPointError, match=r"loss became (nan|inf) at step \d+.*weights after 0 steps again"):
        train(model.to("cuda"), text_data(), args, directory=tmp_path, progress=False)
    assert weights(model.to("cpu")) == before
    assert not any(tmp_path.iterdir())


def test_the_last_step_is_looked_at_too():
    """No loss comes after it that would show what it did."""
    model = lora()
    before = weights(model)
    args = TrainingArguments(steps=1, learning_rate=1e300, warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"weights became NaN or infinite in step 0.*no checkpoint"):
        train(model, text_data(), args, progress=False)
    assert weights(model) == before


def test_the_sentence_says_which_step_and_what_is_left(tmp_path):
    class Spoilt:
        """From step 6 on, one weight of the base is NaN: no learning rate is to blame, but the adapter is safe."""

        def batch(self, seed, step):
            if step == 6:
                model.get_submodule("base_model.model.transformer.ln_f").weight.data[0] = math.nan
            return text_data().batch(seed, step)

    model = lora()
    with pytest.raises(FloatingPointError) as caught:
        run(model, tmp_path, Spoilt())
    assert str(caught.value) == (
        "the loss became nan at step 6: try a lower learning rate. The model has the weights after 5 steps again; the "
        f"checkpoint in {tmp_path} is of step 4."
    )
    assert saved_step(tmp_path) == 4


def test_gradients_that_are_not_finite_change_nothing():
    class Steep(type(tiny())):
        """The loss is finite, its gradient is not: as with a square root at zero."""

        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            backward = out.loss.backward
            out.loss = out.loss * 1.0

            def steep():
                backward()
                next(self.parameters()).grad[0] = math.nan

            class Loss:
                data = out.loss.data
                backward = staticmethod(steep)

            return type("Out", (), {"loss": Loss})

    model = Steep(tiny().config)
    before = weights(model)
    with pytest.raises(FloatingPointError, match=r"norm of the gradients became nan at step 0"):
        train(model, text_data(), TrainingArguments(steps=2), progress=False)
    assert weights(model) == before


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e38])
def test_evaluate_says_that_a_model_makes_no_numbers(number):
    model = tiny()
    model.transformer.wte.weight.data[:] = number
    with pytest.raises(FloatingPointError, match=r"evaluate: the loss is (nan|inf)"):
        evaluate(model, text_data().windows()[:3])


def test_a_broken_model_is_not_trained(tmp_path):
    model = lora()
    model.get_submodule("base_model.model.transformer.ln_f").weight.data[0] = math.nan
    before = weights(model)
    for data in (text_data(), Batches([])):  # the first evaluation finds it, before a batch is asked for
        with pytest.raises(
            FloatingPointError, match=r"evaluate: the loss is nan.*after 0 steps again; .*no checkpoint"
        ):
            run(model, tmp_path, data)
    with pytest.raises(FloatingPointError, match=r"nan at step 0: look for NaN"):
        train(model, text_data(), TrainingArguments(steps=2), progress=False)
    assert weights(model) == before
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_is_not_replaced_by_numbers_that_are_not_finite(tmp_path):
    from lora_np.training.loop import TrainingRun

    a_run = TrainingRun(full(), TrainingArguments(steps=3))
    a_run.one_step(text_data())
    a_run.save(tmp_path)
    content = (tmp_path / FILE).read_bytes()
    next(iter(a_run.optimizer.state.values()))["v"].ravel()[0] = math.inf
    with pytest.raises(FloatingPointError, match="infinite"):
        a_run.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content
