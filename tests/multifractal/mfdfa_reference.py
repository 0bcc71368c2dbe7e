"""The analyses from their definitions, in float64 numpy: slow, plain and independent."""

import numpy as np
from scipy.special import logsumexp


def profile(x):
    x = np.asarray(x, np.longdouble)
    return np.cumsum(x - x.mean())


def residuals(x, s, order):
    """Return what a least-squares polynomial leaves of the 2 N_s segments `[2 N_s, s]`."""
    y = profile(x)
    used = len(y) // s * s
    segments = np.concatenate([y[:used], y[len(y) - used :]]).reshape(-1, s)
    local = (segments - segments[:, :1]).astype(float)
    basis, _ = np.linalg.qr(np.vander(np.linspace(-1, 1, s), order + 1))
    return local - (local @ basis) @ basis.T


def moving_average_residuals(x, s, theta):
    """Return profile less moving average in segments `[N_s, s]`: Gu and Zhou 2010, eqs 1-5."""
    y = np.cumsum(np.asarray(x, np.longdouble))
    behind, ahead = int(np.ceil((s - 1) * (1 - theta))), int(np.floor((s - 1) * theta))
    times = range(behind, len(y) - ahead)
    residual = [float(y[t] - y[t - behind : t + ahead + 1].mean()) for t in times]
    count = len(residual) // s
    return np.reshape(residual[: count * s], (count, s))


def log_moments(f2, q):
    """Return ln F_q of the segments' F2 `[segment]` for every q."""
    log_f2 = np.log(f2)
    mean = log_f2.mean()
    if q == 0:
        return mean / 2
    if abs(q) < 0.1:  # The plain formula divides its rounding by q.
        return mean / 2 + np.log1p(np.expm1(q / 2 * (log_f2 - mean)).mean()) / q
    return (logsumexp(q / 2 * log_f2) - np.log(len(f2))) / q


def log_fluctuation(f2_of_scale, scales, q):
    """Return ln F_q(s) `[q, scale]`."""
    f2 = [f2_of_scale(s) for s in scales]
    return np.array([[log_moments(segments, v) for segments in f2] for v in q])


def mfdfa(x, scales, q, order):
    return log_fluctuation(lambda s: (residuals(x, s, order) ** 2).mean(axis=1), scales, q)


def mfdma(x, scales, q, theta):
    f2 = lambda s: (moving_average_residuals(x, s, theta) ** 2).mean(axis=1)
    return log_fluctuation(f2, scales, q)


def mfdcca(x, y, scales, q, order):
    """Return ln F_xy(q, s) and the DCCA coefficient rho(s)."""
    product = lambda u, v, s: (residuals(u, s, order) * residuals(v, s, order)).mean(axis=1)
    mean = lambda u, v: np.array([product(u, v, s).mean() for s in scales])
    log_f = log_fluctuation(lambda s: np.abs(product(x, y, s)), scales, q)
    return log_f, mean(x, y) / np.sqrt(mean(x, x) * mean(y, y))


def slopes(scales, lines):
    return np.array([np.polyfit(np.log(scales), line, 1)[0] for line in lines])
