import hashlib
import json
import multiprocessing
import os
import signal
import threading
import zipfile

import gguf
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from treedraft.core.errors import InvalidRequestError, UnavailableError, UnsupportedModelError
from treedraft.inference.models import load_model
from treedraft.inference.toy import make_toy_model
from treedraft.inference.weights import (
    PACKAGED_MODELS,
    SMOLLM2_135M_INSTRUCT,
    ModelFiles,
    PackagedModel,
    resolve,
)
from treedraft.text.tokenizer import Tokenizer

HIDDEN, HEAD_DIM, VOCAB = 32, 8, 300


def write_gguf(path):
    """Write a Llama of one layer with the tokenizer rules of SmolLM2, and return its embedding."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|end|>", *letters, "12", "Ġ1"]
    tokens += [f"<pad{index}>" for index in range(VOCAB - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (VOCAB - 1))
    writer.add_token_merges(["1 2", "Ġ 1"])
    writer.add_bos_token_id(0)  # transformers before 5.20 needs one
    writer.add_eos_token_id(0)
    shapes = {
        "token_embd": (VOCAB, HIDDEN),
        "output_norm": (HIDDEN,),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.ffn_norm": (HIDDEN,),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (2 * HEAD_DIM, HIDDEN),
        "blk.0.attn_v": (2 * HEAD_DIM, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (2 * HIDDEN, HIDDEN),
        "blk.0.ffn_up": (2 * HIDDEN, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, 2 * HIDDEN),
    }
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, value in values.items():
        writer.add_tensor(f"{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values["token_embd"]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


class Index:
    """A package index with one wheel."""

    def __init__(self, content: bytes, member: str = "some_package/tiny.gguf"):
        self.content, self.member = content, member
        self.requirements = []

    def fetch(self, requirement, folder, progress):
        progress(f"downloading {requirement}")
        self.requirements.append(requirement)
        folder.mkdir(parents=True, exist_ok=True)
        wheel = folder / "some_package-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(self.member, self.content)
            archive.writestr("some_package/__init__.py", "raise SystemExit('imported')")
        return wheel


@pytest.fixture
def packaged(gguf_file, monkeypatch):
    sha256 = hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    model = PackagedModel("tiny", "some-package==1.0", "tiny.gguf", sha256)
    monkeypatch.setitem(PACKAGED_MODELS, "tiny", model)
    return model


def leftovers(cache):
    return list(cache.rglob(".partial-*"))


def never(*_arguments):
    raise AssertionError("nothing is to be fetched")


def test_a_folder_is_taken_as_it_is(tmp_path):
    folder = make_toy_model(tmp_path / "toy")
    assert resolve(str(folder), cache=tmp_path / "cache") == ModelFiles(folder, "toy")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(tmp_path, lost):
    folder = make_toy_model(tmp_path / "toy")
    (folder / lost).unlink()
    with pytest.raises(UnsupportedModelError) as caught:
        resolve(str(folder))
    assert caught.value.reason == "WEIGHTS_MISSING"


@pytest.mark.parametrize("source", ["", "no-such-model", "/no/such/folder", "a/b/c"])
def test_what_cannot_be_a_model_is_refused_without_asking_the_hub(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequestError) as caught:
        resolve(source or "./missing", cache=tmp_path, fetch_snapshot=never)
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_a_hub_id_is_fetched_from_the_hub(tmp_path):
    folder = make_toy_model(tmp_path / "snapshot")
    asked = []

    def fetch_snapshot(model_id, progress):
        asked.append(model_id)
        return folder

    files = resolve("Org/Name-1.7B@main", cache=tmp_path, fetch_snapshot=fetch_snapshot)
    assert files == ModelFiles(folder, "Org/Name-1.7B")
    assert asked == ["Org/Name-1.7B@main"]


def test_a_gguf_file_is_converted_once_and_loads(tmp_path, gguf_file):
    messages = []
    files = resolve(str(gguf_file), messages.append, cache=tmp_path)
    first = (files.folder / "model.safetensors").stat()
    assert any("converting" in message for message in messages)
    messages.clear()
    assert resolve(str(gguf_file), messages.append, cache=tmp_path) == files
    assert (files.folder / "model.safetensors").stat() == first
    assert not any("converting" in message for message in messages)
    assert not leftovers(tmp_path)
    loaded = load_model(files.folder)
    assert (loaded.num_layers, loaded.num_kv_heads, loaded.head_dim) == (1, 2, HEAD_DIM)
    embedding = loaded.module.get_input_embeddings().weight.numpy()
    np.testing.assert_array_equal(embedding, write_gguf(tmp_path / "again.gguf"))


def test_the_digit_rule_of_smollm_survives_the_conversion(tmp_path, gguf_file):
    files = resolve(str(gguf_file), cache=tmp_path)
    tokenizer = Tokenizer.from_json((files.folder / "tokenizer.json").read_text())
    texts = [tokenizer.decode([token_id]) for token_id in tokenizer.encode("a 12")]
    assert texts == ["a", " ", "1", "2"]


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "fake.gguf").write_bytes(b"not at all")
    with pytest.raises(UnsupportedModelError) as caught:
        resolve(str(tmp_path / "fake.gguf"), cache=tmp_path / "cache")
    assert caught.value.reason == "WEIGHTS_CORRUPT"


def test_a_gguf_file_cut_short_is_refused_and_leaves_nothing(tmp_path, gguf_file):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf_file.read_bytes()[:2000])
    with pytest.raises(UnsupportedModelError):
        resolve(str(cut), cache=tmp_path / "cache")
    assert not leftovers(tmp_path)
    assert not list((tmp_path / "cache" / "models").glob("cut-*"))


def test_a_packaged_model_is_downloaded_checked_converted_and_kept(tmp_path, gguf_file, packaged):
    index, messages = Index(gguf_file.read_bytes()), []
    files = resolve("tiny", messages.append, cache=tmp_path, fetch_package=index.fetch)
    assert files.name == "tiny"
    assert index.requirements == ["some-package==1.0"]
    assert [message.split()[0] for message in messages] == [
        "downloading",
        "unpacking",
        "converting",
    ]
    assert json.loads((files.folder / "config.json").read_text())["model_type"] == "llama"
    assert resolve("TINY", cache=tmp_path, fetch_package=never) == files
    assert not leftovers(tmp_path)


def test_a_download_that_is_there_is_not_fetched_again(tmp_path, gguf_file, packaged):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "tiny.gguf").write_bytes(gguf_file.read_bytes())
    assert resolve("tiny", cache=tmp_path, fetch_package=never).folder.is_dir()


def test_a_damaged_download_is_fetched_again(tmp_path, gguf_file, packaged):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "tiny.gguf").write_bytes(b"GGUF, but cut short")
    index = Index(gguf_file.read_bytes())
    assert resolve("tiny", cache=tmp_path, fetch_package=index.fetch).folder.is_dir()


@pytest.mark.parametrize(
    "index", [Index(b"GGUF of somebody else"), Index(b"GGUF", "other.gguf")], ids=["hash", "name"]
)
def test_a_package_with_other_content_is_refused_and_leaves_nothing(tmp_path, packaged, index):
    with pytest.raises(UnsupportedModelError) as caught:
        resolve("tiny", cache=tmp_path, fetch_package=index.fetch)
    assert caught.value.reason == "WEIGHTS_CORRUPT"
    assert not leftovers(tmp_path)
    assert not list((tmp_path / "models").glob("tiny-*"))


def test_a_failed_download_can_be_tried_again(tmp_path, gguf_file, packaged):
    def offline(*_arguments):
        raise UnavailableError("no network", reason="WEIGHTS_UNAVAILABLE")

    with pytest.raises(UnavailableError):
        resolve("tiny", cache=tmp_path, fetch_package=offline)
    index = Index(gguf_file.read_bytes())
    assert resolve("tiny", cache=tmp_path, fetch_package=index.fetch).folder.is_dir()


def test_of_two_that_start_at_once_one_fetches_and_the_other_waits(tmp_path, gguf_file, packaged):
    index = Index(gguf_file.read_bytes())
    is_fetching, may_go_on, is_waiting = (threading.Event() for _ in range(3))
    results = []

    def slow_fetch(*arguments):
        is_fetching.set()
        assert may_go_on.wait(30)
        return index.fetch(*arguments)

    def note(message):
        if "another process" in message:
            is_waiting.set()

    def run(fetch):
        results.append(resolve("tiny", note, cache=tmp_path, fetch_package=fetch))

    first = threading.Thread(target=run, args=[slow_fetch])
    first.start()
    assert is_fetching.wait(30)
    second = threading.Thread(target=run, args=[never])
    second.start()
    assert is_waiting.wait(30)
    may_go_on.set()
    first.join(60)
    second.join(60)
    assert len(results) == 2
    assert results[0] == results[1]
    assert index.requirements == ["some-package==1.0"]


def die_while_fetching(cache):
    def fetch(_requirement, folder, _progress):
        folder.mkdir(parents=True)
        (folder / "half.whl").write_bytes(b"half a wheel")
        os.kill(os.getpid(), signal.SIGKILL)

    resolve("default", cache=cache, fetch_package=fetch)


def test_a_process_that_dies_leaves_neither_a_lock_nor_a_half_model(
    tmp_path, gguf_file, monkeypatch
):
    child = multiprocessing.get_context("spawn").Process(target=die_while_fetching, args=[tmp_path])
    child.start()
    child.join(120)
    assert child.exitcode == -9
    assert leftovers(tmp_path)
    sha256 = hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    names = (SMOLLM2_135M_INSTRUCT.name, SMOLLM2_135M_INSTRUCT.requirement, "tiny.gguf")
    monkeypatch.setitem(PACKAGED_MODELS, "default", PackagedModel(*names, sha256))
    index = Index(gguf_file.read_bytes())
    assert resolve("default", cache=tmp_path, fetch_package=index.fetch).folder.is_dir()


@pytest.mark.parametrize("source", ["", " "])
def test_no_name_is_not_the_current_folder(tmp_path, monkeypatch, source):
    monkeypatch.chdir(make_toy_model(tmp_path / "toy"))
    with pytest.raises(InvalidRequestError) as caught:
        resolve(source)
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert resolve(".").name == "toy"
