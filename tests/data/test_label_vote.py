"""Labels between voxels, as SimpleITK takes them."""

import numpy as np
import pytest
import SimpleITK as sitk

from jaxml.data.label_vote import nearest, voted


def blocks(shape):
    """Return labels in blocks with ragged borders."""
    rng = np.random.default_rng(0)
    index = np.indices(shape) + rng.integers(0, 2, (len(shape), *shape))
    return (np.array([1, 5, 20][: len(shape)]) @ (index // 4).reshape(len(shape), -1)).reshape(
        shape
    )


@pytest.mark.parametrize("shape", [(12, 14), (12, 9, 10)])
@pytest.mark.parametrize("kind", ["nearest", "voted"])
def test_labels_are_those_of_itk(kind, shape):
    labels = blocks(shape)
    image = sitk.GetImageFromArray(labels.astype(np.int32))
    rng = np.random.default_rng(1)
    points = rng.uniform(-1.5, np.array(shape) + 0.5, size=(400, len(shape)))
    method = sitk.sitkNearestNeighbor if kind == "nearest" else sitk.sitkLabelGaussian
    reference = sitk.Image([1] * len(shape), sitk.sitkInt32)
    expected = []
    for point in points:
        # ITK's first axis is the last of an array.
        shift = sitk.TranslationTransform(len(shape), point[::-1].tolist())
        resampled = sitk.Resample(image, reference, shift, method, 0.0)
        expected.append(sitk.GetArrayFromImage(resampled).item())
    found = nearest(labels, points) if kind == "nearest" else voted(labels, points)
    np.testing.assert_array_equal(found, expected)
    assert 0.5 < np.mean(found > 0) < 1


def test_a_vote_is_smoother_than_the_nearest():
    labels = np.zeros((20, 20), np.int32)
    labels[:10] = 3
    labels[5, 5] = 7
    points = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0), indexing="ij"), axis=-1)
    np.testing.assert_array_equal(nearest(labels, points), labels)
    np.testing.assert_array_equal(voted(labels, points), np.where(labels == 7, 3, labels))


def test_blocks_of_points_change_nothing(monkeypatch):
    labels, points = blocks((12, 14)), np.random.default_rng(0).uniform(0, 11, size=(50, 2))
    expected = voted(labels, points)
    monkeypatch.setattr("jaxml.data.label_vote._BLOCK", 1)
    np.testing.assert_array_equal(voted(labels, points), expected)
