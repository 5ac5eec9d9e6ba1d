"""PeftModel: a frozen model with adapters, under the names that PEFT's users know."""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import Any, ClassVar, Self

from .. import nn
from ..autograd.tensor import is_grad_enabled
from ..expect import A_MODEL, expect, expect_list
from ..keywords import near_misses
from ..refusals import refuses_here
from .accepted import accept_dtype
from .errors import HAS_ADAPTERS, UnknownAdapterError
from .invocations import invocations
from .layer import AdaptedLayer
from .lora_model import LoraModel
from .model_adapter import A_CONFIG, new_adapter
from .names import check_new_name, listed_names
from .peft_config import PeftConfig, TaskType, check_alpha
from .persistent import Persistent
from .row_calls import forward_in_rows, generating
from .saved_modules import ModulesToSave
from .starts.prepared import PREPARED, forget
from .status import TunerLayerStatus, TunerModelStatus, format_status, get_layer_status, get_model_status
from .weighted import combined


@refuses_here
@near_misses
def get_peft_model(
    model: nn.Module,
    peft_config: PeftConfig,
    adapter_name: str = "default",
    mixed: bool = False,
    autocast_adapter_dtype: bool = True,
    revision: str | None = None,
    low_cpu_mem_usage: bool = False,
) -> "PeftModel":
    """Freeze `model`, put an adapter beside each layer that `peft_config` targets, and return it as a PeftModel.

    The model is changed in place: its targeted layers are wrapped. ValueError, with nothing changed, if a target
    matches no layer. mixed: for adapters of several kinds, see `mixed_model.py`. revision: that of the base model, to
    be noted in the config. The other keywords are PEFT's, and change nothing here.
    """
    if mixed:
        from .mixed_model import PeftMixedModel  # which imports this module

        made: PeftModel = PeftMixedModel(model, peft_config, adapter_name)
    else:
        kind = PeftModel.for_task(peft_config)
        made = kind(model, peft_config, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage)
    if revision is not None:
        peft_config.revision = revision
    return made


class PeftModel(Persistent):
    """A model with named adapters. Calling it calls the model; the active adapters take part.

    What it does not have itself, `peft_model.transformer` or `.get_input_embeddings()`, is the model's.

    base_model   the LoraModel that holds the model (`base_model.model`)
    peft_config  {adapter name: its PeftConfig}

    Several threads may call one model at once, generate, and use `disable_adapter` and `adapter_names`, while one of
    them trains: these belong to the call. The methods that change adapters, and train(), eval() and to(), are for one
    thread while no other one calls the model; see "Threads and processes" in the README.
    """

    inner = "base_model"
    task_type: ClassVar[TaskType | None] = None
    peft_config: Any = property(attrgetter("base_model.peft_config"))
    active_adapters: Any = property(attrgetter("base_model.active_adapters"))

    def __init__(
        self,
        model: nn.Module,
        peft_config: PeftConfig,
        adapter_name: str = "default",
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
    ) -> None:
        if not autocast_adapter_dtype:
            accept_dtype(type(self).__name__, model, autocast_adapter_dtype)
        self._start(model, peft_config, adapter_name)

    def _start(self, model, peft_config, adapter_name, model_adapter=None):
        """model_adapter: the `ModelAdapter` that `peft_config` means on `model`, where it is made already."""
        expect(model, nn.Module, "model", A_MODEL)
        for _, module in model.named_modules():
            if isinstance(module, (PeftModel, AdaptedLayer, ModulesToSave)):
                raise ValueError(HAS_ADAPTERS)
        check_new_name(adapter_name, ())
        model_adapter = new_adapter(model, peft_config) if model_adapter is None else model_adapter
        self._begin(model, adapter_name, peft_config, model_adapter)

    @classmethod
    def for_task(cls, config: PeftConfig) -> type[Self]:
        """The class for the task of a config: for "CAUSAL_LM" PeftModelForCausalLM, without a task PeftModel itself."""
        task = getattr(config, "task_type", None)
        return next((one for one in cls.__subclasses__() if task is not None and one.task_type == task), cls)

    @classmethod
    def around(cls, base_model: Any) -> Self:
        """A PeftModel of adapters that are in a model already: all that it knows is there."""
        made = cls.__new__(cls)
        made.base_model, made.training = base_model, base_model.model.training
        return made

    @nn.all_or_nothing
    def _begin(self, model, name, config, model_adapter):
        self.base_model = LoraModel(model)
        self.training = model.training
        self._attach(name, config, model_adapter)
        self._activate([name])
        if config.inference_mode:  # for use, not for training
            self.requires_grad_(False)

    def forward(
        self, *args: Any, adapter_names: Iterable[str] | None = None, alora_offsets: Any = None, **kwargs: Any
    ) -> Any:
        """Call the model with the active adapters.

        adapter_names: a name for each row of the batch, to use its own adapter for each; "__base__" stands for none.
        alora_offsets: on how many of the last tokens of each row aLoRA acts, if it is not to be found in input_ids.
        """
        if self.training and is_grad_enabled():
            self._refuse_if_merged("training")
        if adapter_names is None and not invocations(self.peft_config, self.active_adapters):
            inner = self.base_model if self.task_type else self.base_model.model  # as in PEFT: see `Adapter.loss_term`
            return inner(*args, **kwargs)
        return forward_in_rows(self, adapter_names, alora_offsets, args, kwargs)

    def _warn_of_missing_parts(self):
        for name, config in self.peft_config.items():
            if config.changes_base and name not in self.active_adapters:
                warnings.warn(
                    f"{name} is inactive, and its initialisation took a part out of the base weights (PiSSA, OLoRA, "
                    f"KaSA): until set_adapter({name!r}) or delete_adapter({name!r}) the model lacks that part",
                    stacklevel=3,
                )

    @property
    def active_adapter(self) -> str | list[str]:
        """The name of the active adapter; a list of names if there are several, or none."""
        active = self.active_adapters
        return active[0] if len(active) == 1 else list(active)

    @property
    def active_peft_config(self) -> PeftConfig:
        """The configuration of the active adapter, the first one if there are several."""
        if not self.active_adapters:
            raise UnknownAdapterError(None, self.peft_config)
        return self.peft_config[self.active_adapters[0]]

    @property
    def peft_type(self) -> Any:
        """The kind of the adapters."""
        return self.active_peft_config.peft_type

    def get_base_model(self) -> Any:
        """The model itself, its targeted layers still wrapped."""
        return self.base_model.model

    def generate(self, *inputs: Any, adapter_names: Iterable[str] | None = None, **options: Any) -> Any:
        """Continue ids with the active adapters, or with those that adapter_names lists, one for each row; see the base
        model's generate. alora_offsets= as in `forward`, for the prompt."""
        return self.base_model.model.generate(*inputs, **generating(self, adapter_names, options))

    def stream(self, *inputs: Any, adapter_names: Iterable[str] | None = None, **options: Any) -> Any:
        """As `generate`, token by token; see the base model's stream."""
        return self.base_model.model.stream(*inputs, **generating(self, adapter_names, options))

    @near_misses
    def add_adapter(
        self,
        adapter_name: str,
        peft_config: PeftConfig,
        low_cpu_mem_usage: bool = False,
        autocast_adapter_dtype: bool = True,
    ) -> None:
        """Add an adapter beside those that are there. It is inactive until `set_adapter`.

        PiSSA and OLoRA take a part out of the base weights at once, which is missing while the adapter is inactive.
        """
        expect(peft_config, PeftConfig, "peft_config", A_CONFIG)
        accept_dtype("add_adapter", self, autocast_adapter_dtype)
        self._refuse_change("adding an adapter")
        self._check_new_name(adapter_name)
        self._check_beside(peft_config)
        self._attach(adapter_name, peft_config, new_adapter(self.base_model.model, peft_config, self._beside()))
        self._warn_of_missing_parts()

    @nn.all_or_nothing
    def _attach(self, name, config, model_adapter):
        self.base_model.attach(name, model_adapter)
        if getattr(config, "init_lora_weights", None) in PREPARED:
            forget(layer.base_layer for _, layer in self.base_model.layers() if name in layer.adapters)
        if config.base_model_name_or_path is None:
            own = getattr(self.base_model.model, "config", None)
            config.base_model_name_or_path = getattr(own, "name_or_path", None)
        self.base_model.peft_config = {**self.peft_config, name: config}

    @near_misses
    def set_adapter(self, adapter_name: str | Iterable[str], inference_mode: bool = False) -> None:
        """Make one adapter, or a list of them, active and trainable; the others become inactive.

        inference_mode: active, and not trained.
        """
        names = self._names(adapter_name, "adapter_name")
        self._refuse_change("switching adapters")
        self._check_one_copy(names)
        self._activate(names)
        if inference_mode:
            self.requires_grad_(False)
        self._warn_of_missing_parts()

    @nn.all_or_nothing
    def _activate(self, names):
        self.base_model.active_adapters = names
        kinds = {self.peft_config[name].bias for name in names}
        self.base_model.activate(names, [p for kind in kinds for p in self.base_model.biases(kind).values()])

    @near_misses
    @nn.all_or_nothing
    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter. If it was the only active one, the first of the others becomes active."""
        self._check_known(adapter_name)
        self._refuse_change("deleting an adapter")
        self.base_model.detach(adapter_name)
        self.base_model.peft_config = {n: config for n, config in self.peft_config.items() if n != adapter_name}
        if adapter_name in self.active_adapters:
            left = [name for name in self.active_adapters if name != adapter_name]
            self._activate(left or list(self.peft_config)[:1])

    @near_misses
    @nn.all_or_nothing
    def rename_adapter(self, old: str, new: str) -> None:
        """Give an adapter another name; it stays active if it was."""
        self._check_known(old)
        self._check_new_name(new)
        self._refuse_change("renaming an adapter")
        self.base_model.rename(old, new)
        configs = {new if name == old else name: config for name, config in self.peft_config.items()}
        self.base_model.peft_config = configs
        self.base_model.active_adapters = [new if name == old else name for name in self.active_adapters]
        for router in [config.arrow_config for config in configs.values() if getattr(config, "arrow_config", None)]:
            router.rename(old, new)

    @near_misses
    @nn.all_or_nothing
    def set_requires_grad(self, adapter_names: str | Iterable[str], requires_grad: bool = True) -> None:
        """Train these adapters or, with False, freeze them, whether they are active or not."""
        for name in self._names(adapter_names):
            adapter = self.base_model.adapter(name)
            for module in (*adapter.adapters.values(), *adapter.copies.values()):
                module.requires_grad_(requires_grad)

    @near_misses
    @nn.all_or_nothing
    def set_scale(self, adapter_name: str, scale: float) -> None:
        """Set an adapter's scaling to `scale` times the configured one. It is not saved: files hold lora_alpha.

        0 leaves s·B A out; DoRA's magnitudes still act, and what PiSSA took out of the base stays out.
        """
        check_alpha("scale", scale)
        self._check_known(adapter_name)
        self._refuse_change("rescaling an adapter")
        for adapter in self.base_model.adapter(adapter_name).adapters.values():
            adapter.rescale(scale)

    @near_misses
    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "svd",
        svd_rank: int | None = None,
        svd_clamp: float | None = None,
        svd_full_matrices: bool = True,
        svd_driver: str | None = None,
        density: float | None = None,
        majority_sign_method: str = "total",
    ) -> None:
        """Add an adapter that combines others; see `combine.combine` for the kinds and their options.

        Its scaling is 1 in every layer (lora_alpha = r, or √r with use_rslora). A layer that has only some of the
        adapters combines those. Only plain LoRA can be combined, and (IA)³, which is added up.
        svd_full_matrices and svd_driver are PEFT's: how an SVD is computed, which changes nothing in its result.
        """
        svd = {"svd_rank": svd_rank, "svd_clamp": svd_clamp}
        options = {**svd, "density": density, "majority_sign_method": majority_sign_method}
        names, weights = listed_names(adapters, "adapters"), expect_list(weights, "weights", "a list of numbers")
        for name in names:
            self._check_known(name)
        self._check_new_name(adapter_name)
        self._refuse_change("combining adapters")
        config, arrays = combined(self.base_model, self.peft_config, names, weights, combination_type, options)
        self._check_beside(config)
        model_adapter = new_adapter(self.base_model.model, config, self._beside())
        model_adapter.incoming = arrays
        self._attach(adapter_name, config, model_adapter)

    def disable_adapter(self) -> AbstractContextManager[None]:
        """Inside this block the model is the base model, also if adapters are merged. Trained biases stay in it.

        Merging, adding, deleting, renaming and switching adapters have to wait until the block ends.
        """
        return self.base_model.disabled()

    @near_misses
    def merge_adapter(self, adapter_names: Iterable[str] | None = None, safe_merge: bool = False) -> None:
        """Add the ΔW of these adapters (None: the active ones) to the weights: same results at the base's cost.

        Until `unmerge_adapter` a layer that has any of these computes with just these; the others go on with their
        active adapters, as in PEFT. Errors: `LoraModel.merge`; KeyError if there is no such adapter.
        """
        self._refuse_if_disabled("merging")
        names = self._names_to_merge(adapter_names)
        self._check_one_copy(names or [])
        self.base_model.merge(safe_merge, names)

    def untie_weights(self) -> None:
        """Give each adapted layer that shares its weight (a tied head) a copy of its own, so that it can be merged."""
        self.base_model.untie_weights()

    def unmerge_adapter(self) -> None:
        """Undo `merge_adapter`, bit for bit. Nothing happens if nothing is merged."""
        self._refuse_if_disabled("unmerging")
        self.base_model.unmerge()

    @near_misses
    @nn.all_or_nothing
    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: Iterable[str] | None = None
    ) -> Any:
        """Merge these adapters (None: the active ones) and return the plain model, with no trace of LoRA in it.

        Where adapters are merged already, they are what is meant by None; with other names, RuntimeError.
        progressbar: PEFT's; there is nothing to wait for here.
        """
        self._refuse_if_disabled("merging")
        names = self._names_to_merge(adapter_names)
        self._check_one_copy(names or [])
        if names is not None or not self.base_model.merged:
            self.base_model.merge(safe_merge, names)
        return self.base_model.plain(names or self.base_model.merged or None)

    @nn.all_or_nothing
    def unload(self) -> Any:
        """Return the plain base model, with any trained biases; the adapters are dropped."""
        self.base_model.forget_adapters()
        return self.base_model.plain()

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(trainable, all): how many numbers are trained, and how many there are, adapters included."""
        return self.num_parameters(only_trainable=True), self.num_parameters()

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, in PEFT's line."""
        trainable, total = self.get_nb_trainable_parameters()
        percent = 100 * trainable / total
        print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {percent:.4f}")

    def get_layer_status(self) -> list[TunerLayerStatus]:
        """For each adapted layer its adapters, their ranks and scalings, and which are active or merged."""
        return get_layer_status(self)

    def get_model_status(self) -> TunerModelStatus:
        """The same for the whole model, with its parameters counted."""
        return get_model_status(self)

    def __repr__(self) -> str:
        return format_status(self)
