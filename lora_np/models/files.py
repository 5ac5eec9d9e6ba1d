"""A model's files, under Transformers' names: loaded by the model's own class, and saved."""

from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np

from .. import nn
from ..keywords import Unused, check_unused
from ..storage import remove, together, write_json, write_safetensors

FOR_SAVING = {  # Transformers' keywords of `save_pretrained`: why each means nothing here
    "is_main_process": Unused(None),
    "state_dict": Unused("the weights that the model has are written", ()),
    "push_to_hub": Unused("nothing is uploaded from here"),
    "max_shard_size": Unused(),  # one file, of any size
    "safe_serialization": Unused("that is a pickle, which runs code when it is read; safetensors are written", (True,)),
    "variant": Unused("there is one model.safetensors in a folder", ()),
    "token": Unused(),
    "save_peft_format": Unused(),
    "save_original_format": Unused(),
    "distributed_checkpoint": Unused("one process writes the files"),
}


class FilesOfModel(nn.Module):
    """The part of a model that is about its files. Abstract.

    config   what is saved beside the weights: see `PretrainedModel`
    """

    config: Any
    base_model_prefix: str
    replicated: Any

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """The model of this class in a directory or file; keywords as `AutoModelForCausalLM.from_pretrained` has them.

        ValueError if it is of another class.
        """
        from .loading.auto import Wanted, load_any  # which imports the models

        call = f"{cls.__name__}.from_pretrained"
        return load_any(call, pretrained_model_name_or_path, Wanted(), cls, **kwargs)

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:
        """Write config.json and model.safetensors, which Transformers loads too. The other keywords are its own."""
        check_unused("save_pretrained", kwargs, FOR_SAVING, ("save_directory",))
        if not kwargs.get("is_main_process", True):
            return
        with together(save_directory):
            write_safetensors(Path(save_directory) / "model.safetensors", self.stored_state())
            write_json(Path(save_directory) / "config.json", self.config_fields())
            self.write_generation_config(save_directory)

    def stored_state(self) -> dict[str, np.ndarray]:
        """{name as files have it: array}."""
        return self.whole_state()

    def whole_state(self) -> dict[str, np.ndarray]:
        """The `state_dict`; blocks that are listed twice, and share their weights, are in it twice.

        Weights in 4 bits are in it as numbers of the model's dtype, which is what files of models have.
        """
        state, inside = self.state_dict(), f"{self.base_model_prefix}."
        if self.replicated:
            every = self.named_parameters(remove_duplicate=False)
            state |= {name: p.data for name, p in every if name.startswith(inside)}
        for name, module in self.named_modules():
            if isinstance(module, nn.FourBitLayer):
                state = {key: array for key, array in state.items() if not key.startswith(f"{name}.weight_")}
                state[f"{name}.weight"] = module.unpacked_weight(self.dtype)
        return state

    def config_fields(self) -> dict[str, Any]:
        """The fields of config.json; the dtype of the weights is one where it is not float32."""
        said = {} if self.dtype == np.float32 else {"dtype": self.dtype.name}
        return {**self.config.to_dict(), **said}

    def write_generation_config(self, directory: str | PathLike[str]) -> None:
        """What is no language model's has none; another model's is removed."""
        remove(Path(directory) / "generation_config.json")
