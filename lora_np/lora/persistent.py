"""What a PeftModel does with files: adapters are saved, loaded beside others, and loaded onto a model."""

from collections.abc import Callable, Iterable
from typing import Any, Self, cast

from .. import nn
from ..expect import A_MODEL, expect
from ..nn.module import LoadResult
from ..storage import together
from .accepted import accept, accept_dtype, accept_others, adapter_folder, expect_embeddings
from .checks import Checked
from .files import read_adapter, write_adapter
from .peft_config import PeftConfig
from .reloading import reload_adapter
from .types import StrPath


class Persistent(Checked):
    """The part of a `PeftModel` that is about files. Abstract."""

    _attach: Callable[..., None]
    _warn_of_missing_parts: Callable[[], None]
    for_task: Callable[..., Any]

    def save_pretrained(
        self,
        save_directory: StrPath,
        safe_serialization: bool = True,
        selected_adapters: Iterable[str] | None = None,
        save_embedding_layers: str | bool = "auto",
        is_main_process: bool = True,
        path_initial_model_for_weight_conversion: str | None = None,
        as_plain_lora: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write adapters in PEFT's format: "default" into `save_directory`, each other into the folder of its name.

        selected_adapters   the names of those to write; None for all
        save_embedding_layers  also the base's embedding and head: "auto", if its vocabulary has been resized
        is_main_process     False: write nothing, as another process does
        as_plain_lora       write adapters that changed the base (PiSSA, OLoRA, CorDA, LoRA-GA) for the unchanged one; a
                            path_initial_model_for_weight_conversion means the same; how it began is known here
        The other keywords are PEFT's, and refused where they would do something.
        """
        others = ("push_to_hub", "state_dict", "max_shard_size", "create_pr", "commit_message", "repo_id", "private")
        known = ("save_directory", "safe_serialization", "selected_adapters", "is_main_process", "as_plain_lora")
        accept_others("save_pretrained", kwargs, others, known)
        accept("save_pretrained", safe_serialization=safe_serialization)
        expect_embeddings(save_embedding_layers)
        self._refuse_if_merged("saving")
        selected = self.peft_config.keys() if selected_adapters is None else selected_adapters
        names = self._names(selected, "selected_adapters")
        if not is_main_process:
            return
        with together(save_directory):
            for name in names:
                plain = as_plain_lora or path_initial_model_for_weight_conversion is not None
                write_adapter(cast(Any, self), name, save_directory, plain, save_embedding_layers)

    def load_adapter(
        self,
        model_id: StrPath,
        adapter_name: str,
        is_trainable: bool = False,
        torch_device: str | None = None,
        autocast_adapter_dtype: bool = True,
        ephemeral_gpu_offload: bool = False,
        low_cpu_mem_usage: bool = False,
        key_mapping: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> LoadResult:
        """Add the adapter saved in the folder `model_id`, inactive, under a new name; see `from_pretrained`.

        Under the name of one that is there, the file's numbers take the place of its own, and is_trainable does
        nothing: this is how the best step's adapter comes back. ValueError if they differ in more than numbers.

        With any error, the model is as it was. Its mode stays, where PEFT calls eval(). The result has missing_keys
        and unexpected_keys, which are empty: an adapter that does not fit is an error.
        """
        options = {"ephemeral_gpu_offload": ephemeral_gpu_offload, "key_mapping": key_mapping}
        accept("load_adapter", **options)
        accept_dtype("load_adapter", self, autocast_adapter_dtype)
        directory = adapter_folder("load_adapter", model_id, kwargs, ("model_id", "adapter_name", "is_trainable"))
        self._refuse_change("loading an adapter")
        if isinstance(adapter_name, str) and adapter_name in self.peft_config:
            reload_adapter(directory, self.base_model, adapter_name)
            return LoadResult([], [])
        self._check_new_name(adapter_name)
        config, model_adapter = read_adapter(directory, self.base_model.model, is_trainable, self._beside())
        self._check_beside(config)
        self._attach(adapter_name, config, model_adapter)
        self._warn_of_missing_parts()
        return LoadResult([], [])

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module,
        model_id: StrPath,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: PeftConfig | None = None,
        autocast_adapter_dtype: bool = True,
        ephemeral_gpu_offload: bool = False,
        low_cpu_mem_usage: bool = False,
        key_mapping: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """`model` with the adapter that this library or PEFT saved in the folder `model_id`.

        With any error, `model` is as it was. Frozen, for use and not for training, unless `is_trainable`; the model's
        mode stays, where PEFT calls eval().
        config: in the place of the one in the folder. subfolder=: the folder in that folder. revision=, cache_dir=,
        token=, ... are for a name on the Hugging Face hub. The other keywords are PEFT's, and change nothing here.
        """
        expect(model, nn.Module, "model", A_MODEL)
        expect(config, PeftConfig | None, "config", "a PeftConfig, in the place of the one in the folder")
        accept("from_pretrained", ephemeral_gpu_offload=ephemeral_gpu_offload, key_mapping=key_mapping)
        accept_dtype("from_pretrained", model, autocast_adapter_dtype)
        known = ("model_id", "adapter_name", "is_trainable", "config")
        directory = adapter_folder("from_pretrained", model_id, kwargs, known)
        config, model_adapter = read_adapter(directory, model, is_trainable, config=config)
        kind = cls.for_task(config)
        made = kind.__new__(kind)
        made._start(model, config, adapter_name, model_adapter)
        return made
