"""Models and tokenizers by name or directory."""

import http.server
import re
import socket
import sys
import threading
import time

import numpy as np
import pytest
from lora_helpers import refusal, snapshot, tiny_llama, tiny_model

from lora_np import AutoModelForCausalLM, AutoTokenizer, ByteTokenizer, GPT2LMHeadModel
from lora_np.autograd.devices import to_numpy
from lora_np.models.loading.auto import TINY_PYTHON, resolve


@pytest.fixture(scope="module")
def base():
    return AutoModelForCausalLM.from_pretrained(TINY_PYTHON), AutoTokenizer.from_pretrained(TINY_PYTHON)


def test_the_shipped_model_knows_python(base):
    model, tokenizer = base
    assert isinstance(model, GPT2LMHeadModel)
    assert isinstance(tokenizer, ByteTokenizer)
    assert not model.training
    assert model.config.name_or_path == TINY_PYTHON
    code = "def area(self):\n        return self.width * self.height\n\n    def __repr__(self):\n        return "
    ids = tokenizer(code, return_tensors="np")["input_ids"]
    loss = model(ids, labels=ids).loss.item()
    assert loss < 1.5  # nats per byte; a uniform guess has ln 256 = 5.5
    shuffled = np.random.default_rng(0).permutation(ids[0])[None]
    assert model(shuffled, labels=shuffled).loss.item() > 2 * loss


def test_the_shipped_model_writes_python(base):
    model, tokenizer = base
    ids = tokenizer("import os\n\n\nclass Thing:\n    def __init__(self, name):\n        self.name = ")["input_ids"]
    text = tokenizer.decode(model.generate(ids, max_new_tokens=4)[0])
    assert text.endswith("self.name = name")


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["string", "Path"])
def test_a_directory_by_its_path(tmp_path, kind):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    ByteTokenizer().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(kind(tmp_path))
    assert snapshot(loaded) == snapshot(model)
    assert loaded.config.name_or_path == str(tmp_path)
    assert AutoTokenizer.from_pretrained(kind(tmp_path)).encode("a") == [97]


UNKNOWN = [
    "gpt3",
    "a/b/c",
    "another model",
    # These look like names on the hub, but it has no such ones, so it is not asked.
    "../pretrained",
    "owner/a..b",
    "-owner/model",
    "x" * 300,  # longer than the name of a file can be
]


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoTokenizer])
@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_name_is_refused_with_those_there_are(auto, name, tmp_path, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    expected = (
        f"{name!r} is neither a directory, nor a .gguf file, nor the name of a shipped or fetched model "
        f"('{TINY_PYTHON}', 'smollm2', 'gemma3-270m', 'qwen2.5-coder-0.5b'), nor a name on the Hugging Face hub "
        "(owner/model)"
    )
    assert refusal(FileNotFoundError, lambda: auto.from_pretrained(name)) == expected


def test_a_model_that_has_not_been_fetched_says_how_to(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path))
    message = "'smollm2' has not been fetched yet: run  lora-np fetch smollm2"
    for auto in (AutoModelForCausalLM, AutoTokenizer):
        assert refusal(FileNotFoundError, lambda auto=auto: auto.from_pretrained("smollm2")) == message


def test_paths_come_before_names(tmp_path, monkeypatch):
    """A directory of that name is what was meant, not the hub's or the fetched model; the shipped one stays itself."""
    monkeypatch.chdir(tmp_path)
    for name in ("smollm2", "owner/model", TINY_PYTHON):
        (tmp_path / name).mkdir(parents=True)
    assert str(resolve("smollm2")) == "smollm2"
    assert str(resolve("owner/model")) == str(tmp_path.joinpath("owner/model").relative_to(tmp_path))
    assert resolve(TINY_PYTHON).is_absolute()
    assert resolve(tmp_path / TINY_PYTHON) == tmp_path / TINY_PYTHON


def test_a_gguf_file_by_its_path_or_in_its_directory(tmp_path):
    assert resolve(tmp_path / "some.gguf") == tmp_path / "some.gguf"
    assert resolve(tmp_path, "some.gguf") == tmp_path / "some.gguf"
    for auto in (AutoModelForCausalLM, AutoTokenizer):
        for arguments in ((tmp_path / "some.gguf",), (tmp_path, "some.gguf")):
            with pytest.raises(FileNotFoundError, match=r"some\.gguf does not exist"):
                auto.from_pretrained(*arguments)


# The hub: a server on this machine stands in for it, or none at all


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answers every request in the way of the hub's errors."""

    def do_GET(self):
        status, code = self.server.answer
        self.server.asked = True
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """A function: what is said of owner/model if the hub answers so; None for no answer at all."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # whatever HF_HUB_OFFLINE says: these ask a server
    monkeypatch.chdir(tmp_path)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    def message(answer):
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
            server.answer, server.asked = answer, False
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            try:
                said = refusal(FileNotFoundError, lambda: resolve("owner/model"))
            finally:
                server.shutdown()
        assert server.asked
        return said

    return message


def test_a_model_that_the_hub_does_not_have(ask):
    expected = "there is no directory 'owner/model', and no such model on the Hugging Face hub"
    assert ask((404, "RepoNotFound")) == expected


def test_a_model_that_the_hub_gives_to_some_only(ask):
    assert re.search(
        r"no directory 'owner/model', and .* accepted its terms at https://huggingface.co/owner/model and are logged",
        ask((403, "GatedRepo")),
    )


UNREACHABLE = (
    "there is no directory 'owner/model', and the Hugging Face hub cannot be reached to look for a model of this "
    "name: give a path, or try again with a network"
)


def test_a_hub_that_is_out_of_order(ask):
    assert re.fullmatch(UNREACHABLE, ask((500, "")))


@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "no network"])
def test_without_a_network_one_sentence_says_so_soon(monkeypatch, tmp_path, offline):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with socket.create_server(("127.0.0.1", 0)) as unused:  # a port that nobody listens at when it is closed
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    start = time.perf_counter()
    for auto in (AutoModelForCausalLM, AutoTokenizer):
        assert re.fullmatch(
            UNREACHABLE, refusal(FileNotFoundError, lambda auto=auto: auto.from_pretrained("owner/model"))
        )
    assert time.perf_counter() - start < 20


def test_what_is_asked_of_the_hub(monkeypatch, tmp_path):
    """Never pickles; of a repository of GGUF files only the one that is wanted."""
    import huggingface_hub

    tiny_llama().save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or str(tmp_path)
    )
    model = AutoModelForCausalLM.from_pretrained("owner/model")
    assert model.config.name_or_path == "owner/model"
    assert resolve("owner/model", "some.gguf") == tmp_path / "some.gguf"
    patterns = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]
    assert asked == [("owner/model", {"allow_patterns": given}) for given in (patterns, ["some.gguf"])]


def test_without_the_hubs_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = refusal(ImportError, lambda: resolve("owner/model"))
    assert message.startswith("there is no directory 'owner/model', and")
    assert message.endswith("pip install -e '.[hub]' (or pip install huggingface_hub)")


def test_a_file_is_not_a_directory(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(FileNotFoundError, match="neither a directory"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_a_directory_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer_config\.json does not exist"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        AutoModelForCausalLM.from_pretrained(TINY_PYTHON, device="gpu")


@pytest.mark.gpu
def test_a_model_loads_straight_to_the_gpu(base):
    model = AutoModelForCausalLM.from_pretrained(TINY_PYTHON, device="cuda")
    assert {p.device for p in model.parameters()} == {"cuda:0"}
    for p, q in zip(model.parameters(), base[0].parameters(), strict=True):
        np.testing.assert_array_equal(to_numpy(p.data), q.data)


@pytest.mark.parametrize(("typed", "meant"), [("tiny-pyhton", "tiny-python"), ("smolm2", "smollm2")])
def test_a_slip_of_the_pen_gets_a_hint(typed, meant):
    with pytest.raises(FileNotFoundError, match=f"did you mean '{meant}'"):
        resolve(typed)


def test_a_tokenizer_says_where_it_is_from(tmp_path):
    AutoTokenizer.from_pretrained("tiny-python").save_pretrained(tmp_path)
    for name in ("tiny-python", tmp_path):
        tokenizer = AutoTokenizer.from_pretrained(name)
        assert tokenizer.name_or_path == str(name)
        assert f"({str(name)!r}, 256 tokens" in repr(tokenizer)
