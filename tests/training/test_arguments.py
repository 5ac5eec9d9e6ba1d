"""What a training run is told."""

import dataclasses
import math
import re

import pytest

from lora_np import ByteTokenizer, ExampleData, TrainingArguments
from lora_np.training.arguments import settled
from lora_np.training.names import BETAS, NO_EFFECT, REFUSED, RENAMED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps.*0"),
        ({"steps": 2.5}, "steps.*2.5"),
        ({"accumulation": -1}, "accumulation.*-1"),
        ({"eval_every": 0}, "eval_every.*0"),
        ({"checkpoint_every": "often"}, "checkpoint_every.*often"),
        ({"learning_rate": 0}, "learning_rate.*0"),
        ({"learning_rate": -1e-3}, "learning_rate.*-0.001"),
        ({"learning_rate": math.nan}, "learning_rate.*nan"),
        ({"learning_rate": math.inf}, "learning_rate.*inf"),
        ({"max_grad_norm": -1.0}, "max_grad_norm.*-1"),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.1}, "learning_rate": 0.01},
            "lr_end=0.1 must be below the highest learning rate, 0.01",
        ),
        ({"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"power": 2}}, "is nothing that 'constant' takes"),
        ({"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"scale": 2}}, "nothing that 'inverse_sqrt' tak"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingArguments(**settings)


class TestTransformersNames:
    def test_they_say_the_same(self):
        theirs = TrainingArguments(
            "out",
            max_steps=30,
            gradient_accumulation_steps=2,
            eval_steps=5,
            save_steps=7,
            adam_beta1=0.8,
            adam_epsilon=1e-6,
            load_best_model_at_end=True,
            logging_steps=1,
            report_to="none",
            optim="adamw_torch",
            fp16=False,
        )
        ours = TrainingArguments(
            output_dir="out",
            steps=30,
            accumulation=2,
            eval_every=5,
            checkpoint_every=7,
            betas=(0.8, 0.999),
            adam_epsilon=1e-6,
            load_best=True,
        )
        assert theirs == ours

    def test_they_read_the_same(self):
        given = {"max_steps": 30, "gradient_accumulation_steps": 2, "eval_steps": 5, "save_steps": 7}
        given |= {"adam_beta1": 0.8, "adam_beta2": 0.99, "load_best_model_at_end": True, "evaluation_strategy": "steps"}
        given |= {"num_train_epochs": None, "per_device_train_batch_size": 3, "learning_rate": 0.1}
        given |= {"activation_checkpointing": True}
        assert RENAMED.keys() | set(BETAS) <= given.keys()
        args = TrainingArguments(**given)
        assert {name: getattr(args, name) for name in given} == given
        assert TrainingArguments(num_train_epochs=2).max_steps == -1  # as in Transformers
        assert dataclasses.replace(args, seed=1).max_steps == 30

    def test_epochs_are_shown_without_the_steps_that_are_not_known_yet(self):
        args = TrainingArguments(num_train_epochs=1, seed=2)
        assert repr(args) == "TrainingArguments(seed=2, num_train_epochs=1)"
        assert eval(repr(args)) == args
        assert repr(TrainingArguments(steps=3)) == "TrainingArguments(steps=3)"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("logging_steps", "takes 'logging_steps' and keeps no value of it"),
            ("max_step", "no attribute 'max_step'; did you mean 'max_steps'?"),
            ("learning_rat", "did you mean 'learning_rate'?"),
        ],
    )
    def test_what_cannot_be_read_is_a_sentence(self, name, message):
        with pytest.raises(AttributeError, match=re.escape(message)):
            getattr(TrainingArguments(logging_steps=1), name)

    def test_an_optimizer_has_several_names(self):
        for name in ("adamw_bnb_8bit", "adamw_torch_8bit", "adamw_8bit"):
            assert TrainingArguments(optim=name) == TrainingArguments(optim="adamw_8bit") != TrainingArguments()

    def test_one_thing_may_be_said_twice_if_it_is_the_same(self):
        assert TrainingArguments(steps=3, max_steps=3) == TrainingArguments(steps=3)
        assert TrainingArguments(max_steps=-1, eval_steps=None) == TrainingArguments()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"steps": 3, "max_steps": 4}, "max_steps=4 and steps=3 are two names of one thing"),
            ({"accumulation": 1, "gradient_accumulation_steps": 4}, "gradient_accumulation_steps=4 and accumulation=1"),
            ({"betas": (0.9, 0.99), "adam_beta2": 0.9}, r"betas=\(0.9, 0.99\) and adam_beta1, adam_beta2"),
            ({"bf16": True}, "bf16=True is not possible here: the model's dtype says it"),
            ({"fp16": True}, "fp16=True is not possible here"),
            ({"label_smoothing_factor": 0.1}, r"label_smoothing_factor=0.1 is not .*cross_entropy has label_smoothing"),
            ({"optim": "adafactor"}, "optim='adafactor' is not possible here: .*AdamW"),
            ({"optim": ["adamw"]}, r"optim=\['adamw'\] is not possible here"),
            ({"optim": "galore_adamw", "optim_args": "rank=4"}, "optim_args='rank=4' is not possible here"),
            ({"report_to": "wandb"}, "report_to='wandb' is not possible here: .*report_to='none'"),
            ({"deepspeed": "ds.json"}, "deepspeed='ds.json' is not possible here"),
            ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type must be one of .*linear.*, got 'cosin'"),
            ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type must be one of"),
            ({"lr_scheduler_type": "linear", "min_lr_ratio": 0.2}, "min_lr_ratio=0.2 goes with the default course"),
            ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"power": 2}}, "lr_scheduler_kwargs=.*power"),
            ({"lr_scheduler_kwargs": {"power": 2}}, "lr_scheduler_kwargs needs an lr_scheduler_type"),
            ({"warmup_ratio": 1.5}, "warmup_ratio is a part of the steps, from 0 to 1, got 1.5"),
            ({"eval_strategy": "often"}, "eval_strategy must be one of no, steps, epoch, got 'often'"),
            ({"num_train_epochs": 0}, "num_train_epochs must be positive, got 0"),
            ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1, got 0"),
        ],
    )
    def test_what_is_not_possible_is_refused_by_name(self, settings, message):
        with pytest.raises(ValueError, match=message):
            TrainingArguments(**settings)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("max_step", "no argument 'max_step'; did you mean 'max_steps'"),
            ("lr", "TrainingArguments has no argument 'lr'"),
            ("warmup_step", "did you mean 'warmup_steps'"),
        ],
    )
    def test_what_neither_library_has_is_named_with_the_nearest(self, name, message):
        with pytest.raises(TypeError, match=message):
            TrainingArguments(**{name: 1})

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, 10),
            ({"lr_scheduler_type": "linear"}, 0),
            ({"lr_scheduler_type": "linear", "warmup_steps": 4}, 4),
            ({"warmup_ratio": 0.03}, 3),
            ({"warmup_steps": 0.03}, 3),
            ({"warmup_steps": 0.0}, 0),
            ({"warmup_steps": 5, "warmup_ratio": 0.1}, 5),  # as in Transformers
            ({"warmup_steps": 0, "warmup_ratio": 0.1}, 10),
        ],
    )
    def test_the_rise(self, settings, expected):
        args = TrainingArguments(steps=99, **settings)
        assert args.warmup_steps == expected
        assert dataclasses.replace(args, seed=1).warmup_steps == expected

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"eval_strategy": "steps", "logging_steps": 7}, 7),
            ({"eval_strategy": "steps", "logging_steps": 7, "eval_steps": None}, 7),
            ({"eval_strategy": "steps", "logging_steps": 7, "eval_steps": 3}, 3),
            ({"eval_strategy": "steps", "logging_steps": 0.1}, 50),
            ({"logging_steps": 7}, 50),
        ],
    )
    def test_what_is_logged_is_evaluated_as_in_transformers(self, settings, expected):
        assert TrainingArguments(**settings).eval_every == expected

    def test_options_of_a_course_are_a_dict(self):
        with pytest.raises(TypeError, match="lr_scheduler_kwargs should be a dict, such as"):
            TrainingArguments(lr_scheduler_type="cosine", lr_scheduler_kwargs='{"num_cycles": 2}')

    @pytest.mark.parity
    def test_all_of_transformers_names_are_known(self):
        from transformers import TrainingArguments as Theirs

        names = {field.name for field in dataclasses.fields(Theirs)}
        ours = {field.name for field in dataclasses.fields(TrainingArguments)}
        known = ours | RENAMED.keys() | set(BETAS) | NO_EFFECT | REFUSED.keys()
        assert not names - known
        for name in names & REFUSED.keys():
            assert TrainingArguments(**{name: getattr(Theirs("out"), name)}) == TrainingArguments()


class TestWithData:
    def data(self, rows=10, size=4):
        tokenizer = ByteTokenizer()
        return ExampleData([{"text": "abc" * i} for i in range(1, rows + 1)], tokenizer, 32, size)

    def steps(self, **settings):
        return settled(None, self.data(), TrainingArguments(**settings))

    def test_epochs_are_steps(self):
        assert self.steps(num_train_epochs=2).steps == 6
        assert self.steps(num_train_epochs=2, gradient_accumulation_steps=2).steps == 4
        assert self.steps(num_train_epochs=0.5).steps == 2
        assert self.steps(num_train_epochs=2, max_steps=5).steps == 5
        assert self.steps(num_train_epochs=10, warmup_ratio=0.1).warmup_steps == 3
        assert self.steps(eval_strategy="epoch", save_strategy="epoch").eval_every == 3
        assert dataclasses.replace(TrainingArguments(num_train_epochs=2), seed=3).num_train_epochs == 2

    def test_data_without_rows_has_no_epochs(self):
        with pytest.raises(ValueError, match=r"an epoch needs data with `rows` and `batch_size`.*: give steps"):
            settled(None, object(), TrainingArguments(num_train_epochs=1))

    def test_another_size_of_batches_is_refused(self):
        with pytest.raises(ValueError, match="per_device_train_batch_size=8, but the data makes batches of 4"):
            self.steps(per_device_train_batch_size=8)
        assert self.steps(per_device_train_batch_size=4).steps == 200
