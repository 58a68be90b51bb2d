"""The same weights as GGUF files of other types, for engines that read nothing else.

What a quantised file holds is unpacked to float32 first, exactly as treedraft
and transformers do it, and only then written as another type. So the F32 file
holds the very numbers that they compute with.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, quants
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]

_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}


def export_model(source: Path, file: Path, type_name: str) -> Path:
    """Write the tensors of a GGUF file as another type: F32, F16, BF16 or Q8_0."""
    reader = GGUFReader(source)
    weights = {
        tensor.name: quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors
    }
    return _write(reader, weights, file, type_name)


def _write(reader: GGUFReader, weights: Weights, file: Path, type_name: str) -> Path:
    """Write weights with the fields of another file, under another name until all is there."""
    partial = file.with_name(f".partial-{file.name}")
    writer = GGUFWriter(partial, _contents(reader, "general.architecture"))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        is_type = name == "general.file_type"
        value = _FILE_TYPES[type_name].value if is_type else field.contents()
        kind = field.types[0]
        element = field.types[-1] if kind is GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, sub_type=element)
    kind_of_matrices = GGMLQuantizationType[type_name]
    for name, tensor in weights.items():
        if tensor.ndim == 1:  # norms are float32 in every file
            writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
            continue
        data = quants.quantize(np.ascontiguousarray(tensor), kind_of_matrices)
        writer.add_tensor(name, data, raw_dtype=kind_of_matrices)
    steps: tuple[Callable[[], None], ...] = (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    )
    for step in steps:
        step()
    return partial.replace(file)


def _contents(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    if field is None:
        raise ValueError(f"a GGUF file without {name}")
    return field.contents()
