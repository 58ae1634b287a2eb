"""Who a person is: body shape, skin, hair, clothes, bag and hat, drawn at random for a number."""

import zlib
from dataclasses import dataclass, field

import numpy as np

__all__ = ['BAGS', 'BOTTOMS', 'DOMAINS', 'HAIR', 'HATS', 'TOPS', 'Garment', 'Identity', 'draw_bottom', 'draw_identity']
__all__ += ['draw_top', 'generator']

DOMAINS = ('street', 'mall')
TOPS = ('tshirt', 'longsleeve', 'sleeveless', 'hoodie', 'jacket', 'coat', 'vest')
BOTTOMS = ('trousers', 'shorts', 'skirt')
HAIR = ('bald', 'buzz', 'short', 'curly', 'afro', 'bob', 'long', 'bun', 'ponytail')
HATS = (None, 'cap', 'beanie', 'sunhat')
BAGS = (None, 'backpack', 'shoulder', 'tote')

# Linear reflectances. Real clothes crowd around few colours, so that these alone tell few people apart.
_COLOURS = {
    'black': (0.018, 0.018, 0.02), 'white': (0.72, 0.72, 0.7), 'grey': (0.2, 0.2, 0.205),
    'light grey': (0.42, 0.42, 0.42), 'navy': (0.02, 0.028, 0.075), 'beige': (0.5, 0.4, 0.27),
    'denim': (0.06, 0.1, 0.2), 'light denim': (0.2, 0.28, 0.4),
    'khaki': (0.22, 0.18, 0.1), 'olive': (0.08, 0.09, 0.035), 'brown': (0.1, 0.05, 0.025),
    'burgundy': (0.13, 0.012, 0.022), 'red': (0.45, 0.02, 0.025), 'orange': (0.6, 0.18, 0.03),
    'yellow': (0.65, 0.48, 0.05), 'green': (0.03, 0.2, 0.06),
    'teal': (0.02, 0.2, 0.22), 'sky': (0.25, 0.45, 0.65), 'blue': (0.02, 0.07, 0.4), 'purple': (0.13, 0.04, 0.25),
    'pink': (0.65, 0.28, 0.36),
}  # fmt: skip
_BRIGHT = ('red', 'orange', 'yellow', 'green', 'teal', 'sky', 'blue', 'purple', 'pink', 'burgundy', 'olive', 'brown')
_TOPS = {
    'street': ('black', 'black', 'white', 'grey', 'navy', 'navy', 'beige', 'light grey'),
    'mall': ('white', 'white', 'black', 'light grey', 'beige', 'sky', 'pink'),
}
_BOTTOMS = {
    'street': ('black', 'black', 'navy', 'denim', 'denim', 'grey', 'khaki'),
    'mall': ('black', 'denim', 'light denim', 'light denim', 'beige', 'white', 'grey'),
}
_SKINS = np.array(
    [
        (0.62, 0.42, 0.32),
        (0.55, 0.35, 0.25),
        (0.46, 0.28, 0.18),
        (0.34, 0.19, 0.11),
        (0.2, 0.1, 0.055),
        (0.1, 0.05, 0.03),
    ]
)
_HAIRS = np.array(
    [(0.012, 0.01, 0.01), (0.03, 0.018, 0.012), (0.08, 0.04, 0.02), (0.2, 0.11, 0.045), (0.42, 0.3, 0.14)]
    + [(0.22, 0.05, 0.02), (0.4, 0.4, 0.4)]
)
_STYLES = ('bald', 'buzz', 'short', 'short', 'curly', 'afro', 'bob', 'long', 'long', 'bun', 'ponytail')
_TOP_PATTERNS = ('plain',) * 6 + ('stripes', 'wide stripes', 'checks', 'logo', 'blocks') * 2
_TOP_PATTERNS += ('vertical stripes', 'diamonds', 'dots', 'camouflage', 'flowers', 'back print', 'band')
_OUTER_PATTERNS = ('plain',) * 5 + ('stripes', 'checks', 'blocks', 'band', 'camouflage', 'back print')
_LEG_PATTERNS = ('plain',) * 11 + ('side stripe', 'side stripe', 'checks', 'vertical stripes', 'camouflage')
_SKIRT_PATTERNS = ('plain', 'plain', 'checks', 'dots', 'flowers', 'wide stripes', 'diamonds', 'vertical stripes')


@dataclass
class Garment:
    """A piece of clothing.

    Attributes:
        kind: one of `TOPS` or `BOTTOMS`, or shoes, boots.
        pattern: one of `patterns.PATTERNS`.
        colours: [2, 3] linear reflectances.
        length: tops: hem above the hips in metres; bottoms: share of the way from waist to ankle; shoes: metres up.
        sleeve: share of the arm from shoulder (0) to wrist (1).
        loose: metres by which it stands off.
        smooth: rounds of smoothing: how little of the body's shape shows.
        collar: metres above the neck's base; vneck: cut out in front or not; open: half the open front's width, metres.
        flare: by how much a skirt widens to its hem.
        trim: second colour on `trim_on` (edges, sleeves, zip), or None.
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
    size: float = 1.0
    seed: int = 0


@dataclass
class Identity:
    """All that stays the same about a person. Colours are linear reflectances [3]."""

    phenotype: dict[str, float]
    skin: np.ndarray
    hair: str
    hair_colour: np.ndarray
    volume: float
    beard: bool
    top: Garment
    outer: Garment | None
    bottom: Garment
    shoes: Garment
    hat: str | None
    hat_colour: np.ndarray
    bag: str | None
    bag_colour: np.ndarray
    bag_size: float
    seed: int


def generator(seed: int, domain: str, *numbers: int) -> np.random.Generator:
    """A random generator that depends on nothing but its arguments."""
    return np.random.default_rng([seed, zlib.crc32(domain.encode()), *numbers])


def _colour(rng: np.random.Generator, names: tuple[str, ...]) -> np.ndarray:
    return np.clip(
        np.array(_COLOURS[rng.choice(names)]) * rng.uniform(0.8, 1.25) * rng.uniform(0.92, 1.08, 3), 0.01, 0.8
    )


def _pair(rng: np.random.Generator, names: tuple[str, ...], bright: float) -> np.ndarray:
    """A garment's first colour, and a second one that differs enough to be seen."""
    first = _colour(rng, _BRIGHT if rng.random() < bright else names)
    while True:
        second = _colour(rng, ('white', 'black', 'grey', 'light grey', 'navy', 'beige', *rng.choice(_BRIGHT, 4)))
        if np.abs(np.sqrt(first) - np.sqrt(second)).max() > 0.25:
            return np.stack([first, second])


def draw_top(rng: np.random.Generator, domain: str, kind: str) -> Garment:
    """A top or jacket of the given kind in random cloth."""
    colours = _pair(rng, _TOPS[domain], 0.15)
    trim = colours[1] if rng.random() < 0.3 else None
    shape = {
        'tshirt': dict(sleeve=rng.uniform(0.3, 0.5), loose=rng.uniform(0.004, 0.02), length=rng.uniform(-0.1, 0.02)),
        'longsleeve': dict(sleeve=1.0, loose=rng.uniform(0.004, 0.018), length=rng.uniform(-0.1, 0.02)),
        'sleeveless': dict(sleeve=0.02, loose=rng.uniform(0.002, 0.01), length=rng.uniform(-0.06, 0.03)),
        'hoodie': dict(
            sleeve=1.02, loose=rng.uniform(0.022, 0.035), length=rng.uniform(-0.12, -0.02), collar=0.035, smooth=12
        ),
        'jacket': dict(
            sleeve=1.03, loose=rng.uniform(0.025, 0.042), length=rng.uniform(-0.1, 0.02), collar=0.03, smooth=16
        ),
        'coat': dict(
            sleeve=1.03, loose=rng.uniform(0.025, 0.04), length=rng.uniform(-0.5, -0.26), collar=0.035, smooth=16
        ),
        'vest': dict(
            sleeve=0.03, loose=rng.uniform(0.03, 0.045), length=rng.uniform(-0.08, 0.02), collar=0.035, smooth=14
        ),
    }[kind]
    outer = kind in ('jacket', 'coat', 'vest')
    return Garment(
        kind,
        str(rng.choice(_OUTER_PATTERNS if outer else _TOP_PATTERNS)),
        colours,
        trim=trim,
        trim_on='zip' if outer and rng.random() < 0.5 else str(rng.choice(['edges', 'sleeves'])),
        vneck=bool(rng.random() < 0.25) and not outer,
        open=rng.uniform(0.03, 0.09) if outer and rng.random() < 0.55 else 0.0,
        size=rng.uniform(0.7, 1.5),
        seed=int(rng.integers(1 << 30)),
        **shape,
    )


def draw_bottom(rng: np.random.Generator, domain: str, kind: str) -> Garment:
    """Trousers, shorts or a skirt in random cloth."""
    shape = {
        'trousers': dict(length=rng.uniform(0.93, 0.99), loose=rng.choice([0.004, 0.018, 0.032, 0.055])),
        'shorts': dict(length=rng.uniform(0.38, 0.6), loose=rng.uniform(0.01, 0.05)),
        'skirt': dict(
            length=rng.choice([0.42, 0.52, 0.62, 0.85]) + rng.uniform(-0.04, 0.04), flare=rng.uniform(0.05, 0.75)
        ),
    }[kind]
    colours = _pair(rng, _BOTTOMS[domain], 0.2 if kind == 'skirt' else 0.04)
    pattern = str(rng.choice(_SKIRT_PATTERNS if kind == 'skirt' else _LEG_PATTERNS))
    return Garment(kind, pattern, colours, size=rng.uniform(0.7, 1.4), seed=int(rng.integers(1 << 30)), **shape)


def _choice(rng: np.random.Generator, shares: dict):
    names = list(shares)
    return names[rng.choice(len(names), p=np.array(list(shares.values())) / sum(shares.values()))]


def draw_identity(seed: int, domain: str, number: int) -> Identity:
    """The person with a number; the same for the same arguments, whatever else was drawn before.

    Args:
        seed: of the whole data set.
        domain: one of `DOMAINS`; decides how people dress.
        number: any integer from 0.
    """
    rng = generator(seed, domain, 1, number)
    skin = rng.uniform(0, len(_SKINS) - 1.01)
    low, part = int(skin), skin % 1
    woman = rng.random() < 0.5
    phenotype = dict(
        gender=float(rng.uniform(0.75, 1) if woman else rng.uniform(0, 0.25)),
        age=float(
            rng.choice([rng.uniform(0.45, 0.58), rng.uniform(0.6, 0.75), rng.uniform(0.78, 0.95)], p=[0.2, 0.6, 0.2])
        ),
        muscle=float(rng.uniform(0.3, 0.8)),
        weight=float(np.clip(rng.normal(0.5, 0.22), 0.1, 1)),
        height=float(np.clip(rng.normal(0.5, 0.2), 0.05, 0.95)),
        proportions=float(rng.uniform(0.3, 0.9)),
    )
    cold = domain == 'street'
    top = draw_top(rng, domain, _choice(rng, dict(tshirt=0.4, longsleeve=0.3, sleeveless=0.1, hoodie=0.2)))
    layer = _choice(rng, {None: 0.58 if cold else 0.8, 'jacket': 0.24, 'coat': 0.1 if cold else 0.03, 'vest': 0.06})
    outer = draw_top(rng, domain, layer) if layer else None
    if outer:
        top.loose = min(top.loose, 0.008)
        top.collar = 0.0
        top.sleeve = min(top.sleeve, outer.sleeve - 0.06) if layer != 'vest' else top.sleeve
        top.length = max(top.length, outer.length + 0.02)
    skirts = 0.34 if woman else 0.03
    bottom = draw_bottom(rng, domain, _choice(rng, dict(trousers=0.8 - skirts, shorts=0.2, skirt=skirts)))
    if bottom.kind == 'skirt' and rng.random() < 0.35 and not outer:  # a dress
        bottom.colours, bottom.pattern, bottom.size = top.colours, top.pattern, top.size
        if top.pattern in ('logo', 'back print', 'band', 'blocks'):
            bottom.pattern = 'plain'
    if bottom.kind == 'skirt' and layer == 'coat':
        outer.flare = bottom.flare + 0.1
    boots = rng.random() < 0.2
    shoes = Garment(
        'boots' if boots else 'shoes',
        colours=_pair(rng, ('black', 'black', 'white', 'white', 'brown', 'grey', 'navy'), 0.08),
        length=rng.uniform(0.1, 0.3) if boots else rng.uniform(0.0, 0.03),
        loose=rng.uniform(0, 0.006),
    )
    shoes.trim = rng.choice([shoes.colours[1], np.array(_COLOURS['white']), shoes.colours[0]])
    style = str(rng.choice(_STYLES if woman else _STYLES[:6] + ('short', 'short', 'buzz', 'long')))
    return Identity(
        phenotype,
        (_SKINS[low] * (1 - part) + _SKINS[low + 1] * part) * rng.uniform(0.9, 1.1),
        'short' if woman and style in ('bald', 'buzz') and rng.random() < 0.8 else style,
        _HAIRS[rng.choice(len(_HAIRS), p=[0.3, 0.22, 0.16, 0.1, 0.1, 0.04, 0.08])] * rng.uniform(0.8, 1.25),
        rng.random(),
        not woman and rng.random() < 0.35,
        top,
        outer,
        bottom,
        shoes,
        _choice(rng, {None: 0.84, 'cap': 0.09, 'beanie': 0.07 if cold else 0.01, 'sunhat': 0.04}),
        _colour(rng, ('black', 'navy', 'grey', 'white', 'red', 'beige', 'yellow', 'green')),
        _choice(rng, {None: 0.58, 'backpack': 0.18, 'shoulder': 0.14, 'tote': 0.1}),
        _colour(rng, ('black', 'black', 'black', 'brown', 'navy', 'beige', 'grey', 'red', 'teal')),
        rng.uniform(0.8, 1.15),
        int(rng.integers(1 << 30)),
    )
