import os
import pickle

import numpy as np
import pytest

from jaxml.data import DataError
from jaxml.data.sources.tiny_images import load_tiny_images

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
LABELS = np.arange(5)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_images_of_a_pickle(tmp_path, protocol):
    path = tmp_path / "ti.pickle"
    path.write_bytes(
        pickle.dumps({"data": IMAGES, "extrapolated_targets": LABELS}, protocol=protocol)
    )
    np.testing.assert_array_equal(load_tiny_images(path), IMAGES)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_is_not_run(tmp_path):
    path, folder = tmp_path / "ti.pickle", tmp_path / "made"
    path.write_bytes(pickle.dumps({"data": Evil(folder)}))
    with pytest.raises(DataError, match="refused: it asks for posix.mkdir"):
        load_tiny_images(path)
    assert not folder.exists()
    pickle.loads(path.read_bytes())
    assert folder.exists()


def test_objects_of_numpy_are_not_made(tmp_path):
    path = tmp_path / "ti.pickle"
    path.write_bytes(pickle.dumps({"data": np.array([Evil(tmp_path / "made")], object)}))
    with pytest.raises(DataError, match="refused"):
        load_tiny_images(path)


@pytest.mark.parametrize(
    "content",
    [[1], {"images": IMAGES}, {"data": IMAGES.astype(float)}, {"data": IMAGES[0]}, {"data": 3}],
)
def test_other_content_is_named(tmp_path, content):
    path = tmp_path / "ti.pickle"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="holds no such images"):
        load_tiny_images(path)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_tiny_images(tmp_path / "none.pickle")
    whole = pickle.dumps({"data": IMAGES})
    rng = np.random.default_rng(1)
    path = tmp_path / "ti.pickle"
    damaged = [whole[:n] for n in (0, 1, 20, len(whole) // 2, len(whole) - 1)]
    for _ in range(200):
        changed = bytearray(whole)
        changed[rng.integers(60)] = rng.integers(256)
        damaged.append(bytes(changed))
    for content in damaged:
        path.write_bytes(content)
        try:
            found = load_tiny_images(path)
        except DataError as error:
            assert str(path) in str(error) or "refused" in str(error)
        else:
            assert found.dtype == np.uint8 and found.ndim == 4
