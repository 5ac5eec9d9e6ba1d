"""Files from the Hugging Face hub, with the package `huggingface_hub`; none that would run code when read."""

from pathlib import Path
from typing import Any

from ..extras import require

HUB_OPTIONS = (  # keywords that say where on the hub, and where here; for a folder on this machine they change nothing
    *("revision", "cache_dir", "token", "use_auth_token", "force_download", "local_files_only"),
    *("proxies", "resume_download", "code_revision"),
)
PASSED = {"revision", "cache_dir", "token", "force_download", "local_files_only"}


def from_hub(name: str, patterns: list[str], what: str = "a model", **options: Any) -> Path:
    """The directory that the files of "owner/name" which match `patterns` were downloaded to.

    options: those of `HUB_OPTIONS`. FileNotFoundError, in one sentence, if there is no such thing or no network;
    ValueError for a name that the hub cannot have.
    """
    missing = f"there is no directory {name!r}, and"
    hub = require("huggingface_hub", f"{missing} downloading {what}", "hub")
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    options["token"] = options.get("token", options.get("use_auth_token"))
    passed = {key: value for key, value in options.items() if key in PASSED and value is not None}
    try:
        return Path(hub.snapshot_download(name, allow_patterns=patterns, **passed))
    except HFValidationError:
        raise ValueError(name) from None
    except GatedRepoError:
        raise FileNotFoundError(
            f"{missing} the model of this name on the Hugging Face hub is given to those only who have accepted its "
            f"terms at https://huggingface.co/{name} and are logged in (hf auth login)"
        ) from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(f"{missing} no such model on the Hugging Face hub") from None
    except Exception:  # without a network, behind a broken proxy, ...: errors of several libraries
        raise FileNotFoundError(
            f"{missing} the Hugging Face hub cannot be reached to look for a model of this name: "
            "give a path, or try again with a network"
        ) from None
