"""Determinants on simplices in plain numpy, and random fields with a given share of folds."""

import functools
import itertools

import numpy as np
import scipy.ndimage

FACES_OF_A_CUBE = [(1, 1, 0), (1, 0, 1), (0, 1, 1)]


def corners(ndim):
    return [np.diag(signs) for signs in itertools.product((1, -1), repeat=ndim)]


def simplices(ndim):
    central = [np.array(FACES_OF_A_CUBE), -np.array(FACES_OF_A_CUBE)] if ndim == 3 else []
    return corners(ndim) + central


def determinant(u, simplex):
    """Return the determinant of a simplex, 1 at rest, at every voxel; the border is repeated."""
    volume = u.shape[:-1]
    places = np.stack(np.meshgrid(*map(np.arange, volume), indexing="ij"), axis=-1)
    edges = []
    for offset in simplex:
        there = np.clip(places + offset, 0, np.array(volume) - 1)
        edges.append(offset + u[tuple(np.moveaxis(there, -1, 0))] - u)
    return np.linalg.det(np.stack(edges, axis=-2)) / np.linalg.det(simplex)


def smallest(u):
    return np.min([determinant(u, s) for s in simplices(u.shape[-1])], axis=0)


def differences(u, scheme):
    """Return the Jacobian by numpy: row = component, column = axis."""
    if scheme == "central":
        return np.stack(np.gradient(u, axis=tuple(range(u.ndim - 1))), axis=-1)
    if scheme == "five_point":
        weights = np.array([1, -8, 0, 8, -1]) / 12
        along = functools.partial(scipy.ndimage.correlate1d, u, weights, mode="nearest")
        return np.stack([along(axis=axis) for axis in range(u.ndim - 1)], axis=-1)
    columns = []
    for axis in range(u.ndim - 1):
        pad = [(0, 0)] * u.ndim
        pad[axis] = (0, 1) if scheme == "forward" else (1, 0)
        columns.append(np.pad(np.diff(u, axis=axis), pad))
    return np.stack(columns, axis=-1)


def folds(u):
    """Count the folds by each criterion that the simplices bound."""
    u, eye = np.asarray(u, float), np.eye(u.shape[-1])
    counts = {
        scheme: int(np.sum(np.linalg.det(eye + differences(u, scheme)) <= 0))
        for scheme in ("forward", "backward", "central")
    }
    return counts | {"digital": int(np.sum(smallest(u) <= 0))}


def smooth_noise(seed, shape, sigma, *, rms=1.0):
    """Return a Gaussian random field, borders included, with the given root mean square."""
    white = np.random.default_rng(seed).standard_normal((*shape, len(shape)))
    u = scipy.ndimage.gaussian_filter(white, (sigma,) * len(shape) + (0,)) if sigma else white
    return rms * u / np.sqrt(np.mean(u**2))


def folded_noise(seed, shape, sigma, share):
    """Return a Gaussian random field with the given share of forward folds."""
    u, low, high = smooth_noise(seed, shape, sigma), 0.0, 100.0
    for _ in range(20):
        middle = (low + high) / 2
        folded = np.linalg.det(np.eye(len(shape)) + middle * differences(u, "forward")) <= 0
        low, high = (low, middle) if np.mean(folded) >= share else (middle, high)
    return high * u
