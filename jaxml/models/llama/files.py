"""Decoders from files and to files: folders of Hugging Face, and GGUF."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxml.extras import extra
from jaxml.files.errors import DataError, check_permission, unreadable
from jaxml.files.strict_json import parse_json
from jaxml.files.write import whole_file
from jaxml.models.llama.assemble import GGUF, HUGGING_FACE, assemble, disassemble
from jaxml.models.llama.config import LlamaConfig, from_hugging_face, to_hugging_face
from jaxml.models.llama.decoder import Params
from jaxml.models.llama.gguf_file import open_gguf

_FILE_OF_WEIGHTS = re.compile(r"\w[\w.+-]{0,200}\.safetensors", re.ASCII)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Llama:
    """A decoder from a file.

    Attributes:
      params: tree of the parameters.
      config: shape of the decoder.
    """

    params: Params
    config: LlamaConfig = dataclasses.field(metadata={"static": True})


def load(
    path: str | Path, *, dtype: jax.typing.DTypeLike | None = None, mesh: Mesh | None = None
) -> Llama:
    """Return the decoder in a Hugging Face folder of safetensors, or in a GGUF file.

    Args:
      path: folder with `config.json` and `model.safetensors`, or its index and parts; or a
        `.gguf` file, whose quantized weights are expanded.
      dtype: of the parameters; as stored by default, float32 from GGUF.
      mesh: lay the parameters out on it as of `parameter_shardings`.

    Raises:
      FileNotFoundError: there is no such folder or file in it.
      DataError: a file is damaged, the architecture is none of llama, mistral and qwen2, the
        weights do not fit the configuration, or the index names a file outside of the folder.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or GGUF file")
    if path.is_file():
        config, read, names = open_gguf(path)
        kind = "float32" if dtype is None else dtype
        return Llama(
            assemble(read, names, GGUF, config, source=str(path), dtype=kind, mesh=mesh), config
        )
    values = _read_json(path / "config.json")
    try:
        config = from_hugging_face(values)
    except ValueError as error:
        raise DataError(f"{path / 'config.json'}: {error}") from error
    files = _files_of_weights(path)
    read = _reader(path, files)
    kind = read(HUGGING_FACE["embed"]).dtype if dtype is None else dtype
    params = assemble(read, files, HUGGING_FACE, config, source=str(path), dtype=kind, mesh=mesh)
    return Llama(params, config)


def save(path: str | Path, params: Params, config: LlamaConfig) -> None:
    """Write `config.json` and `model.safetensors`, which transformers and `load` read.

    Both are written whole before they replace older ones.

    Args:
      path: folder, made where it is missing; files of other names in it stay.
      params: as of `init` or `load`, on any devices of this process.
      config: shape of the decoder.

    Raises:
      ValueError: the parameters are not those of the configuration, or a window that the
        architecture's files cannot tell.
      OSError: a file cannot be written, such as on a full disk.
    """
    with extra("unlearning"):
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

    weights = disassemble(params, config, HUGGING_FACE)
    text = json.dumps(to_hugging_face(config, str(params["embed"].dtype)), indent=2)
    path = Path(path)
    whole = whole_file(path / "config.json"), whole_file(path / "model.safetensors")
    try:
        with whole[0] as config_file, whole[1] as weights_file:
            config_file.write_text(text + "\n")
            save_file(weights, weights_file, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
    # The index of a model in parts would come first for others.
    (path / "model.safetensors.index.json").unlink(missing_ok=True)


def load_tokenizer(path: str | Path, config: LlamaConfig) -> Any:
    """Return the tokenizer beside the weights, one of transformers.

    Args:
      path: as for `load`.
      config: shape of the decoder it is to feed.

    Raises:
      FileNotFoundError: there is no such folder or file.
      DataError: there is no tokenizer, or it has more tokens than the decoder.
    """
    with extra("unlearning"):
        from transformers import AutoTokenizer

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or GGUF file")
    folder, more = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
    try:
        # A folder may name code of its own as its tokenizer.
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **more
        )
    # The package tokenizers raises Exception itself.
    except Exception as error:
        raise DataError(f"{path}: no tokenizer that transformers can read: {error}") from error
    if len(tokenizer) > config.vocab_size:
        raise DataError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, the decoder {config.vocab_size}"
        )
    return tokenizer


def _reader(folder: Path, files: dict[str, str]) -> Callable[[str], np.ndarray]:
    """Return a function from a name to the weight; each file is opened once."""
    from safetensors import SafetensorError

    opened = functools.cache(_open_safetensors)

    def read(name: str) -> np.ndarray:
        if name not in files:
            raise DataError(f"{folder}: {name} missing")
        path = folder / files[name]
        file = opened(path)
        if name not in file.keys():
            raise DataError(f"{path}: {name} missing, against the index")
        try:
            return file.get_tensor(name)
        # Of types that numpy lacks.
        except (AttributeError, SafetensorError, TypeError) as error:
            raise DataError(f"{path}: {name} is not readable: {error}") from error

    return read


def _files_of_weights(folder: Path) -> dict[str, str]:
    """Return the file of each weight."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = _read_json(index).get("weight_map")
        if not isinstance(files, dict):
            raise DataError(f"{index}: no weight_map")
        for file in files.values():
            # A name and no path: what lies elsewhere is not part of the folder.
            if not isinstance(file, str) or not _FILE_OF_WEIGHTS.fullmatch(file):
                raise DataError(f"{index}: file {file!r}; accepted are NAME.safetensors beside it")
        return files
    whole = folder / "model.safetensors"
    return dict.fromkeys(_open_safetensors(whole).keys(), whole.name)


def _open_safetensors(path: Path) -> Any:
    with extra("unlearning"):
        from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; accepted are weights in safetensors")
    check_permission(path)
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: truncated, or not safetensors: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        values = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, error, what="not JSON", accepted="give an object") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: not an object of JSON")
    return values
