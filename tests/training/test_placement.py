"""Where the arrays of a training run lie: as the caller laid them, the rest on all devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml.sharding import data_mesh
from jaxml.training import placement

MESH = data_mesh()
ROWS = NamedSharding(MESH, P("data"))


def split(*shape):
    return jax.device_put(jnp.arange(float(np.prod(shape))).reshape(shape), ROWS)


def test_one_device_has_no_mesh_and_keeps_all_as_it_is():
    tree = {"a": jnp.ones(3), "b": 2}
    assert placement.mesh_of(tree) is None
    assert placement.on_mesh(tree, None) is tree
    assert placement.shardings(tree, None) == (None, None, None)


def test_what_lies_on_one_device_is_copied_to_all():
    tree = {"rows": split(16, 3), "one": jnp.ones(3)}
    assert placement.mesh_of(tree) == MESH
    moved = placement.on_mesh(tree, MESH)
    assert moved["rows"] is tree["rows"]
    assert moved["one"].sharding == NamedSharding(MESH, P())
    structure, places, whole = placement.shardings(moved, MESH)
    assert structure == jax.tree.structure(moved) and whole == NamedSharding(MESH, P())
    assert places == (whole, ROWS)


def test_a_batch_is_split_as_the_rows_where_the_devices_divide_it():
    data = {"rows": split(16, 3), "whole": jax.device_put(jnp.ones(16), NamedSharding(MESH, P()))}
    assert placement.batch_shardings(data, 8) == (ROWS, None)
    assert placement.batch_shardings(data, 12) == (None, None)
    assert placement.batch_shardings(data, None) == (None, None)
    places = placement.batch_shardings(data, 8)
    batch = jax.jit(lambda tree: placement.constrain(jax.tree.map(lambda x: x[:8], tree), places))(
        data
    )
    assert batch["rows"].sharding.is_equivalent_to(ROWS, 2)
    np.testing.assert_array_equal(batch["rows"], data["rows"][:8])


def test_one_process_answers_for_itself():
    assert placement.in_any_process(True) and not placement.in_any_process(False)
