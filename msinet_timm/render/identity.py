"""Who a person is: body shape, skin, hair, clothes, bag and hat, drawn at random for a number."""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from .wardrobe import OUTER, Garment, choice, draw_bottom, draw_shoes, draw_top, pick, uniform

__all__ = ['BAGS', 'BESIDE', 'DOMAINS', 'FACES', 'HAIR', 'HATS', 'OUTFITS', 'RIDDEN', 'STRANGERS', 'Identity']
__all__ += ['draw_identity', 'generator']

DOMAINS = ('street', 'mall')
#: A person's number and a multiple of this is the same person, dressed otherwise; up to the numbers of strangers.
OUTFITS, STRANGERS = 1_000_000, 800_000_000
_WORN = ('top', 'outer', 'bottom', 'shoes', 'hat', 'hat_colour', 'bag', 'bag_colour', 'bag_size', 'seed')
HAIR = ('bald', 'buzz', 'receding', 'short', 'parted', 'fringe', 'curly', 'afro', 'bob', 'long', 'bun', 'ponytail')
HATS = (None, 'cap', 'beanie', 'sunhat', 'helmet', 'headscarf', 'hood')
BAGS = (None, 'backpack', 'shoulder', 'crossbody', 'handbag', 'tote', 'briefcase', 'trolley', 'umbrella')
BAGS += ('stroller', 'bicycle', 'cycling', 'skateboard', 'skating')
#: Of these, what stands on the ground beside or below somebody, which not all detectors' boxes hold; and who goes on
#: wheels, and what these have where they walk.
BESIDE, RIDDEN = ('stroller', 'bicycle', 'cycling', 'skating'), {'cycling': 'bicycle', 'skating': 'skateboard'}
#: What is worn on a face or about the neck.
FACES = (None, 'glasses', 'sunglasses', 'beard', 'mask', 'scarf')
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
_NATURAL, _GREYING = (0.36, 0.28, 0.17, 0.08, 0.06, 0.02, 0.03), (0.12, 0.12, 0.08, 0.04, 0.04, 0.01, 0.59)
_WOMEN = {'long': 0.32, 'bob': 0.17, 'ponytail': 0.17, 'bun': 0.12, 'fringe': 0.08, 'curly': 0.06, 'short': 0.05}
_WOMEN |= {'afro': 0.03}
_MEN = {'short': 0.34, 'parted': 0.14, 'buzz': 0.16, 'receding': 0.12, 'bald': 0.06, 'fringe': 0.07, 'curly': 0.06}
_MEN |= {'afro': 0.02, 'long': 0.03}
_SHARED = 12  # pieces of clothing, and uniforms, of which several people of a data set have the same


@dataclass
class Identity:
    """All that stays the same about a person. Colours are linear reflectances [3]."""

    phenotype: dict[str, float]
    skin: np.ndarray
    hair: str
    hair_colour: np.ndarray
    volume: float
    face: str | None
    face_colour: np.ndarray
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


def _phenotype(rng: np.random.Generator, woman: bool) -> dict[str, float]:
    """anny's parameters of a body: one in sixteen is a child, one in five old."""
    low, high = [(0.3, 0.42), (0.45, 0.58), (0.6, 0.75), (0.78, 0.95)][choice(rng, {0: 0.06, 1: 0.16, 2: 0.58, 3: 0.2})]
    return dict(
        gender=float(rng.uniform(0.75, 1) if woman else rng.uniform(0, 0.25)),
        age=float(rng.uniform(low, high)),
        muscle=float(rng.uniform(0.3, 0.8)),
        weight=float(np.clip(rng.normal(0.5, 0.22), 0.1, 1)),
        height=float(np.clip(rng.normal(0.42, 0.15), 0.05, 0.9)),
        proportions=float(rng.uniform(0.3, 0.9)),
    )


def _clothes(rng: np.random.Generator, seed: int, domain: str, woman: bool) -> tuple[Garment, Garment | None, Garment]:
    """Top, outer and bottom: one's own, some of them of a kind that others have too, or a uniform."""
    cold = domain == 'street'
    tops = dict(tshirt=0.3, longsleeve=0.18, sleeveless=0.07, shirt=0.17, sweater=0.13, hoodie=0.15)
    outers = {None: 0.45 if cold else 0.72, 'jacket': 0.2, 'coat': 0.09 if cold else 0.03, 'vest': 0.03}
    outers |= {'cardigan': 0.06, 'blazer': 0.06, 'puffer': 0.1 if cold else 0.02, 'hivis': 0.01}
    worn = rng.random()
    if worn < 0.06:  # colleagues, dressed alike
        return uniform(generator(seed, domain, 7, int(rng.integers(_SHARED))), domain)
    top = draw_top(rng, domain, choice(rng, tops))
    kind = choice(rng, outers)
    outer = draw_top(rng, domain, kind) if kind else None
    skirts = 0.26 if woman else 0.005
    legs = dict(jeans=0.36, trousers=0.42, shorts=0.07 if cold else 0.17, skirt=skirts, leggings=0.3 * skirts)
    bottom = draw_bottom(rng, domain, choice(rng, legs))
    if worn > 0.78:  # bought where others bought theirs
        shop = generator(seed, domain, 8, int(rng.integers(_SHARED)))
        kind = choice(shop, {k: v for k, v in (tops if worn > 0.9 else outers).items() if k})
        if kind in OUTER:
            outer = draw_top(shop, domain, kind)
        else:
            top = draw_top(shop, domain, kind)
    return top, outer, bottom


def _fit(top: Garment, outer: Garment | None, bottom: Garment, rng: np.random.Generator) -> None:
    """Makes clothes fit over each other; a skirt may become a dress."""
    if outer:
        top.loose, top.collar, top.hood = min(top.loose, 0.01), min(top.collar, 0.015), top.hood and outer.open > 0
        sleeveless = outer.kind in ('vest', 'hivis')
        top.sleeve = top.sleeve if sleeveless else min(top.sleeve, outer.sleeve - 0.06)
        top.length = max(top.length, min(outer.length + 0.02, -0.02))
    if bottom.kind == 'skirt':
        if rng.random() < 0.4 and not outer:
            bottom.colours, bottom.pattern, bottom.size = top.colours, top.pattern, top.size
            if top.pattern in ('logo', 'lettering', 'back print', 'band', 'blocks'):
                bottom.pattern = 'plain'
        if outer and outer.kind in ('coat', 'puffer'):
            outer.flare = bottom.flare + 0.1


def draw_identity(seed: int, domain: str, number: int, like: int | None = None) -> Identity:
    """The person with a number; the same for the same arguments, whatever else was drawn before.

    Args:
        seed: of the whole data set.
        domain: one of `DOMAINS`; decides how people dress.
        number: any integer from 0; see `OUTFITS`.
        like: number of somebody of whose sex, and dressed as whom, they are; None for nobody.
    """
    if like is not None:
        other = draw_identity(seed, domain, like)
        identity = _draw(generator(seed, domain, 1, number), seed, domain, other.phenotype['gender'] > 0.5)
        return replace(identity, **{name: getattr(other, name) for name in _WORN})
    outfit, person = divmod(number, OUTFITS) if number < STRANGERS else (0, number)
    identity = _draw(generator(seed, domain, 1, person), seed, domain)
    if outfit:
        other = _draw(generator(seed, domain, 9, person, outfit), seed, domain, identity.phenotype['gender'] > 0.5)
        identity = replace(identity, **{name: getattr(other, name) for name in _WORN})
    return identity


def _draw(rng: np.random.Generator, seed: int, domain: str, woman: bool | None = None) -> Identity:
    cold = domain == 'street'
    skin = rng.uniform(0, len(_SKINS) - 1.01)
    low, part = int(skin), skin % 1
    woman = rng.random() < 0.5 if woman is None else woman
    phenotype = _phenotype(rng, woman)
    top, outer, bottom = _clothes(rng, seed, domain, woman)
    _fit(top, outer, bottom, rng)
    hood = (outer or top).hood
    hats = {None: 0.8, 'cap': 0.07, 'beanie': 0.05 if cold else 0.01, 'sunhat': 0.02, 'helmet': 0.015}
    hats |= {'headscarf': 0.05 if woman else 0, 'hood': 0.1 if hood else 0}
    faces = {None: 0.5, 'glasses': 0.14, 'sunglasses': 0.06, 'beard': 0 if woman or phenotype['age'] < 0.5 else 0.3}
    faces |= {'mask': 0.03, 'scarf': 0.1 if cold else 0.03}
    bags = {None: 0.48, 'backpack': 0.17, 'shoulder': 0.09, 'crossbody': 0.07, 'handbag': 0.06 if woman else 0.005}
    bags |= {'tote': 0.08, 'briefcase': 0.03, 'trolley': 0.025, 'umbrella': 0.015}
    grown, young = phenotype['age'] > 0.5, phenotype['age'] < 0.75
    bags |= {'stroller': 0.016 * grown, 'bicycle': 0.008, 'cycling': 0.012 if cold else 0.003}
    bags |= {'skateboard': 0.006 * young, 'skating': 0.008 * young}
    leather = {'black': 0.5, 'brown': 0.13, 'tan': 0.08, 'navy': 0.09, 'grey': 0.08, 'red': 0.03, 'teal': 0.02}
    leather |= {'beige': 0.05, 'white': 0.03, 'olive': 0.03}
    return Identity(
        phenotype,
        (_SKINS[low] * (1 - part) + _SKINS[low + 1] * part) * rng.uniform(0.9, 1.1),
        choice(rng, _WOMEN if woman else _MEN),
        _HAIRS[rng.choice(len(_HAIRS), p=_GREYING if phenotype['age'] > 0.77 else _NATURAL)] * rng.uniform(0.8, 1.25),
        rng.random(),
        choice(rng, faces),
        pick(rng, {'black': 0.3, 'grey': 0.2, 'burgundy': 0.15, 'beige': 0.15, 'red': 0.1, 'white': 0.1}),
        top,
        outer,
        bottom,
        draw_shoes(rng, bottom.kind in ('shorts', 'skirt')),
        choice(rng, hats),
        pick(
            rng, {'black': 0.4, 'navy': 0.15, 'grey': 0.15, 'white': 0.1, 'red': 0.05, 'beige': 0.1, 'burgundy': 0.05}
        ),
        choice(rng, bags),
        pick(rng, leather),
        rng.uniform(0.8, 1.15),
        int(rng.integers(1 << 30)),
    )
