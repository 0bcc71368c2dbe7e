import numpy as np
import pytest

from jaxml.data import DataError, load_brain_pair


def write_pair(folder, size="80x96x112", shape=(6, 7, 8)):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name in "ab":
        vol = rng.integers(0, 256, shape).astype(np.uint8)
        seg = rng.integers(0, 4, shape).astype(np.uint8)
        np.savez(folder / f"subject_{name}_{size}.npz", vol=vol, seg=seg)
    np.savez(folder / "labels30.npz", labels=np.array([1, 3]))


@pytest.mark.parametrize("inner", ["", "brain"])
def test_pair_of_a_folder(tmp_path, inner, monkeypatch):
    write_pair(tmp_path / inner)
    pair = load_brain_pair(tmp_path)
    stored = np.load(tmp_path / inner / "subject_b_80x96x112.npz")
    np.testing.assert_array_equal(np.round(pair.b * 255), stored["vol"])
    np.testing.assert_array_equal(pair.b_labels, stored["seg"])
    assert pair.labels == (1, 3) and pair.two_subjects and str(tmp_path) in pair.source
    monkeypatch.setenv("JAXML_DATA", str(tmp_path))
    np.testing.assert_array_equal(load_brain_pair(None).a, pair.a)


def test_template_where_nothing_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXML_DATA", raising=False)
    pair = load_brain_pair(None)
    assert not pair.two_subjects and "MNI152" in pair.source
    assert pair.a.ndim == 3 and min(pair.a.shape) > 80 and 0.9 < pair.a.max() <= 1
    assert set(np.unique(pair.a_labels)) == {0, 1, 2, 3}
    # White matter is the brightest tissue of a T1 volume, fluid the darkest.
    means = [pair.a[pair.a_labels == k].mean() for k in (1, 2, 3)]
    assert means == sorted(means)
    monkeypatch.setenv("JAXML_DATA", str(tmp_path))
    assert "MNI152" in load_brain_pair(None).source


def test_bad_folder_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such folder"):
        load_brain_pair(tmp_path / "missing")
    with pytest.raises(DataError, match="no pair of brains"):
        load_brain_pair(tmp_path)
    with pytest.raises(ValueError, match="size='tiny'"):
        load_brain_pair(tmp_path, size="tiny")
    write_pair(tmp_path)
    damaged = tmp_path / "subject_b_80x96x112.npz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(DataError, match=r"subject_b_80x96x112\.npz: damaged"):
        load_brain_pair(tmp_path)
    np.savez(damaged, vol=np.zeros((6, 7, 8), np.uint8))
    with pytest.raises(DataError, match="no array seg"):
        load_brain_pair(tmp_path)
    np.savez(damaged, vol=np.zeros((6, 7, 8)), seg=np.zeros((6, 7, 8)))
    with pytest.raises(DataError, match="vol as uint8"):
        load_brain_pair(tmp_path)


@pytest.mark.parametrize("label", [0.5, np.nan, 2.0**40, "a", 2j])
def test_labels_are_whole_numbers(tmp_path, label):
    write_pair(tmp_path)
    whole = np.load(tmp_path / "subject_b_80x96x112.npz")
    seg = np.full(whole["seg"].shape, label)
    np.savez(tmp_path / "subject_b_80x96x112.npz", vol=whole["vol"], seg=seg)
    with pytest.raises(DataError, match="subject_b.*that are not whole"):
        load_brain_pair(tmp_path)
    write_pair(tmp_path)
    for labels, message in ((np.array([1, label]), "not whole"), (np.ones((2, 2)), "give one row")):
        np.savez(tmp_path / "labels30.npz", labels=labels)
        with pytest.raises(DataError, match=f"labels30.*{message}"):
            load_brain_pair(tmp_path)


def test_whole_labels_of_any_type(tmp_path):
    write_pair(tmp_path)
    expected = load_brain_pair(tmp_path)
    whole = np.load(tmp_path / "subject_b_80x96x112.npz")
    for dtype in (float, np.int64, ">u2"):
        seg = whole["seg"].astype(dtype)
        np.savez(tmp_path / "subject_b_80x96x112.npz", vol=whole["vol"], seg=seg)
        np.testing.assert_array_equal(load_brain_pair(tmp_path).b_labels, expected.b_labels)
