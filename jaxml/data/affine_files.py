"""Affine maps in the files of ITK: Matlab's binary and text, in points of LPS mm."""

import re
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxml.data.transforms import Affine
from jaxml.files.errors import DataError

# Affines take some hundred bytes.
_LONGEST = 2**20
_HEADER = "#Insight Transform File V1.0"
_KIND = re.compile(r"(\w+)_(?:double|float)_([23])_\2")
_NUMBERS = {0: "<f8", 10: "<f4", 1000: ">f8", 1010: ">f4"}


def read_matlab(path: Path) -> Affine:
    """Read an affine of ITK as Matlab's file of version 4: two columns of numbers with names.

    Raises:
      DataError: another kind of transform, or damaged.
      ValueError, struct.error: damaged.
    """
    arrays = list(_matlab_arrays(_content(path)))
    if len(arrays) != 2 or arrays[1][0] != "fixed":
        names = ", ".join(name for name, _ in arrays) or "none"
        raise DataError(f"arrays {names} in place of parameters of an affine, and fixed")
    (kind, parameters), (_, fixed) = arrays
    return _affine(kind, parameters, fixed)


def read_text(path: Path) -> tuple[Affine, ...]:
    """Read an affine of ITK, or a composite of affines, as text.

    Raises:
      DataError: other kinds of transforms, or damaged.
      ValueError: damaged.
    """
    first, *lines = _content(path).decode().splitlines() or [""]
    if first.strip() != _HEADER:
        raise DataError(f"the first line is not {_HEADER!r}")
    kinds, numbers = [], {"Parameters": [], "FixedParameters": []}
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "Transform":
            kinds.append(rest.strip())
            for column in numbers.values():
                column.append(np.zeros(0))
        elif name in numbers and kinds:
            numbers[name][-1] = np.array([float(text) for text in rest.split()])
        elif line.strip() and not line.startswith("#"):
            raise DataError(f"a line {line[:40]!r}")
    parts = list(zip(kinds, *numbers.values(), strict=True))
    composite = bool(kinds) and kinds[0].startswith("CompositeTransform_")
    parts = parts[1:] if composite else parts
    if not parts or len(parts) > 1 and not composite:
        # ITK takes the first of several without a word, or with a warning.
        raise DataError(f"{len(parts)} transforms, where one or a CompositeTransform is accepted")
    # The last of a composite is applied first.
    return tuple(_affine(*part) for part in reversed(parts))


def matlab_bytes(affine: Affine) -> bytes:
    """Return an affine in mm as ITK's file .mat.

    Args:
      affine: map of points in RAS mm.

    Returns:
      The content of the file.
    """
    name, parameters = _itk(affine)
    content = b""
    for label, column in ((name, parameters), ("fixed", np.zeros(len(affine.matrix) - 1))):
        content += struct.pack("<5i", 0, len(column), 1, 0, len(label) + 1)
        content += label.encode() + b"\0" + column.astype("<f8").tobytes()
    return content


def text_bytes(affine: Affine) -> bytes:
    """Return an affine in mm as ITK's file .txt or .tfm.

    Args:
      affine: map of points in RAS mm.

    Returns:
      The content of the file.
    """
    name, parameters = _itk(affine)
    numbers = " ".join(map(repr, parameters.tolist()))
    center = " ".join(["0"] * (len(affine.matrix) - 1))
    lines = (_HEADER, "#Transform 0", f"Transform: {name}", f"Parameters: {numbers}")
    return "\n".join((*lines, f"FixedParameters: {center}", "")).encode()


def matrix_of(
    linear: Float[np.ndarray, "ndim ndim"], offset: Float[np.ndarray, " ndim"]
) -> Float[np.ndarray, "rows rows"]:
    """Return the matrix of the map of x to A x + b.

    Args:
      linear: A, `[ndim, ndim]`.
      offset: b, `[ndim]`.

    Returns:
      `[ndim + 1, ndim + 1]`.

    Raises:
      DataError: it has no inverse.
    """
    ndim = len(offset)
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim], matrix[:ndim, ndim] = linear, offset
    with np.errstate(all="ignore"):
        size = abs(np.linalg.det(matrix)) if np.isfinite(matrix).all() else 0
    if not 0 < size < np.inf:
        raise DataError("its matrix has no inverse")
    return matrix


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_LONGEST + 1)
    if len(content) > _LONGEST:
        raise DataError(f"more than {_LONGEST} bytes, where an affine has some hundred")
    return content


def _matlab_arrays(content: bytes):
    """Yield names and numbers of the arrays of a file of Matlab 4."""
    at = 0
    while at < len(content):
        head = content[at : at + 20]
        order = "<" if 0 <= struct.unpack("<i", head[:4])[0] < 1000 else ">"
        kind, rows, columns, imaginary, length = struct.unpack(f"{order}5i", head)
        if kind not in _NUMBERS or imaginary or min(rows, columns) < 0 or not 0 < length < 200:
            raise DataError(f"an array of type {kind}, {rows} by {columns}, at byte {at}")
        dtype = np.dtype(_NUMBERS[kind])
        start = at + 20 + length
        at = start + rows * columns * dtype.itemsize
        if at > len(content):
            raise DataError("truncated")
        numbers = np.frombuffer(content[start:at], dtype).astype(np.float64)
        yield content[start - length : start].rstrip(b"\0").decode("ascii"), numbers


def _affine(kind: str, parameters: np.ndarray, fixed: np.ndarray) -> Affine:
    """Return the transform of ITK with these parameters, which has its points in LPS."""
    name = _KIND.fullmatch(kind)
    ndim = int(name[2]) if name else 0
    build = _KINDS.get((name[1], ndim)) or _KINDS.get((name[1], 0)) if name else None
    if build is None:
        accepted = ", ".join(dict.fromkeys(known for known, _ in _KINDS))
        raise DataError(f"a transform {kind[:80]!r}, where these are accepted: {accepted}")
    count, parts = build
    if len(parameters) != count(ndim) or not np.isfinite([*parameters, *fixed]).all():
        raise DataError(
            f"{len(parameters)} parameters of {kind}, where {count(ndim)} finite ones are accepted"
        )
    # The flag of Euler3DTransform stands behind its center; a translation has none.
    center = fixed[:ndim] if len(fixed) >= ndim else np.zeros(ndim)
    # What overflows has no inverse.
    with np.errstate(all="ignore"):
        linear, translation = parts(parameters, fixed, ndim)
        offset = translation + center - linear @ center
    flip = np.array([-1, -1, 1][:ndim])
    return Affine(matrix_of(flip[:, None] * linear * flip, flip * offset))


def _itk(affine: Affine) -> tuple[str, np.ndarray]:
    """Return name and parameters of an affine in ITK, about the center 0."""
    ndim = len(affine.matrix) - 1
    flip = np.array([-1, -1, 1][:ndim])
    linear = flip[:, None] * affine.matrix[:ndim, :ndim] * flip
    parameters = np.concatenate([linear.ravel(), flip * affine.matrix[:ndim, ndim]])
    return f"AffineTransform_double_{ndim}_{ndim}", parameters


def _full(p, fixed, n):
    return p[: n * n].reshape(n, n), p[n * n :]


def _euler(p, fixed, n):
    (x, y, z), translation = (_turn(axis, p[axis]) for axis in range(3)), p[3:]
    zyx = len(fixed) > 3 and fixed[3] != 0
    return (z @ y @ x if zyx else z @ x @ y), translation


def _euler_flat(p, fixed, n):
    return _turn(2, p[0])[:2, :2], p[1:]


def _versor(p, fixed, n):
    return _turn_of_versor(p[:3]), (p[3:6] if len(p) > 3 else np.zeros(3))


def _similarity(p, fixed, n):
    return p[6] * _turn_of_versor(p[:3]), p[3:6]


def _similarity_flat(p, fixed, n):
    return p[0] * _turn(2, p[1])[:2, :2], p[2:]


def _turn(axis: int, angle: float) -> np.ndarray:
    """Return the rotation about an axis, right-handed."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[[i, j], [i, j]] = np.cos(angle)
    matrix[j, i], matrix[i, j] = np.sin(angle), -np.sin(angle)
    return matrix


def _turn_of_versor(v: np.ndarray) -> np.ndarray:
    """Return the rotation of a unit quaternion, of which the vector part is given."""
    x, y, z = v
    w = np.sqrt(max(0.0, 1 - v @ v))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


# Name and number of axes, 0 for any -> number of parameters, and function of these to a matrix
# and a translation.
_KINDS = {
    ("AffineTransform", 0): (lambda n: n * n + n, _full),
    ("MatrixOffsetTransformBase", 0): (lambda n: n * n + n, _full),
    ("TranslationTransform", 0): (lambda n: n, lambda p, fixed, n: (np.eye(n), p)),
    ("ScaleTransform", 0): (lambda n: n, lambda p, fixed, n: (np.diag(p), np.zeros(n))),
    ("IdentityTransform", 0): (lambda n: 0, lambda p, fixed, n: (np.eye(n), np.zeros(n))),
    ("Euler3DTransform", 3): (lambda n: 6, _euler),
    ("VersorTransform", 3): (lambda n: 3, _versor),
    ("VersorRigid3DTransform", 3): (lambda n: 6, _versor),
    ("Similarity3DTransform", 3): (lambda n: 7, _similarity),
    ("Euler2DTransform", 2): (lambda n: 3, _euler_flat),
    ("Rigid2DTransform", 2): (lambda n: 3, _euler_flat),
    ("Similarity2DTransform", 2): (lambda n: 4, _similarity_flat),
}
