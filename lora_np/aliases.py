"""Where names were before, and where they are now: what was imported from an old place still can be.

`MOVED` lists old modules; a name asked for there is looked up in the new modules, one after another, under its new name
if `RENAMED` has one. An old module is made only when somebody imports it, with a DeprecationWarning that says where to
go. A new row here is all that moving a module or renaming a public name needs.
"""

import importlib
import importlib.machinery
import sys
import types
import warnings

MOVED = {  # {old module: (new modules, ...)}, all without the leading "lora_np."
    "autograd.backend": (
        "autograd.devices",
        "autograd.random",
        "autograd.precision",
        "autograd.allocator",
        "autograd.fused.blocks",
        "/lora_course.device",
    ),
    "autograd.check": ("autograd.gradcheck",),
    "autograd.kernels": ("autograd.dispatch",),
    "autograd.layout": ("autograd.shape_ops",),
    "commands": ("cli.generate", "cli.chat", "cli.merge", "cli.params", "cli.model"),
    "finetune": ("cli.finetune", "cli.options", "cli.output", "cli.report"),
    "lora.adapted": ("lora.layer", "lora.adapter"),
    "lora.dora": ("lora.variants.dora",),
    "lora.embedding": ("lora.variants.embedding",),
    "lora.model": ("lora.peft_model",),
    "lora.projection": ("lora.variants.projection",),
    "lora.tuner": ("lora.lora_model",),
    "lora.variants.vera": ("lora.family.vera",),
    "lora.memory": ("costs.memory", "costs.step_memory"),
    "lora.sizes": ("costs.parameters", "costs.operations"),
    "lora.step_memory": ("costs.step_memory",),
    "models.auto": ("models.loading.auto",),
    "models.causal_lm": ("models.base",),
    "models.checkpoints": ("models.loading.checkpoints",),
    "models.fetch": ("models.loading.fetch",),
    "models.gguf": ("models.loading.gguf", "models.loading.gguf_names", "models.loading.gguf_config"),
    "models.generation.defaults": ("models.generation.config", "models.generation.options"),
    "models.generation.sampling": ("models.generation.generate", "models.generation.run"),
    "models.sampling": ("models.generation.generate", "models.generation.run"),
    "tasks": ("cli.task",),
    "training.optim.clipping": ("nn.utils",),
    "training.distributed": ("training.parallel.processes",),
    "training.groups": ("training.optim.parameter_groups",),
    "training.recorded": ("training.parallel.recorded",),
}
COURSE = ("adaptation", "budget", "gpu", "sweep", "timeline", "exercises")
EXERCISES = (
    "adamw",
    "attention",
    "checking",
    "cross_entropy",
    "layer_norm",
    "lora_backward",
    "lora_forward",
    "lora_init",
)
EXERCISES += ("matmul", "merge", "parameter_count", "subspace_similarity", "targeting", "watching")
PICTURES = ("attention", "bars", "costs", "runs", "subspaces", "sweep", "timeline")
MOVED |= {"course": ("/lora_course",)}  # a slash: a package beside this one, which may not be installed
MOVED |= {f"course.{name}": (f"/lora_course.{name}",) for name in COURSE}
MOVED |= {f"course.exercises.{name}": (f"/lora_course.exercises.{name}",) for name in EXERCISES}
MOVED |= {f"plots.{name}": (f"/lora_course.plots.{name}",) for name in PICTURES}
RENAMED = {  # {"old module.old name": "new name"}, the old module as in MOVED or still in its place
    "lora.memory.this_library": "estimate_step_memory",
    "lora.step_memory.this_library": "estimate_step_memory",
    "models.gguf.NAMES": "TENSOR_NAMES",
    "tasks.spread": "evenly_spaced",
    "training.data.hashed_place": "hashed_fraction",
}


class _MovedModule(types.ModuleType):
    """A module that is no longer there: it finds each name where it is now."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        old = self.__name__.partition(".")[2]
        new_name = RENAMED.get(f"{old}.{name}", name)
        for new in MOVED[old]:
            try:
                found = getattr(importlib.import_module(_absolute(new)), new_name, None)
            except ModuleNotFoundError:
                found = None  # the course is not installed
            if found is not None:
                vars(self)[name] = found  # looked for once
                return found
        raise AttributeError(f"lora_np.{old}, now {_places(old)}, has no {name!r}")


def _nearest(package, name):
    """ "; did you mean ...?" if a package has a public name much like this one."""
    import difflib  # for mistakes alone

    known = vars(sys.modules[package]).get("__all__", ()) if package in sys.modules else ()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]!r}?" if close else ""


class _Finder:
    """Finds the modules of `MOVED`, after Python has looked for real ones."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, rest = fullname.partition(".")
        found = package == "lora_np" and rest in MOVED
        if not found and path is not None and package == "lora_np" and (hint := _nearest(package, rest)):
            raise ImportError(f"cannot import name {rest!r} from {package!r}{hint}", name=package)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if found else None

    def create_module(self, spec):
        old = spec.name.partition(".")[2]
        warnings.warn(f"{spec.name} has moved: import from {_places(old)}", DeprecationWarning, stacklevel=2)
        return _MovedModule(spec.name)

    def exec_module(self, module):
        """There is nothing to run."""


def _absolute(new):
    return new[1:] if new.startswith("/") else f"lora_np.{new}"


def _places(old):
    return " or ".join(map(_absolute, MOVED[old]))


def moved_names(package):
    """A `__getattr__` for a package: modules that were parts of it, and names of its own that `RENAMED` lists."""

    def find(name):
        full = f"{package}.{name}".partition(".")[2]
        if full in MOVED:
            return importlib.import_module(f"lora_np.{full}")
        if full in RENAMED:
            return getattr(sys.modules[package], RENAMED[full])
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


sys.meta_path.append(_Finder())
