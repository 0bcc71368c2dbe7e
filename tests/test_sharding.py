import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.multifractal import mfdfa
from jaxml.registration._sampling import sample
from jaxml.sharding import data_mesh, map_batches, map_host_batches, map_rows, pmap

devices = pytest.mark.parametrize("count", [1, 2, 8])


def table(rows):
    return np.random.default_rng(rows).normal(size=(rows, 5))


def row_statistics(row):
    """Uses what an Explicit mesh forbids along a sharded axis."""
    return {"sum": jnp.cumsum(row), "sorted": jnp.sort(row)[::-1], "top": row[jnp.argmax(row)]}


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-14)


@devices
def test_mesh_has_that_many_devices(count):
    mesh = data_mesh(devices=count, axis="rows")
    assert mesh.shape == {"rows": count}
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,)
    assert data_mesh().shape == {"data": 8}


@pytest.mark.parametrize("count", [0, -1, 9])
def test_mesh_of_too_many_or_no_devices_is_named(count, unchecked):
    with pytest.raises(
        ValueError, match=f"devices={count}: accepted is 1 to 8, the devices that this process"
    ):
        data_mesh(devices=count)


@devices
@pytest.mark.parametrize("rows", [1, 8, 17])
def test_map_rows_equals_vmap(rows, count):
    x = table(rows)
    found = map_rows(row_statistics, mesh=data_mesh(devices=count), batch_size=2)(x)
    assert_equal(found, jax.vmap(row_statistics)(x))


@devices
def test_map_rows_takes_branches_and_loops_that_begin_with_constants(count):
    def steps(x):
        tripled = jax.lax.fori_loop(0, 3, lambda i, total: total + x.sum(), 0.0)
        return jax.lax.cond(x[0] > 0, lambda x: x * tripled, jnp.zeros_like, x)

    found = map_rows(steps, mesh=data_mesh(devices=count), batch_size=1)(table(11))
    assert_equal(found, jax.vmap(steps)(table(11)))


def test_map_rows_samples_images():
    image, u, v = np.random.default_rng(0).random((3, 9, 6, 7))
    at = lambda row: sample(row[0], row[1:])
    assert_equal(map_rows(at)((image, u, v)), jax.vmap(lambda *row: at(row))(image, u, v))


@devices
def test_map_rows_needs_no_copy_of_the_rows(count):
    """Of 120 rows in batches of 16, the last batch would be half full."""
    mesh = data_mesh(devices=count)
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    rows = jax.ShapeDtypeStruct((120 * count, 5000), jnp.float64, sharding=place)
    mapped = jax.jit(map_rows(jnp.sum, mesh=mesh, batch_size=16))
    memory = mapped.lower(rows).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.2 * memory.argument_size_in_bytes


def test_map_rows_takes_trees_and_spreads_them():
    x, y = table(16), np.arange(16)
    f = lambda row: row["x"] * row["y"].astype(float)
    found = map_rows(f)({"x": x, "y": y})
    assert_equal(found, x * y[:, None])
    assert len(found.sharding.device_set) == 8


def test_map_rows_takes_branches_that_read_no_row():
    clipped = lambda row: jax.lax.cond(row[0] > 0, lambda: row[0], lambda: jnp.zeros((), row.dtype))
    np.testing.assert_array_equal(map_rows(clipped)(table(17)), np.maximum(table(17)[:, 0], 0))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((0, 5)), r"rows=\[0\]: accepted is arrays of one number of rows above 0"),
        ((np.zeros((4, 5)), np.zeros(3)), r"rows=\[3, 4\]: accepted is"),
        ((), r"rows=\[\]: accepted is"),
    ],
)
def test_map_rows_names_bad_rows(rows, message, unchecked):
    with pytest.raises(ValueError, match=message):
        map_rows(lambda row: row)(rows)


@pytest.mark.parametrize("map_batches", [map_batches, map_host_batches])
@pytest.mark.parametrize("batch_size", [1, 4, 17, 100])
def test_batches_give_what_one_call_gives_and_bound_the_batch(map_batches, batch_size):
    sizes = []

    def double(rows):
        sizes.append(len(rows["x"]))
        return rows["x"] * rows["y"][:, None], rows["y"]

    rows = {"x": jnp.asarray(table(17)), "y": jnp.arange(17.0)}
    found = map_batches(double, rows, batch_size=batch_size)
    jax.tree.map(np.testing.assert_array_equal, found, double(rows))
    assert max(sizes[:-1]) == min(batch_size, 17)


def test_host_batches_are_of_one_length_so_that_one_program_serves_all():
    traced = []

    @jax.jit
    def double(rows):
        traced.append(rows.shape)
        return 2 * rows

    found = map_host_batches(double, jnp.asarray(table(17)), batch_size=4)
    np.testing.assert_array_equal(found, 2 * table(17))
    assert [shape[0] for shape in traced] == [4]


def test_map_batches_works_on_rows_where_they_are():
    place = jax.sharding.NamedSharding(data_mesh(), jax.sharding.PartitionSpec("data"))
    rows = jax.device_put(jnp.asarray(table(48)), place)
    run = jax.jit(lambda rows: map_batches(lambda batch: jnp.sin(batch), rows, batch_size=16))
    np.testing.assert_allclose(run(rows), np.sin(table(48)))
    assert len(run(rows).sharding.device_set) == 8
    assert "all-gather" not in run.lower(rows).compile().as_text()


@devices
def test_pmap_equals_vmap(count):
    x = table(16)
    found = pmap(row_statistics, data_mesh(devices=count))(x)
    assert_equal(found, jax.vmap(row_statistics)(x))


@devices
def test_pmap_replicates_unmapped_arguments(count):
    x, weight = table(8), np.arange(5.0)
    found = pmap(lambda row, w: row @ w, data_mesh(devices=count), in_axes=(0, None))(x, weight)
    np.testing.assert_allclose(found, x @ weight)


def centre_over_devices(row):
    mean = jax.lax.psum(row, "data") / 8
    return row - mean, jax.lax.axis_index("data"), jax.lax.pmax(row, "data")


def test_pmap_equals_jax_pmap_collectives_included():
    x = table(8)
    assert_equal(
        pmap(centre_over_devices, data_mesh())(x), jax.pmap(centre_over_devices, "data")(x)
    )


def test_pmap_places_one_row_on_each_device():
    found = pmap(lambda row: 2 * row, data_mesh())(table(8))
    places = [shard.device for shard in found.addressable_shards]
    assert len(set(places)) == 8
    assert all(shard.data.shape == (1, 5) for shard in found.addressable_shards)


@devices
def test_gradient_through_pmap(count):
    x, weight = table(8), np.linspace(1, 2, 5)
    mapped = pmap(lambda row, w: jnp.sin(row) @ w, data_mesh(devices=count), in_axes=(0, None))
    gradient = jax.grad(lambda x, w: mapped(x, w).sum(), argnums=(0, 1))(x, weight)
    assert_equal(gradient, (np.cos(x) * weight, np.sin(x).sum(axis=0)))


def test_gradient_through_map_rows():
    mapped = map_rows(lambda row: jnp.sum(row**3))
    gradient = jax.grad(lambda x: mapped(x).sum())(jnp.asarray(table(17)))
    np.testing.assert_allclose(gradient, 3 * table(17) ** 2)


def test_pmap_names_rows_that_do_not_divide(unchecked):
    with pytest.raises(ValueError, match="rows=17: accepted is a multiple of 8 devices; map_rows"):
        pmap(jnp.sum, data_mesh())(table(17))


@pytest.mark.parametrize("in_axes", [1, (0, 1), (0,)])
def test_pmap_names_bad_axes(in_axes, unchecked):
    with pytest.raises(
        ValueError, match="in_axes=.*: accepted is 0 or None for each of 2 arguments"
    ):
        pmap(jnp.add, data_mesh(), in_axes=in_axes)(table(8), table(8))


@pytest.mark.parametrize("transform", [lambda f: map_rows(f), lambda f: pmap(f, data_mesh())])
def test_second_call_does_not_trace_again(transform):
    traces = []

    def f(row):
        traces.append(row.shape)
        return row.sum()

    mapped = transform(f)
    mapped(table(8))
    first = len(traces)
    assert first > 0
    mapped(table(8) + 1)
    assert len(traces) == first


def test_mfdfa_of_a_padded_batch_is_the_same_on_any_number_of_devices():
    rows = np.random.default_rng(0).normal(size=(11, 300))
    lengths = np.linspace(120, 300, 11).astype(np.int32)
    analyse = lambda row: mfdfa(row[0], length=row[1], scales=(16, 32, 64), q=(-2.0, 0.0, 2.0))
    found = map_rows(analyse)((rows, lengths))
    assert_equal(found, jax.vmap(lambda *row: analyse(row))(rows, lengths))
    assert_equal(found, map_rows(analyse, mesh=data_mesh(devices=1))((rows, lengths)))
