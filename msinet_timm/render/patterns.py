"""Patterns: functions of a garment's own coordinates, so that they stick to the cloth however it moves."""

import functools

import numpy as np

__all__ = ['PATTERNS', 'paint', 'value_noise']


def value_noise(points: np.ndarray, cell: float, seed: int) -> np.ndarray:
    """Smooth noise from 0 to 1 at `points` [N, D], with features of about `cell` in the unit of the points."""
    table = np.random.default_rng(seed).random(4096).astype(np.result_type(points, np.float32))
    p = points.T / cell
    low = np.floor(p).astype(np.int64)
    t = p - low
    t = t * t * (3 - 2 * t)
    codes = [(k * prime, (k + 1) * prime) for k, prime in zip(low, (73856093, 19349663, 83492791), strict=False)]
    shares = [(1 - x, x) for x in t]
    out = np.zeros(len(points), table.dtype)
    for corner in np.ndindex(*[2] * len(p)):
        weight = functools.reduce(np.multiply, [pair[k] for pair, k in zip(shares, corner, strict=True)])
        out += weight * table[sum(pair[k] for pair, k in zip(codes, corner, strict=True)) % 4096]
    return out


def _stripes(x: np.ndarray, period: float, share: float) -> np.ndarray:
    return (np.mod(x / period, 1.0) < share).astype(float)


def _plain(u, v, n, size, seed):
    return np.zeros_like(u)


def _horizontal(u, v, n, size, seed):
    return _stripes(v, 0.045 * size, 0.45)


def _wide(u, v, n, size, seed):
    return _stripes(v, 0.13 * size, 0.5)


def _vertical(u, v, n, size, seed):
    return _stripes(u, 0.05 * size, 0.4)


def _checks(u, v, n, size, seed):
    return (_stripes(u, 0.1 * size, 0.5) + _stripes(v, 0.1 * size, 0.5)) / 2


def _diamonds(u, v, n, size, seed):
    return np.abs(_stripes(u + v, 0.12 * size, 0.5) - _stripes(u - v, 0.12 * size, 0.5))


def _dots(u, v, n, size, seed):
    a, b = np.mod(u / (0.075 * size), 1) - 0.5, np.mod(v / (0.075 * size), 1) - 0.5
    return (a * a + b * b < 0.09).astype(float)


def _camouflage(u, v, n, size, seed):
    noise = value_noise(np.stack([u, v], 1), 0.075 * size, seed)
    return np.select([noise > 0.58, noise > 0.45], [1.0, 0.5], 0.0)


def _flowers(u, v, n, size, seed):
    noise = value_noise(np.stack([u, v], 1), 0.045 * size, seed)
    return (noise > 0.66) + 0.5 * ((noise > 0.58) & (noise <= 0.66))


def _logo(u, v, n, size, seed):
    rng = np.random.default_rng(seed)
    a, b = (u - 0.0) / (0.1 * size), (v - rng.uniform(0.36, 0.44)) / (0.085 * size)
    shape = rng.integers(4)
    inside = [
        a * a + b * b < 1,
        np.maximum(np.abs(a), np.abs(b)) < 0.9,
        np.abs(a) + np.abs(b) < 1.2,
        (np.abs(b) < 0.5) & (np.abs(a) < 1.3),
    ][shape]
    hole = value_noise(np.stack([a, b], 1), 0.55, seed) > 0.58
    return (inside & ~hole & (n < 0)).astype(float)


def _back(u, v, n, size, seed):
    half = 0.5 * np.pi * 0.17  # where the back's middle is on the way round a torso
    around = np.abs(np.abs(u) - 2 * half)
    return ((around < 0.1 * size) & (np.abs(v - 0.4) < 0.1 * size) & (n > 0)).astype(float)


def _band(u, v, n, size, seed):
    return (np.abs(v - 0.36) < 0.05 * size).astype(float)


def _blocks(u, v, n, size, seed):
    return (v > np.random.default_rng(seed).uniform(0.22, 0.42)).astype(float)


def _side(u, v, n, size, seed):
    # Legs are narrower than hips, and have an inner side.
    away = np.where(v < -0.06, np.abs(u - 0.5 * np.pi * 0.11), np.abs(np.abs(u) - 0.5 * np.pi * 0.17))
    return (away < 0.025 * size).astype(float)


def _lettering(u, v, n, size, seed):
    """Two lines of blocks as broad as letters on chest or back."""
    rng = np.random.default_rng(seed)
    middle, back = rng.uniform(0.34, 0.44), rng.random() < 0.35
    around = np.abs(np.abs(u) - np.pi * 0.17) if back else np.abs(u)
    letter = np.floor(u / (0.028 * size)).astype(np.int64)
    inked = (np.mod(u / (0.028 * size), 1) < 0.72) & (rng.random(997)[letter % 997] < 0.85)
    lines = (np.abs(v - middle) < 0.026 * size) | (np.abs(v - middle + 0.07 * size) < 0.014 * size)
    return (inked & lines & (around < 0.13 * size) & ((n > 0) if back else (n < 0))).astype(float)


def _heather(u, v, n, size, seed):
    return 0.3 * value_noise(np.stack([u, v], 1), 0.014 * size, seed)


def _reflective(u, v, n, size, seed):
    around = (np.abs(v - 0.1) < 0.026) | (np.abs(v - 0.24) < 0.026)
    braces = (np.abs(np.abs(np.mod(u / 0.17 + np.pi / 2, np.pi) - np.pi / 2) - 0.55) < 0.16) & (v > 0.24)
    return (around | braces).astype(float)


def _reflective_legs(u, v, n, size, seed):
    return ((np.abs(v + 0.52) < 0.026) | (np.abs(v + 0.66) < 0.026)).astype(float)


# name -> mask from 0 (first colour) to 1 (second colour) of: u, metres around the limb or torso from its front; v,
# metres up from the hips (arms: from the wrist); n, the normal's y (negative: front); a size; a seed
PATTERNS = {
    'plain': _plain,
    'stripes': _horizontal,
    'wide stripes': _wide,
    'vertical stripes': _vertical,
    'checks': _checks,
    'diamonds': _diamonds,
    'dots': _dots,
    'camouflage': _camouflage,
    'flowers': _flowers,
    'logo': _logo,
    'back print': _back,
    'band': _band,
    'blocks': _blocks,
    'side stripe': _side,
    'lettering': _lettering,
    'heather': _heather,
    'reflective': _reflective,
    'reflective legs': _reflective_legs,
}


def paint(name: str, data: dict[str, np.ndarray], colours: np.ndarray, size: float, seed: int) -> np.ndarray:
    """Colours for the vertices of a garment.

    Args:
        name: one of `PATTERNS`.
        data: a garment's vertex arrays: `u`, `v`, `normal` and `arm`.
        colours: [2, 3] linear reflectances from 0 to 1.
        size: scale of the pattern, about 0.6 to 1.6.
        seed: of what is random in the pattern.

    Returns:
        [V, 3] linear reflectances.
    """
    mask = PATTERNS[name](data['u'], data['v'], data['normal'][:, 1], size, seed)
    if name in ('logo', 'back print', 'lettering'):
        mask = mask * (data['arm'] < 0.5)
    return colours[0] + (colours[1] - colours[0]) * mask[:, None]
