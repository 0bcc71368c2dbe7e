"""Where the parameters of a decoder lie on a mesh of devices."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml import checks
from jaxml.models.llama.config import LlamaConfig
from jaxml.models.llama.decoder import Params, is_shape, parameter_shapes

# What goes in is split over "data" and what comes out over "model"; for "o" and "down" the other
# way round, so that a layer needs one sum over "model" after its attention and one after its MLP.
_RULES = {
    "embed": ("model", "data"),
    "head": ("data", "model"),
    **{name: (None, "data", "model") for name in ("q", "k", "v", "gate", "up")},
    **{name: (None, "model", "data") for name in ("o", "down")},
    **{name: (None, "model") for name in ("q_bias", "k_bias", "v_bias")},
}


def decoder_mesh(*, model: int = 1, devices: int | None = None) -> Mesh:
    """Return a mesh ("data", "model"), with batches over "data".

    Args:
      model: devices over which each matrix product is split; the rest share the parameters out
        and gather them layer by layer (FSDP).
      devices: number of devices; all of them by default.

    Raises:
      ValueError: `model` does not divide `devices`, or there are fewer devices.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise checks.refused("devices", count, f"1 to {len(available)}, which this process sees")
    if model < 1 or count % model:
        raise checks.refused("model", model, f"a divisor of devices={count}")
    axes = (AxisType.Auto,) * 2
    shape = (count // model, model)
    return jax.make_mesh(shape, ("data", "model"), axis_types=axes, devices=available[:count])


def parameter_shardings(config: LlamaConfig, mesh: Mesh) -> Params:
    """Return the place of each parameter, for `jax.device_put(params, ...)`.

    An axis that its devices do not divide is not split. Put tokens at
    `NamedSharding(mesh, P("data"))`; `apply`, losses and gradients then need nothing else.

    Args:
      config: shape of the decoder.
      mesh: with the axes "data" and "model", as of `decoder_mesh`.

    Returns:
      The tree of parameters, with a NamedSharding in place of each array.

    Raises:
      ValueError: the mesh has other axes.
    """
    if not {"data", "model"} <= set(mesh.axis_names):
        raise checks.refused("mesh", mesh.axis_names, 'a mesh with axes "data" and "model"')

    def place(path, shape):
        rule = _RULES.get(path[-1].key, ())
        fits = [
            axis if axis is not None and not size % mesh.shape[axis] else None
            for axis, size in zip(rule, shape, strict=False)
        ]
        return NamedSharding(mesh, P(*fits))

    return jax.tree_util.tree_map_with_path(place, parameter_shapes(config), is_leaf=is_shape)
