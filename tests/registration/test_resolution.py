"""Half the resolution, and twice."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.registration._resolution import double, halve


@pytest.mark.parametrize("shape", [(8, 6), (9, 7), (5, 6, 7)])
def test_a_linear_field_is_doubled_exactly(shape):
    """The centre of coarse voxel c lies at 2c + 1/2 of the fine grid."""
    fine = [g.astype(float) for g in np.indices(shape)]
    coarse = [halve(jnp.asarray(g)) for g in fine]
    assert coarse[0].shape == tuple(-(-n // 2) for n in shape)
    # Half a coordinate is a displacement in voxels of the coarse grid.
    doubled = double(tuple(c / 2 for c in coarse), shape)
    # Near the faces, and where an odd axis repeats its last plane, nothing lies on both sides.
    inner = tuple(slice(1, n - 1 - n % 2) for n in shape)
    for found, expected in zip(doubled, fine, strict=True):
        np.testing.assert_allclose(found[inner], expected[inner], atol=1e-12)
