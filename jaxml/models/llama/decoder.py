"""The decoder of the Llama family as pure functions on a tree of parameters.

Parameters are `{"embed": [vocabulary, width], "layers": {name: [layer, ...]}, "norm": [width]}`
and, unless it is tied, `"head": [width, vocabulary]`. Matrices of a layer are `[in, out]`: "q",
"k", "v", "o", "gate", "up", "down"; its norms are "attention_norm" and "mlp_norm"; Qwen2 adds
"q_bias", "k_bias" and "v_bias". A slice of the layers is a decoder of fewer layers.

Touvron et al., "LLaMA: open and efficient foundation language models" (2023).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Integer, Key

from jaxml import checks
from jaxml.models.llama.config import LlamaConfig
from jaxml.models.llama.rope import rotate, rotation
from jaxml.precision import at_least_single
from jaxml.tracing import is_concrete

Params = dict[str, Any]
Layers = dict[str, Array]

# A loop stacks what its gradient needs, a tenth of the time; more layers compile for too long.
UNROLLED = 8


def init(
    key: Key[Array, ""], config: LlamaConfig, *, dtype: jax.typing.DTypeLike = "float32"
) -> Params:
    """Return random parameters: normal, of deviation 0.02, norms 1 and biases 0.

    Args:
      key: consumed.
      config: shape of the decoder.
      dtype: of all parameters.

    Returns:
      `{"embed": [vocabulary, width], "layers": {name: [layer, ...]}, "norm": [width]}`, and
      "head" `[width, vocabulary]` unless it is tied.
    """
    shapes = parameter_shapes(config)
    names = [path for path, _ in jax.tree_util.tree_leaves_with_path(shapes, is_leaf=is_shape)]
    keys = jax.tree.unflatten(
        jax.tree.structure(shapes, is_leaf=is_shape), list(jax.random.split(key, len(names)))
    )

    def draw(path, shape, key):
        name = path[-1].key
        if name.endswith("norm"):
            return jnp.ones(shape, dtype)
        if name.endswith("bias"):
            return jnp.zeros(shape, dtype)
        return 0.02 * jax.random.normal(key, shape, dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes, keys, is_leaf=is_shape)


def parameter_shapes(config: LlamaConfig) -> Params:
    """Return the tree of parameters with the shape of each in its place.

    Args:
      config: shape of the decoder.
    """
    width, mlp, n = config.hidden_size, config.intermediate_size, config.num_layers
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layers = {
        "attention_norm": (n, width),
        "q": (n, width, queries),
        "k": (n, width, keys),
        "v": (n, width, keys),
        "o": (n, queries, width),
        "mlp_norm": (n, width),
        "gate": (n, width, mlp),
        "up": (n, width, mlp),
        "down": (n, mlp, width),
    }
    if config.architecture == "qwen2":
        layers |= {"q_bias": (n, queries), "k_bias": (n, keys), "v_bias": (n, keys)}
    shapes = {"embed": (config.vocab_size, width), "layers": layers, "norm": (width,)}
    return shapes if config.tie_embeddings else shapes | {"head": (width, config.vocab_size)}


def apply(
    params: Params,
    tokens: Integer[Array, "row time"],
    config: LlamaConfig,
    *,
    until_layer: int | None = None,
    mask: Bool[Array, "row time"] | None = None,
    remat: bool = False,
) -> Float[Array, "row time output"]:
    """Return the logits of the next token after each token, or hidden states.

    Args:
      params: as of `init` or `load`.
      tokens: `[row, time]`.
      config: shape of the decoder, static under `jit`.
      until_layer: return the hidden states `[row, time, width]` after so many layers, before
        any norm; the later ones do not run.
      mask: `[row, time]`, False where a token is padding, which no other token then sees. The
        padding may be left or right: only distances between tokens matter.
      remat: keep only the input of each layer for the gradient and run the layer again.

    Returns:
      `[row, time, vocabulary]`, in the dtype of the parameters.

    Raises:
      ValueError: `tokens` or `mask` have a wrong shape or dtype, or there are fewer layers than
        `until_layer`.
    """
    if until_layer is None:
        return hidden_states(params, tokens, config, mask=mask, remat=remat) @ head(params)
    checks.within(0, config.num_layers, until_layer=until_layer)
    layers = select_layers(params["layers"], 0, until_layer)
    return run_layers(layers, embed(params, tokens), config, mask=mask, remat=remat)


def hidden_states(
    params: Params,
    tokens: Integer[Array, "row time"],
    config: LlamaConfig,
    *,
    mask: Bool[Array, "row time"] | None = None,
    remat: bool = False,
) -> Float[Array, "row time width"]:
    """Return what the head multiplies: the normed hidden states `[row, time, width]`.

    Arguments as for `apply`.
    """
    hidden = run_layers(params["layers"], embed(params, tokens), config, mask=mask, remat=remat)
    return rms_norm(hidden, params["norm"], config)


def embed(params: Params, tokens: Integer[Array, "row time"]) -> Float[Array, "row time width"]:
    """Return the embeddings of tokens `[row, time]`, the input of the first layer.

    Args:
      params: as of `init` or `load`.
      tokens: `[row, time]`, 0 to vocabulary - 1; where they cannot be seen, as under `jax.jit`,
        another one gives NaN, and then all of its row after the first layer.

    Raises:
      ValueError: `tokens` are not two axes of integers, or beyond the vocabulary.
    """
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise checks.refused("tokens", tokens, "integers [row, time]")
    table = params["embed"]
    checks.values_within(0, len(table) - 1, tokens=tokens)
    hidden = table.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return _rows_over_devices(hidden, jax.typeof(table).sharding.mesh)


def _rows_over_devices(hidden: Array, mesh: Any) -> Array:
    """Return hidden states whose rows lie over "data", inside of `jit` and on a mesh that has it.

    Else the compiler may split their width as the parameters lie, and keep all rows everywhere.
    """
    automatic = dict(zip(mesh.axis_names, mesh.axis_types, strict=True)).get("data")
    if is_concrete(hidden) or automatic != AxisType.Auto or len(hidden) % mesh.shape["data"]:
        return hidden
    return lax.with_sharding_constraint(hidden, NamedSharding(mesh, P("data")))


def head(params: Params) -> Float[Array, "width vocabulary"]:
    """Return the matrix from normed hidden states to logits, `[width, vocabulary]`.

    Args:
      params: as of `init` or `load`.
    """
    return params["head"] if "head" in params else params["embed"].T


def select_layers(layers: Layers, first: int, last: int) -> Layers:
    """Return some of the layers.

    Args:
      layers: `params["layers"]`, `{name: [layer, ...]}`.
      first: number of the first one taken, from 0.
      last: number of the first one no longer taken.
    """
    return {name: leaf[first:last] for name, leaf in layers.items()}


def run_layers(
    layers: Layers,
    hidden: Float[Array, "row time width"],
    config: LlamaConfig,
    *,
    mask: Bool[Array, "row time"] | None = None,
    remat: bool = False,
) -> Float[Array, "row time width"]:
    """Return the hidden states after layers, all of a decoder's or a slice of them.

    Args:
      layers: `params["layers"]`, or some as of `select_layers`.
      hidden: `[row, time, width]`, as of `embed` or of the layers before.
      config: shape of the decoder; its number of layers is not looked at.
      mask: as for `apply`.
      remat: as for `apply`.

    Raises:
      ValueError: `mask` is not boolean, or not of the rows and times of `hidden`.
    """
    check_mask(mask, hidden.shape[:2])
    time = jnp.arange(hidden.shape[1], dtype=jnp.int32)
    turn = rotation(time, config, at_least_single(hidden.dtype))
    seen = visible(time, time, config, mask)
    block = functools.partial(_block, turn=turn, seen=seen, config=config)
    if remat:
        block = jax.checkpoint(block, prevent_cse=False)
    count = len(layers["q"])
    unroll = count if count <= UNROLLED and not remat else 1
    return lax.scan(lambda x, layer: (block(x, layer), None), hidden, layers, unroll=unroll)[0]


def _block(hidden: Array, layer: Layers, *, turn, seen, config: LlamaConfig) -> Array:
    query, key, value = project(hidden, layer, turn, config)
    return finish(hidden, attend(query, key, value, seen), layer, config)


def project(hidden: Array, layer: Layers, turn, config: LlamaConfig) -> tuple[Array, Array, Array]:
    """Return queries, keys and values `[row, time, head, component]` of one layer."""
    x = rms_norm(hidden, layer["attention_norm"], config)

    def heads(name):
        y = x @ layer[name]
        if f"{name}_bias" in layer:
            y = y + layer[f"{name}_bias"][None, None]
        return y.reshape(*y.shape[:-1], -1, config.head_dim)

    return rotate(heads("q"), turn), rotate(heads("k"), turn), heads("v")


def attend(query: Array, key: Array, value: Array, seen: Array) -> Array:
    """Return the mean of the values seen, `[row, time, head * component]`.

    Heads of queries come in groups, one after another, that share keys and values.
    """
    rows, time, heads, width = query.shape
    query = query.reshape(rows, time, key.shape[2], -1, width)
    single = at_least_single(query.dtype)
    score = jnp.einsum("rtkgc,rskc->rkgts", query, key, preferred_element_type=single)
    score = jnp.where(seen[:, None, None], score * width**-0.5, jnp.finfo(single).min)
    weight = jax.nn.softmax(score, axis=-1).astype(value.dtype)
    return jnp.einsum("rkgts,rskc->rtkgc", weight, value).reshape(rows, time, heads * width)


def finish(hidden: Array, mixed: Array, layer: Layers, config: LlamaConfig) -> Array:
    """Return the output of a layer from its input and what its attention mixed."""
    hidden = hidden + mixed @ layer["o"]
    x = rms_norm(hidden, layer["mlp_norm"], config)
    return hidden + (jax.nn.silu(x @ layer["gate"]) * (x @ layer["up"])) @ layer["down"]


def rms_norm(x: Array, scale: Array, config: LlamaConfig) -> Array:
    """Return x over its root mean square, times the scale; in float32 or better."""
    y = x.astype(at_least_single(x.dtype))
    y = y * lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + config.epsilon)
    return y.astype(x.dtype) * jnp.expand_dims(scale, range(x.ndim - 1))


def visible(
    query_time: Array, key_time: Array, config: LlamaConfig, mask: Array | None
) -> Bool[Array, "row query key"]:
    """Return which keys each query sees, `[row or 1, query, key]`."""
    distance = query_time[:, None] - key_time[None]
    seen = distance >= 0
    if config.window is not None:
        seen = seen & (distance < config.window)
    return seen[None] if mask is None else seen[None] & mask[:, None, :]


def check_mask(mask: Array | None, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `mask` is None or boolean, of the shape of the tokens."""
    if mask is None:
        return
    if mask.shape != shape or mask.dtype != jnp.bool_:
        raise checks.refused("mask", mask, f"bool{list(shape)}, of the shape of the tokens")


def is_shape(x: Any) -> bool:
    """Return whether this is a leaf of `parameter_shapes`."""
    return isinstance(x, tuple)
