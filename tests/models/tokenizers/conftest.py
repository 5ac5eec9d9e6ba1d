"""SmolLM2's tokenizer from its GGUF file, and texts that find the corners of a tokenizer."""

import pytest

from lora_np.models.tokenizers import tokenizer_from_gguf
from lora_np.storage import open_gguf


@pytest.fixture(scope="session")
def smollm2_metadata(smollm2_gguf):
    return open_gguf(smollm2_gguf).metadata


@pytest.fixture(scope="session")
def smollm2(smollm2_metadata):
    """SmolLM2's tokenizer."""
    return tokenizer_from_gguf(smollm2_metadata)


@pytest.fixture(scope="session")
def smollm2_saved(smollm2, tmp_path_factory):
    """A directory that this package wrote for SmolLM2's tokenizer."""
    directory = tmp_path_factory.mktemp("smollm2")
    smollm2.save_pretrained(directory)
    return directory
