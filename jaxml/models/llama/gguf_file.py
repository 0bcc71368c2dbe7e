"""Weights and shape of a decoder in a GGUF file, the format of llama.cpp."""

import dataclasses
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from jaxml import checks
from jaxml.extras import extra
from jaxml.files.errors import DataError, check_permission
from jaxml.models.llama.config import LlamaConfig, Scaling
from jaxml.models.llama.rope import frequencies

_ARCHITECTURES = ("llama", "qwen2")
# Numbers and texts of a header, each of which the reader holds as an array of its own; with a
# vocabulary of 256 thousand tokens there are 2 million.
_MOST_PARTS = 2**23


def open_gguf(
    path: Path,
) -> tuple[LlamaConfig, Callable[[str], np.ndarray], Collection[str]]:
    """Return the shape, a function from a name to the weight in float32, and the names.

    Args:
      path: of the file.

    Raises:
      DataError: the file is damaged, or its architecture is neither llama (Mistral is one
        there) nor qwen2.
    """
    with extra("unlearning"):
        from gguf.quants import dequantize

    reader = _reader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(name: str) -> np.ndarray:
        try:
            # Blocks of damaged scales are not numbers, and no reason for a warning.
            with np.errstate(all="ignore"):
                return dequantize(tensors[name].data, tensors[name].tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise DataError(f"{path}: {name} is not readable: {error}") from error

    try:
        config = _config(reader, tensors)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if "rope_freqs.weight" in tensors:
        config = _with_llama3(path, config, read("rope_freqs.weight"))

    def weight(name: str) -> np.ndarray:
        array = read(name)
        part = name.split(".")[-2]
        if config.architecture != "qwen2" and part in ("attn_q", "attn_k"):
            return _halves_apart(
                array, config.num_heads if part == "attn_q" else config.num_kv_heads
            )
        return array

    return config, weight, tensors.keys()


def _reader(path: Path) -> Any:
    with extra("unlearning"):
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

    class Reader(GGUFReader):
        parts = 0

        def _get(self, offset, dtype, count=1, override_order=None):
            # The reader goes on past the end of the file, for as long as a count says.
            if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise DataError("it ends before what its header says")
            self.parts += 1
            if self.parts > _MOST_PARTS:
                raise DataError(f"a header of more than {_MOST_PARTS} numbers and texts")
            return super()._get(offset, dtype, count, override_order)

        def _build_tensors(self, start_offs, fields):
            # The reader counts in 64 bits: a place beyond them would be one in the header.
            for field in fields:
                _, name, _, sides, kind, offset = field.parts
                block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind[0])]
                count = math.prod(map(int, sides))
                end = int(start_offs) + int(offset[0]) + -(-count // block) * size
                if end > len(self.data):
                    title = bytes(name[:80]).decode(errors="replace")
                    raise DataError(f"{title} would end at byte {end} of {len(self.data)}")
            super()._build_tensors(start_offs, fields)

    check_permission(path)
    try:
        reader = Reader(path)
    except (ValueError, IndexError, KeyError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: truncated, or not GGUF: {error}") from error
    if reader.byte_order != "I":
        raise DataError(f"{path}: GGUF of another byte order; accepted is that of this machine")
    return reader


def _config(reader: Any, tensors: Any) -> LlamaConfig:
    def value(name: str, default: Any = None) -> Any:
        field = reader.get_field(name)
        if field is None and default is None:
            raise DataError(f"{name} missing")
        return default if field is None else field.contents()

    def number(name: str, default: Any = None, *, whole: bool = True) -> Any:
        stored = value(name, default)
        if isinstance(stored, bool) or not isinstance(stored, int if whole else int | float):
            raise checks.refused(name, stored, "a whole number" if whole else "a number")
        return stored

    def decimal(name: str, default: Any = None) -> float:
        return _decimal(number(name, default, whole=False))

    kind = value("general.architecture")
    checks.choice(_ARCHITECTURES, architecture=kind)
    heads, width = number(f"{kind}.attention.head_count"), number(f"{kind}.embedding_length")
    head_dim = number(f"{kind}.attention.key_length", width // max(heads, 1))
    turning = number(f"{kind}.rope.dimension_count", head_dim)
    if turning != head_dim:
        raise DataError(f"{turning} of {head_dim} components turn; accepted is all")
    window = number(f"{kind}.attention.sliding_window", 0) or None
    if "token_embd.weight" not in tensors:
        raise DataError("token_embd.weight missing")
    embed = tensors["token_embd.weight"].shape
    if len(embed) != 2:
        raise DataError(f"token_embd.weight has {len(embed)} axes; accepted are 2")
    return LlamaConfig(
        vocab_size=int(embed[1]),
        hidden_size=width,
        num_layers=number(f"{kind}.block_count"),
        num_heads=heads,
        num_kv_heads=number(f"{kind}.attention.head_count_kv", heads),
        head_dim=head_dim,
        intermediate_size=number(f"{kind}.feed_forward_length"),
        tie_embeddings="output.weight" not in tensors,
        epsilon=decimal(f"{kind}.attention.layer_norm_rms_epsilon"),
        rope_theta=decimal(f"{kind}.rope.freq_base", 10000.0),
        scaling=_scaling(kind, value, decimal),
        window=window,
        architecture="mistral" if kind == "llama" and window else kind,
        length=number(f"{kind}.context_length", 2048),
    )


def _scaling(kind: str, value: Any, decimal: Any) -> Scaling | None:
    scaling = value(f"{kind}.rope.scaling.type", "none")
    if scaling == "none":
        return None
    checks.choice(("none", "linear"), scaling=scaling)
    return Scaling("linear", decimal(f"{kind}.rope.scaling.factor"))


def _with_llama3(path: Path, config: LlamaConfig, divisors: np.ndarray) -> LlamaConfig:
    """The file holds what the frequencies are divided by, and not the numbers it came from."""
    error = DataError(f"{path}: rope_freqs.weight is not that of Llama 3")
    if divisors.shape != (config.head_dim // 2,):
        raise error
    scaled = dataclasses.replace(config, scaling=Scaling("llama3", float(divisors.max())))
    with np.errstate(all="ignore"):
        expected = frequencies(config) / frequencies(scaled)
        if not np.allclose(divisors, expected, rtol=1e-4):
            raise error
    return scaled


def _halves_apart(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's order of rows, in which the two components of a pair are neighbours."""
    pairs = matrix.reshape(heads, -1, 2, matrix.shape[-1])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)


def _decimal(single: float) -> float:
    """Return the short decimal number that was rounded to float32: 1e-5, not 9.99999975e-6."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(single)))
