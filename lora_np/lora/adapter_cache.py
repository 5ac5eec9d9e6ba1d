"""Many adapters on one model, of which only some have room in memory at once: loaded when used, dropped when not."""

import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from .. import nn
from ..expect import A_MODEL, expect, expect_whole
from .accepted import adapter_folder
from .errors import UnknownAdapterError
from .files import read_adapter
from .layer import AdaptedLayer
from .lora_model import LoraModel
from .model_adapter import ModelAdapter
from .names import BASE, check_new_name
from .peft_config import PeftConfig
from .peft_model import PeftModel
from .saved_modules import ModulesToSave
from .types import StrPath


class Loaded(NamedTuple):
    """An adapter that the cache has put on its model: the folder it is from, its config there, and its bytes."""

    folder: Path
    config: PeftConfig
    nbytes: int


class New(NamedTuple):
    """One that has been read and is on no model yet."""

    name: str
    loaded: Loaded
    model_adapter: ModelAdapter


class AdapterCache:
    """Adapters of one model under a budget of bytes; if there is no room for one, the least recently used ones go.

        cache = AdapterCache(AutoModelForCausalLM.from_pretrained("smollm2"), budget_bytes=200_000_000)
        with cache.use("adapters/ann", "adapters/bob", "adapters/ann") as names:      # one for each row of ids
            texts = cache.model.generate(ids, adapter_names=names, max_new_tokens=20)

    An adapter stays loaded after the block until its room is needed: the next block that uses it finds it there. Inside
    a block its adapters are not dropped, nor are active ones, nor any that were put on the model by other means; those
    do not count.

    model         the PeftModel that is called. If a model without adapters is given, a new one around it
    budget_bytes  what the tensors of the loaded adapters may take. Beside that, a call with adapter_names holds stacks
                  of those that it names (see rows.py), and while adapters are read there are two copies of them

    Threads: any number may be in blocks of their own and call the model there; one at a time loads. Training, merging
    and `set_adapter` remain for one thread while no other calls the model. An adapter that changes what others compute
    is refused: see `use`.
    """

    def __init__(self, model: nn.Module, budget_bytes: int) -> None:
        expect(model, nn.Module, "model", A_MODEL)
        expect_whole(budget_bytes, "budget_bytes")
        self.model = model if isinstance(model, PeftModel) else _without_adapters(model)
        self.budget_bytes = int(budget_bytes)
        self._lock = threading.RLock()
        self._known: dict[str, Loaded] = {}  # in the order of their use; some may have left the model since
        self._uses: Counter[str] = Counter()  # how many blocks each is in

    @property
    def loaded(self) -> dict[str, int]:
        """{adapter's name: its bytes}, the least recently used one first."""
        return {name: loaded.nbytes for name, loaded in self._present().items()}

    @property
    def nbytes(self) -> int:
        """What the loaded adapters take together."""
        return sum(self.loaded.values())

    @contextmanager
    def use(self, *adapters: StrPath) -> Iterator[list[str]]:
        """Inside this block these adapters are on the model; yields the name of each, in the order given.

        adapters: folders, or names on the Hugging Face hub; each may be given several times. Also names of adapters
        that the model has, and "__base__", which are yielded as they are.
        ValueError, which names the folder, if an adapter is larger than the whole budget, damaged or does not fit, or
        if it changes what others compute (modules_to_save, bias, PiSSA, OLoRA, new base weights); FileNotFoundError if
        there is none. RuntimeError if there is no room beside those in use. In either case nothing has changed.
        """
        for adapter in adapters:
            expect(adapter, str | PathLike, "each of the adapters", "a folder or a name: use(*several)")
        names = self._begin([str(adapter) for adapter in adapters])
        try:
            yield names
        finally:
            self._end(names)

    def drop(self, adapter: StrPath) -> None:
        """Drop a loaded adapter, by its folder or its name: its next use reads it anew.

        KeyError if it is not loaded, RuntimeError while it is in use.
        """
        with self._lock:
            name = self._name_of(str(adapter))
            if name not in self._present():
                raise UnknownAdapterError(str(adapter), self._present())
            if self._is_in_use(name):
                raise RuntimeError(f"drop: {name} is in use; leave the blocks that use it, and have another one active")
            self.model._refuse_change("dropping an adapter")
            _swap(self.model, [name], [])

    def _begin(self, given):
        """The names for these adapters, all of them loaded and in use."""
        with self._lock:
            names = {adapter: self._name_of(adapter) for adapter in dict.fromkeys(given)}
            new = {}
            for adapter in [adapter for adapter, name in names.items() if name is None]:
                folder = _folder_of(adapter)
                if folder not in new:
                    taken = [*self.model.peft_config, *(one.name for one in new.values())]
                    new[folder] = self._read(folder, _new_name(adapter, taken))
                names[adapter] = new[folder].name
            added = list(new.values())
            gone = self._least_recent(added, set(names.values()))
            self._known = self._present() | {one.name: one.loaded for one in added}
            if added:
                _swap(self.model, gone, added)
            used = [names[adapter] for adapter in given]
            self._uses.update(used)
            self._touch(used)
            return used

    def _end(self, names):
        with self._lock:
            self._uses -= Counter(names)  # which also forgets those that are at 0
            self._touch(names)

    def _touch(self, names):
        """These have been used last."""
        present = self._present()
        last = {name: present[name] for name in names if name in present}
        self._known = {name: loaded for name, loaded in present.items() if name not in last} | last

    def _present(self):
        """{name: Loaded} of those that are on the model: it may have been told to delete or rename some."""
        configs = self.model.peft_config
        return {name: loaded for name, loaded in self._known.items() if configs.get(name) is loaded.config}

    def _name_of(self, adapter):
        """Under which name the model has it; None if it has to be read."""
        if adapter == BASE or (adapter in self.model.peft_config and not Path(adapter).is_dir()):
            return adapter
        folder = _folder_of(adapter)
        return next((name for name, loaded in self._present().items() if loaded.folder == folder), None)

    def _is_in_use(self, name):
        return name in self._uses or name in self.model.active_adapters

    def _read(self, folder, name):
        """A `New` one, if it can be on the model beside any others. The model is as it was."""
        model = self.model
        model._refuse_change("loading an adapter")
        config, model_adapter = read_adapter(folder, model.base_model.model, False, model._beside())
        model._check_beside(config)
        if config.changes_base or model_adapter.copies or model_adapter.biases or model_adapter.bases:
            raise ValueError(
                f"{folder} changes what other adapters on the model compute (modules_to_save, bias, PiSSA, OLoRA, or "
                "base weights of its own): it cannot be one of several that come and go"
            )
        nbytes = sum(tensor.data.nbytes for tensor in model_adapter.tensors().values())
        if nbytes > self.budget_bytes:
            raise ValueError(
                f"{folder} takes {nbytes:,d} bytes, more than the whole budget_bytes={self.budget_bytes:,d}: "
                "give the cache more, or train an adapter of a smaller rank"
            )
        return New(name, Loaded(folder, config, nbytes), model_adapter)

    def _least_recent(self, added, wanted):
        """The names of those that have to go to make room for the `added` ones. RuntimeError if that is not enough."""
        present, gone = self._present(), []
        free = self.budget_bytes - sum(one.nbytes for one in present.values())
        free -= sum(one.loaded.nbytes for one in added)
        for name, loaded in present.items():
            if free < 0 and name not in wanted and not self._is_in_use(name):
                gone.append(name)
                free += loaded.nbytes
        if free < 0 and added:
            kept = [name for name in present if name not in gone]
            raise RuntimeError(
                f"there is no room for {', '.join(one.name for one in added)}: {-free:,d} bytes are lacking in "
                f"budget_bytes={self.budget_bytes:,d} beside what is in use ({', '.join(kept) or 'nothing'}); "
                "leave their blocks first, use fewer at once, or give the cache more"
            )
        return gone


def _without_adapters(model: nn.Module) -> PeftModel:
    """A PeftModel around a plain model, which has no adapters yet. ValueError if it has some."""
    if any(isinstance(module, (AdaptedLayer, ModulesToSave)) for module in model.modules()):
        raise ValueError("this model has adapters already: give the cache the PeftModel around it")
    return PeftModel.around(LoraModel(model))


@nn.all_or_nothing
def _swap(model: Any, gone: Iterable[str], added: Iterable[New]) -> None:
    """Take adapters, none of them active, off the model and put others on it."""
    for name in gone:
        model.base_model.detach(name)
        model.base_model.peft_config = {n: config for n, config in model.peft_config.items() if n != name}
    for one in added:
        model._attach(one.name, one.loaded.config, one.model_adapter)


def _folder_of(adapter: str) -> Path:
    """The folder of an adapter, or what a name on the hub was downloaded to."""
    return adapter_folder("AdapterCache.use", adapter, {}).resolve()


def _new_name(adapter: str, taken: Iterable[str]) -> str:
    """A name for an adapter, after its folder; with a number where that is another one's or no name."""
    stem = re.sub(r"\W", "_", Path(adapter).resolve().name) or "adapter"
    stem = f"_{stem}" if stem[0].isdigit() else stem
    name, numbers = stem, itertools.count(2)
    while True:
        try:
            check_new_name(name, taken)
            return name
        except ValueError:
            name = f"{stem}_{next(numbers)}"
