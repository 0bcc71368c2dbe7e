"""A language model of the user's: parameters, configuration and tokenizer from one place."""

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxml.extras import extra
from jaxml.files.write import write_whole
from jaxml.models import llama

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
# No code, and no pickled weights.
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "tokenizer.model")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Model:
    """A language model with its tokenizer; parameters are its leaves.

    Attributes:
      params: tree of the parameters, as of `jaxml.models.llama.load`.
      config: shape of the decoder.
      tokenizer: one of transformers, or with its `encode` and `decode`; None serves where all
        texts are tokens already. Compiled programs know it by the object.
    """

    params: PyTree
    config: llama.LlamaConfig = dataclasses.field(metadata={"static": True})
    tokenizer: Any = dataclasses.field(metadata={"static": True})


def load(
    path: str | Path,
    *,
    dtype: jax.typing.DTypeLike | None = None,
    mesh: Mesh | None = None,
    download: bool = False,
) -> Model:
    """Return a language model with its tokenizer: Llama, Mistral or Qwen2.

    Args:
      path: folder of Hugging Face with weights in safetensors, a `.gguf` file, or the name of a
        model of the Hugging Face hub, "owner/name", that lies in the hub's cache.
      dtype: of the parameters; as stored by default, float32 from GGUF. Train in float32: steps
        of unlearning are lost in the rounding of half precision.
      mesh: lay the parameters out on it as of `jaxml.models.llama.parameter_shardings`.
      download: fetch a model of the hub that its cache lacks; nothing is fetched by default.

    Returns:
      The model; its parameters are on the default device, or on `mesh`.

    Raises:
      FileNotFoundError: there is no such folder, file or model, or no file in the folder.
      DataError: a file is damaged, there is no tokenizer, it has more tokens than the model, or
        the model is of another family.
    """
    place = Path(path)
    if not place.exists() and _HUB_NAME.fullmatch(str(path)):
        place = _snapshot(str(path), download)
    loaded = llama.load(place, dtype=dtype, mesh=mesh)
    return Model(loaded.params, loaded.config, llama.load_tokenizer(place, loaded.config))


def save(folder: str | Path, model: Model) -> None:
    """Write a model and its tokenizer, which transformers and `load` read.

    Every file is written whole before it replaces an older one.

    Args:
      folder: made where it is missing; files of other names in it stay.
      model: with parameters on any devices of this process; a tokenizer that has no
        `save_pretrained` is left out.

    Raises:
      ValueError: the parameters are not those of the configuration.
      OSError: a file cannot be written, such as on a full disk.
    """
    folder = Path(folder)
    llama.save(folder, model.params, model.config)
    if not hasattr(model.tokenizer, "save_pretrained"):
        return
    with tempfile.TemporaryDirectory() as scratch:
        model.tokenizer.save_pretrained(scratch)
        for file in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            write_whole(folder / file.relative_to(scratch), file.read_bytes())


def not_finite(params: PyTree) -> str | None:
    """Return the path of a leaf of parameters that holds NaN or infinity; None if none does.

    Args:
      params: of a decoder.
    """
    for path, finite in jax.tree_util.tree_leaves_with_path(_finite(params)):
        if not finite:
            return jax.tree_util.keystr(path)
    return None


@jax.jit
def _finite(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), params)


def _snapshot(name: str, download: bool) -> Path:
    """Return the folder of a model of the hub."""
    with extra("unlearning"):
        from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=list(_HUB_FILES), local_files_only=not download)
        )
    # Whatever the network raises.
    except Exception as error:
        reason = (
            f"could not be fetched: {error}" if download else f"`hf download {name}` fetches it"
        )
        raise FileNotFoundError(
            f"{name}: no such folder or GGUF file, and not in the cache of the Hugging Face hub; "
            f"{' '.join(reason.split())}"
        ) from error
