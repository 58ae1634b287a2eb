"""Clothes: colours as a city wears them, cuts, cloth and prints, drawn at random."""

from dataclasses import dataclass, field

import numpy as np

__all__ = ['BOTTOMS', 'COLOURS', 'FABRICS', 'SHOES', 'TOPS', 'Garment', 'choice', 'draw_bottom', 'draw_shoes']
__all__ += ['draw_top', 'pick', 'uniform']

TOPS = ('tshirt', 'longsleeve', 'sleeveless', 'shirt', 'sweater', 'hoodie')
TOPS += ('jacket', 'coat', 'vest', 'cardigan', 'blazer', 'puffer', 'hivis')
OUTER = TOPS[6:]
BOTTOMS = ('trousers', 'jeans', 'leggings', 'shorts', 'skirt')
SHOES = ('shoes', 'boots', 'sandals')
FABRICS = ('plain', 'knit', 'denim', 'leather', 'quilted')

#: Linear reflectances.
COLOURS = {
    'black': (0.016, 0.016, 0.018), 'charcoal': (0.045, 0.045, 0.05), 'grey': (0.15, 0.15, 0.155),
    'light grey': (0.38, 0.38, 0.38), 'white': (0.7, 0.7, 0.68), 'navy': (0.018, 0.023, 0.05),
    'denim': (0.055, 0.085, 0.16), 'dark denim': (0.025, 0.035, 0.07), 'light denim': (0.2, 0.26, 0.35),
    'beige': (0.42, 0.34, 0.24), 'khaki': (0.2, 0.16, 0.1), 'olive': (0.065, 0.07, 0.035),
    'brown': (0.075, 0.045, 0.028), 'tan': (0.27, 0.16, 0.085), 'burgundy': (0.09, 0.015, 0.022),
    'rust': (0.22, 0.07, 0.03), 'mustard': (0.4, 0.25, 0.05), 'forest': (0.025, 0.065, 0.035),
    'sage': (0.2, 0.25, 0.17), 'steel': (0.09, 0.13, 0.19), 'teal': (0.025, 0.1, 0.11), 'sky': (0.3, 0.42, 0.55),
    'lilac': (0.32, 0.26, 0.4), 'dusty pink': (0.45, 0.28, 0.28), 'plum': (0.07, 0.03, 0.08),
    'red': (0.35, 0.025, 0.03), 'orange': (0.55, 0.16, 0.03), 'yellow': (0.6, 0.45, 0.06), 'green': (0.04, 0.2, 0.07),
    'blue': (0.025, 0.07, 0.3), 'purple': (0.11, 0.04, 0.2), 'pink': (0.6, 0.25, 0.33),
}  # fmt: skip
_MUTED = ('burgundy', 'rust', 'mustard', 'forest', 'sage', 'steel', 'teal', 'sky', 'lilac', 'dusty pink', 'plum')
_BRIGHT = ('red', 'orange', 'yellow', 'green', 'blue', 'purple', 'pink')


def _palette(muted: float, bright: float, **others: float) -> dict[str, float]:
    """Shares of colours by name; `_` in a name is a blank."""
    shares = {name.replace('_', ' '): share for name, share in others.items()}
    shares |= {name: shares.get(name, 0) + muted / len(_MUTED) for name in _MUTED}
    return shares | {name: bright / len(_BRIGHT) for name in _BRIGHT}


# People of a mall wear fewer layers and lighter colours than those of a street.
_TOP_COLOURS = {
    'street': _palette(
        0.16, 0.06, black=0.27, charcoal=0.1, grey=0.11, navy=0.11, white=0.1, light_grey=0.05, beige=0.04, brown=0.03
    ),
    'mall': _palette(
        0.25, 0.08, black=0.16, charcoal=0.05, grey=0.09, navy=0.06, white=0.21, light_grey=0.06, beige=0.07
    ),
}
_OUTER_COLOURS = {
    'street': _palette(
        0.07, 0.04, black=0.36, charcoal=0.11, navy=0.15, grey=0.08, olive=0.06, brown=0.04, beige=0.05, tan=0.03
    ),
    'mall': _palette(
        0.12, 0.05, black=0.25, charcoal=0.07, navy=0.1, grey=0.11, olive=0.05, beige=0.12, denim=0.08, white=0.05
    ),
}
_LEG_COLOURS = {
    'street': _palette(0.03, 0.01, black=0.36, charcoal=0.14, navy=0.14, grey=0.12, beige=0.08, khaki=0.07, olive=0.04),
    'mall': _palette(0.06, 0.02, black=0.28, charcoal=0.1, navy=0.1, grey=0.13, beige=0.15, khaki=0.06, white=0.09),
}
_JEANS = {'denim': 0.32, 'dark denim': 0.36, 'light denim': 0.14, 'black': 0.14, 'grey': 0.04}
_SKIRT_COLOURS = _palette(0.25, 0.1, black=0.3, charcoal=0.07, navy=0.1, grey=0.07, denim=0.05, beige=0.06, white=0.05)
_SHOE_COLOURS = _palette(
    0.02, 0.04, black=0.45, charcoal=0.08, brown=0.09, white=0.16, grey=0.08, navy=0.04, tan=0.04, beige=0.02
)
_TOP_PATTERNS = {
    'plain': 0.66, 'logo': 0.08, 'lettering': 0.06, 'stripes': 0.05, 'wide stripes': 0.02, 'blocks': 0.02,
    'checks': 0.02, 'back print': 0.02, 'band': 0.02, 'flowers': 0.02, 'vertical stripes': 0.01, 'dots': 0.01,
    'camouflage': 0.005, 'diamonds': 0.005, 'heather': 0.06,
}  # fmt: skip
_OUTER_PATTERNS = {
    'plain': 0.82, 'checks': 0.04, 'blocks': 0.04, 'back print': 0.03, 'lettering': 0.03, 'band': 0.02,
    'camouflage': 0.01, 'heather': 0.05,
}  # fmt: skip
_LEG_PATTERNS = {'plain': 0.91, 'side stripe': 0.05, 'checks': 0.015, 'camouflage': 0.015, 'vertical stripes': 0.01}
_SKIRT_PATTERNS = {'plain': 0.62, 'flowers': 0.14, 'checks': 0.08, 'dots': 0.05, 'wide stripes': 0.04, 'stripes': 0.04}
# metres a top stands off, and hem above the hips; the other attributes of a `Garment` that a kind always has
_CUTS = {
    'tshirt': ((0.01, 0.035), (-0.12, -0.02), dict(smooth=12)),
    'longsleeve': ((0.008, 0.026), (-0.12, -0.02), dict(sleeve=1.0, smooth=12)),
    'sleeveless': ((0.006, 0.02), (-0.1, -0.01), dict(sleeve=0.02, smooth=10)),
    'shirt': ((0.012, 0.032), (-0.13, -0.03), dict(collar=0.02, smooth=14, trim_on='zip')),
    'sweater': ((0.018, 0.035), (-0.1, -0.02), dict(sleeve=1.01, smooth=16, fabric='knit')),
    'hoodie': ((0.022, 0.04), (-0.12, -0.04), dict(sleeve=1.02, collar=0.035, smooth=18)),
    'jacket': ((0.026, 0.045), (-0.13, 0.0), dict(sleeve=1.03, collar=0.03, smooth=20)),
    'coat': ((0.026, 0.042), (-0.55, -0.26), dict(sleeve=1.03, collar=0.035, smooth=20)),
    'vest': ((0.03, 0.045), (-0.1, 0.0), dict(sleeve=0.03, collar=0.035, smooth=18)),
    'cardigan': ((0.02, 0.035), (-0.3, -0.04), dict(sleeve=1.02, smooth=16, fabric='knit')),
    'blazer': ((0.022, 0.034), (-0.18, -0.1), dict(sleeve=1.0, smooth=20, vneck=True)),
    'puffer': ((0.032, 0.052), (-0.35, 0.0), dict(sleeve=1.03, collar=0.05, smooth=20, fabric='quilted')),
    'hivis': ((0.03, 0.045), (-0.12, -0.04), dict(sleeve=0.03, smooth=18, pattern='reflective')),
}


@dataclass
class Garment:
    """A piece of clothing.

    Attributes:
        kind: one of `TOPS`, `BOTTOMS` or `SHOES`.
        pattern: one of `patterns.PATTERNS`.
        colours: [2, 3] linear reflectances.
        length: tops: hem above the hips in metres; bottoms: share of the way from waist to ankle; shoes: metres up.
        sleeve: share of the arm from shoulder (0) to wrist (1).
        loose: metres by which it stands off.
        smooth: rounds of smoothing: how little of the body's shape shows.
        collar: metres above the neck's base; vneck: cut out in front or not; open: half the open front's width, metres.
        flare: by how much a skirt, or the legs of trousers, widen to the hem; below 0 they taper.
        trim: second colour on `trim_on` (edges, sleeves, zip), or None.
        fabric: one of `FABRICS`.
        hood: has one, down on the back.
        size: scale of the pattern.
        seed: of wrinkles and of the pattern's own randomness.
    """

    kind: str
    pattern: str = 'plain'
    colours: np.ndarray = field(default_factory=lambda: np.full((2, 3), 0.2))
    length: float = 0.0
    sleeve: float = 0.0
    loose: float = 0.0
    smooth: int = 6
    collar: float = 0.0
    vneck: bool = False
    open: float = 0.0
    flare: float = 0.0
    trim: np.ndarray | None = None
    trim_on: str = 'edges'
    fabric: str = 'plain'
    hood: bool = False
    size: float = 1.0
    seed: int = 0


def choice(rng: np.random.Generator, shares: dict):
    """A key, as likely as its value says."""
    names = list(shares)
    return names[rng.choice(len(names), p=np.array(list(shares.values())) / sum(shares.values()))]


def pick(rng: np.random.Generator, palette: dict[str, float]) -> np.ndarray:
    """A colour [3] near one of `COLOURS`: no two batches of cloth are dyed the same."""
    colour = np.array(COLOURS[choice(rng, palette)]) * np.exp(rng.normal(0, 0.22)) * np.exp(rng.normal(0, 0.05, 3))
    return np.clip(colour, 0.01, 0.8)


def _pair(rng: np.random.Generator, palette: dict[str, float]) -> np.ndarray:
    """A garment's first colour, and a second one that differs enough to be seen."""
    first = pick(rng, palette)
    second = _palette(0.3, 0.15, white=0.2, light_grey=0.1, black=0.15, navy=0.1, grey=0.1)
    while True:
        other = pick(rng, second)
        if np.abs(np.sqrt(first) - np.sqrt(other)).max() > 0.25:
            return np.stack([first, other])


def draw_top(rng: np.random.Generator, domain: str, kind: str) -> Garment:
    """A top or jacket of the given kind in random cloth."""
    outer = kind in OUTER
    loose, length, fixed = _CUTS[kind]
    colours = _pair(rng, (_OUTER_COLOURS if outer else _TOP_COLOURS)[domain])
    zipped = 'zip' if outer and rng.random() < 0.5 else choice(rng, {'edges': 0.7, 'sleeves': 0.3})
    shape = dict(
        sleeve=rng.uniform(0.3, 0.5) if kind == 'tshirt' else choice(rng, {1.0: 0.6, 0.62: 0.2, 0.42: 0.2}),
        pattern=choice(rng, _OUTER_PATTERNS if outer else _TOP_PATTERNS),
        trim=colours[1] if rng.random() < 0.13 else None,
        trim_on=zipped,
        vneck=bool(rng.random() < 0.2) and not outer,
        open=rng.uniform(0.03, 0.1) if outer and rng.random() < 0.5 else 0.0,
        fabric='leather' if kind == 'jacket' and rng.random() < 0.2 else 'plain',
        hood=kind == 'hoodie' or (kind in ('jacket', 'puffer', 'coat') and rng.random() < 0.4),
    )
    if kind == 'shirt':
        shape['pattern'] = choice(rng, {'plain': 0.72, 'checks': 0.12, 'vertical stripes': 0.1, 'flowers': 0.06})
        shape['trim'] = 0.6 * colours[0]
    elif kind == 'blazer':
        shape |= dict(open=rng.uniform(0.05, 0.1), pattern=choice(rng, {'plain': 0.85, 'heather': 0.15}), trim=None)
    elif kind == 'cardigan':
        shape |= dict(open=rng.uniform(0.05, 0.12), pattern=choice(rng, {'plain': 0.8, 'wide stripes': 0.2}))
    elif kind == 'jacket' and shape['fabric'] == 'plain' and rng.random() < 0.12:
        colours[0], shape['fabric'], shape['pattern'] = pick(rng, _JEANS), 'denim', 'plain'
    elif kind == 'hivis':
        colours = np.array([[(0.75, 0.22, 0.03), (0.62, 0.68, 0.06)][rng.integers(2)], COLOURS['light grey']])
        shape['trim'] = None
    return Garment(
        kind, colours=colours, loose=rng.uniform(*loose), length=rng.uniform(*length), size=rng.uniform(0.7, 1.5),
        seed=int(rng.integers(1 << 30)), **shape | fixed,
    )  # fmt: skip


def draw_bottom(rng: np.random.Generator, domain: str, kind: str) -> Garment:
    """Trousers, shorts or a skirt in random cloth."""
    widths = choice(rng, {0.008: 0.2, 0.016: 0.35, 0.026: 0.25, 0.04: 0.13, 0.06: 0.07})
    shape = {
        'trousers': dict(length=rng.uniform(0.92, 1.0), loose=widths, flare=rng.uniform(-0.7, 0.6)),
        'jeans': dict(length=rng.uniform(0.92, 1.0), loose=widths, flare=rng.uniform(-0.7, 0.4), fabric='denim'),
        'leggings': dict(length=rng.choice([0.6, 0.94, 0.97]), loose=0.002),
        'shorts': dict(length=rng.uniform(0.38, 0.6), loose=rng.uniform(0.015, 0.05)),
        'skirt': dict(
            length=rng.choice([0.42, 0.52, 0.62, 0.85]) + rng.uniform(-0.04, 0.04), flare=rng.uniform(0, 0.6)
        ),
    }[kind]
    palette = {'jeans': _JEANS, 'skirt': _SKIRT_COLOURS}.get(kind, _LEG_COLOURS[domain])
    patterns = {'skirt': _SKIRT_PATTERNS, 'jeans': {'plain': 1}}.get(kind, _LEG_PATTERNS)
    return Garment(
        kind, choice(rng, patterns), _pair(rng, palette), size=rng.uniform(0.7, 1.4), seed=int(rng.integers(1 << 30)),
        **shape,
    )  # fmt: skip


def draw_shoes(rng: np.random.Generator, bare: bool) -> Garment:
    """Shoes, boots, or sandals with `bare` legs."""
    kind = choice(rng, {'shoes': 0.7, 'boots': 0.2, 'sandals': 0.35 if bare else 0.03})
    colours = _pair(rng, _SHOE_COLOURS)
    trim = (colours[0], np.array(COLOURS['white']), colours[1])[choice(rng, {0: 0.6, 1: 0.3, 2: 0.1})]
    length = {'shoes': rng.uniform(0.0, 0.03), 'boots': rng.uniform(0.08, 0.32), 'sandals': 0.0}[kind]
    return Garment(kind, colours=colours, length=length, loose=rng.uniform(0.002, 0.008), trim=trim)


def uniform(rng: np.random.Generator, domain: str) -> tuple[Garment, Garment | None, Garment]:
    """Top, outer and bottom that people of one trade wear: a building site, guards, a kitchen, an office."""
    trade = choice(rng, {'site': 0.35, 'guard': 0.2, 'kitchen': 0.1, 'office': 0.35})
    legs = draw_bottom(rng, domain, 'trousers')
    legs.pattern = 'plain'
    top, outer = draw_top(rng, domain, 'shirt'), None
    if trade == 'site':
        outer = draw_top(rng, domain, 'hivis')
        legs.pattern, legs.size = 'reflective legs', 1.0
        legs.colours = np.array([pick(rng, {'navy': 0.5, 'charcoal': 0.3, 'khaki': 0.2}), COLOURS['light grey']])
    elif trade == 'guard':
        outer = draw_top(rng, domain, 'jacket')
        outer.colours = np.array([pick(rng, {'black': 0.6, 'navy': 0.4}), COLOURS['white']])
        outer.pattern, outer.fabric, outer.open, outer.trim = 'lettering', 'plain', 0.0, None
        legs.colours = outer.colours
    elif trade == 'kitchen':
        top.colours, top.pattern = np.array([COLOURS['white'], COLOURS['grey']]), 'plain'
    else:
        outer = draw_top(rng, domain, 'blazer')
        outer.colours = legs.colours = np.tile(pick(rng, {'black': 0.4, 'charcoal': 0.3, 'navy': 0.3}), (2, 1))
        outer.pattern = top.pattern = 'plain'
        top.colours = np.tile(pick(rng, {'white': 0.7, 'sky': 0.3}), (2, 1))
    return top, outer, legs
