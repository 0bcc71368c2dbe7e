"""From the weights of a file, one matrix a layer, to the tree of parameters and back."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxml import checks
from jaxml.files.errors import DataError
from jaxml.models.llama.config import LlamaConfig
from jaxml.models.llama.decoder import Params, parameter_shapes
from jaxml.models.llama.sharding import parameter_shardings

HUGGING_FACE = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "attention_norm": "model.layers.{}.input_layernorm.weight",
    "mlp_norm": "model.layers.{}.post_attention_layernorm.weight",
    **{x: f"model.layers.{{}}.self_attn.{x}_proj.weight" for x in ("q", "k", "v", "o")},
    **{f"{x}_bias": f"model.layers.{{}}.self_attn.{x}_proj.bias" for x in ("q", "k", "v")},
    **{x: f"model.layers.{{}}.mlp.{x}_proj.weight" for x in ("gate", "up", "down")},
}
GGUF = {
    "embed": "token_embd.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
    "attention_norm": "blk.{}.attn_norm.weight",
    "mlp_norm": "blk.{}.ffn_norm.weight",
    **{x: f"blk.{{}}.attn_{x}.weight" for x in ("q", "k", "v")},
    **{f"{x}_bias": f"blk.{{}}.attn_{x}.bias" for x in ("q", "k", "v")},
    "o": "blk.{}.attn_output.weight",
    **{x: f"blk.{{}}.ffn_{x}.weight" for x in ("gate", "up", "down")},
}


def assemble(
    read: Callable[[str], np.ndarray],
    available: Collection[str],
    names: Mapping[str, str],
    config: LlamaConfig,
    *,
    source: str,
    dtype: Any,
    mesh: Mesh | None = None,
) -> Params:
    """Return the tree of parameters of a file's weights, put on the devices one by one.

    Args:
      read: from a name in the file to a numpy array, matrices `[out, in]`.
      available: names in the file.
      names: from ours to the file's, `{}` for the number of a layer.
      config: shape of the decoder.
      source: file, for messages.
      dtype: of the result.
      mesh: to lay the parameters out on; the default device without.

    Raises:
      DataError: a weight is missing, has another shape than the configuration asks for, or
        has no place in the decoder.
    """
    shapes = parameter_shapes(config)
    if config.num_layers > len(available):
        raise DataError(
            f"{source}: {len(available)} weights cannot be of {config.num_layers} layers"
        )
    used = {name for _, name in _file_names(config, names)}
    missing = sorted(used - set(available))
    if missing:
        raise DataError(f"{source}: {_some(missing)} missing, which the configuration asks for")
    # Tables of the rotary embedding, and a copy of a tied head, hold nothing new.
    surplus = {name for name in set(available) - used if not name.endswith("inv_freq")}
    surplus -= {names["head"], "rope_freqs.weight"}
    if surplus:
        raise DataError(f"{source}: {_some(sorted(surplus))} without a place in {config}")

    def load(name, shape):
        array = read(name)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise DataError(f"{source}: {name} is {array.dtype}; accepted are floating numbers")
        array = array.T if array.ndim == 2 and name != names["embed"] else array
        if array.shape != shape:
            raise DataError(
                f"{source}: {name} has shape {array.shape}, the configuration gives {shape}"
            )
        return array

    def leaf(name, shape):
        # A number too large for the type is infinite in it, with or without a warning.
        with np.errstate(over="ignore"):
            if "{}" not in name:
                return load(name, shape).astype(dtype, copy=False)
            first = load(name.format(0), shape[1:])
            array = np.empty(shape, dtype)
            array[0] = first
            for i in range(1, config.num_layers):
                array[i] = load(name.format(i), shape[1:])
            return array

    places = {} if mesh is None else _flat(parameter_shardings(config, mesh))
    flat = {
        name: jax.device_put(leaf(names[name], shape), places.get(name))
        for name, shape in _flat(shapes).items()
    }
    return {
        name: {own: flat[own] for own in shape} if name == "layers" else flat[name]
        for name, shape in shapes.items()
    }


def disassemble(
    params: Params, config: LlamaConfig, names: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Return the weights under a file's names, matrices `[out, in]`.

    Raises:
      ValueError: the parameters are not those of the configuration.
    """
    shapes = parameter_shapes(config)
    own = jax.tree.map(lambda leaf: leaf.shape, params)
    if own != shapes:
        raise checks.refused("params", own, f"shapes {shapes}, as the configuration asks for")

    def outward(name, array):
        turned = array.T if array.ndim == 2 and name != "embed" else array
        return np.ascontiguousarray(turned)

    host = {name: np.asarray(leaf) for name, leaf in _flat(params).items()}
    return {
        path: outward(name, host[name][i] if "{}" in names[name] else host[name])
        for (name, i), path in _file_names(config, names)
    }


def _file_names(
    config: LlamaConfig, names: Mapping[str, str]
) -> Iterator[tuple[tuple[str, int], str]]:
    for name in _flat(parameter_shapes(config)):
        for i in range(config.num_layers if "{}" in names[name] else 1):
            yield (name, i), names[name].format(i)


def _flat(tree: Params) -> dict[str, Any]:
    return {**{name: leaf for name, leaf in tree.items() if name != "layers"}, **tree["layers"]}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
