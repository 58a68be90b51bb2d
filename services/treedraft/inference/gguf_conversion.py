"""Turns a GGUF file into a folder that transformers loads quickly.

The weights are unpacked to float32, which holds every value that a quantised
file can express, so the conversion loses nothing; reading the folder takes a
tenth of the time of reading the GGUF file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.gguf_magic import check_gguf


def convert_gguf(file: Path, folder: Path) -> None:
    """Write config, float32 safetensors and tokenizer of a GGUF file into a folder.

    Raises:
        UnsupportedModelError: transformers cannot read it: an architecture or a
            quantisation that it does not know, or a damaged file.
    """
    check_gguf(file)
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        with without_progress_bars():
            _load_tokenizer(source, file).save_pretrained(folder)
            module = AutoModelForCausalLM.from_pretrained(
                **source,
                dtype=torch.float32,
                # Without it the model counts as quantised and cannot be saved.
                quantization_config=GgufConfig(dequantize=True),
            )
            module.save_pretrained(folder)
    except Exception as error:  # three libraries read the file, each with errors of its own
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk is no fault of the file; transformers' own OSErrors have no errno
        raise UnsupportedModelError(f"{file.name} cannot be converted: {error}") from error


def _load_tokenizer(source: dict[str, str], file: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(**source)
    rules = GGUFReader(file).get_field("tokenizer.ggml.pre")
    if rules is not None and rules.contents() == "smollm":
        # transformers drops this rule of the file: digits are split one by one,
        # before spaces are joined to what follows them.
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    return tokenizer


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep the bars of transformers off standard error; ours is a callback."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
