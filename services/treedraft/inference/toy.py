"""Small models with real architectures, for tests and trials without a download.

A toy has random weights, but in every other respect it is a model like any
other: a folder with config, safetensors and tokenizer that `load_model` takes.
Its logits are spread so that the best token wins clearly, it attends far
back, and it hardly ever ends a text by itself.

`noise_of` gives an imperfect drafter of the same tokenizer, `truncate_model` a
weak and honest one: the first layers of a model, under its own head.
"""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

Architecture = Literal["llama", "qwen2"]

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
_SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

# ChatML, without a system message of its own.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "A draft model grows a tree of likely continuations; the target model checks them all.",
    "In the beginning there was a word, and the word was followed by another word.",
    "What is the capital of France? The capital of France is Paris, and it is on the Seine.",
    "def fibonacci(number):\n    if number < 2:\n        return number\n",
    "    return fibonacci(number - 1) + fibonacci(number - 2)\n",
    "for index in range(10):\n    print(index, index * index)\n",
    "user\nassistant\nsystem\nHello! How are you today? I am fine, thank you. And you?",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10; 2026-11-23; 3.14159 and 2.71828.",
    "Ein kleiner Satz über größere Dinge. Ça va très bien, merci. 日本語の文章もあります。",
)

_HEAD_SPREAD = 3.0  # standard deviation of the logits of a token
_NUM_HEADS = 4
_NUM_KV_HEADS = 2
_CONTEXT_LENGTH = 2048
_CONFIG_CLASSES = {"llama": LlamaConfig, "qwen2": Qwen2Config}
_MODEL_CLASSES = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}


def make_toy_model(
    folder: Path,
    *,
    architecture: Architecture = "llama",
    seed: int = 0,
    layers: int = 2,
    hidden: int = 32,
    vocab: int = 512,
    noise_of: Path | None = None,
    noise: float = 0.0,
) -> Path:
    """Save a toy model and return its folder.

    Args:
        folder: where to; made if needed, files in it are overwritten.
        architecture: whose layers to use.
        seed: of the weights, or of the noise.
        layers: number of layers.
        hidden: width of the residual stream, a multiple of 8.
        vocab: rows of embedding and head, at least 320. The tokenizer has as
            many tokens, or what the built-in text yields (about 640); equal
            numbers give equal tokenizers.
        noise_of: another toy to copy, with its tokenizer; the four arguments
            above are then ignored.
        noise: standard deviation of the noise on the copied weights, as a share
            of that of each tensor. At 0.1 the best tokens agree in about two
            of three places, at 0.3 in one of four.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    if noise_of is not None:
        _copy_with_noise(noise_of, folder, noise, generator)
        return folder
    module = _make_module(architecture, layers, hidden, vocab)
    _draw_weights(module, generator)
    module.config.save_pretrained(folder)
    _save_weights(module.state_dict(), folder)
    _make_tokenizer(vocab).save_pretrained(folder)
    return folder


def truncate_model(source_folder: Path, folder: Path, layers: int) -> Path:
    """Save the first layers of a model, with its embedding, norm and head.

    Args:
        source_folder: a model as safetensors, as `weights.resolve` returns it.
        folder: where to; made if needed.
        layers: how many layers to keep, at least 1 and at most what there is.

    Raises:
        ValueError: the model has fewer layers.
    """
    config = json.loads((source_folder / "config.json").read_text())
    if not 1 <= layers <= config["num_hidden_layers"]:
        raise ValueError(f"cannot take {layers} of {config['num_hidden_layers']} layers")
    config["num_hidden_layers"] = layers
    if config.get("layer_types"):
        config["layer_types"] = config["layer_types"][:layers]
    _copy_all_but_weights(source_folder, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    kept = {
        name: tensor
        for name, tensor in _load_weights(source_folder).items()
        if _layer_of(name) < layers
    }
    _save_weights(kept, folder)
    return folder


def _layer_of(tensor_name: str) -> int:
    """Return the layer of a tensor, -1 for those of no layer."""
    found = re.search(r"\.(?:layers|h)\.(\d+)\.", tensor_name)
    return int(found[1]) if found else -1


def _make_module(
    architecture: Architecture, layers: int, hidden: int, vocab: int
) -> PreTrainedModel:
    tokens: dict[str, Any] = {
        "bos_token_id": _SPECIAL_TOKENS.index(END_OF_TEXT),
        "eos_token_id": _SPECIAL_TOKENS.index(TURN_END),
        "pad_token_id": _SPECIAL_TOKENS.index(END_OF_TEXT),
    }
    config = _CONFIG_CLASSES[architecture](
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=_NUM_HEADS,
        num_key_value_heads=_NUM_KV_HEADS,
        max_position_embeddings=_CONTEXT_LENGTH,
        tie_word_embeddings=False,
        **tokens,
    )
    model_class: type[PreTrainedModel] = _MODEL_CLASSES[architecture]
    config.architectures = [model_class.__name__]
    return model_class(config)


@torch.no_grad()
def _draw_weights(module: PreTrainedModel, generator: torch.Generator) -> None:
    """Draw weights at which every layer matters and the best token wins clearly.

    Matrices get a variance of 1 / fan-in, which keeps activations at unit size;
    the head a larger one. Its rows for special tokens are zero, so that these
    are hardly ever drawn. Norms keep their ones.
    """
    for name, parameter in module.named_parameters():
        if name.endswith("embed_tokens.weight"):
            parameter.normal_(generator=generator)
        elif parameter.ndim == 2:
            spread = _HEAD_SPREAD if name == "lm_head.weight" else 1.0
            std = spread / math.sqrt(parameter.shape[1])
            parameter.normal_(std=std, generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(std=0.1, generator=generator)
    module.get_parameter("lm_head.weight")[: len(_SPECIAL_TOKENS)] = 0.0


def _make_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of up to `vocab` tokens on the built-in text."""
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(token, special=True) for token in _SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    fast.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast,
        bos_token=END_OF_TEXT,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _copy_with_noise(
    source_folder: Path, folder: Path, noise: float, generator: torch.Generator
) -> None:
    _copy_all_but_weights(source_folder, folder)
    noisy = {}
    for name, tensor in sorted(_load_weights(source_folder).items()):
        std = noise * float(tensor.std()) if tensor.ndim == 2 else 0.0
        noisy[name] = tensor + std * torch.randn(tensor.shape, generator=generator)
    _save_weights(noisy, folder)


def _copy_all_but_weights(source_folder: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in source_folder.iterdir():
        if path.is_file() and ".safetensors" not in path.name:
            shutil.copy2(path, folder / path.name)


def _load_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(path))
    return weights


def _save_weights(weights: dict[str, torch.Tensor], folder: Path) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
