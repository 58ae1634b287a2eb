"""What a vehicle is: body, paint, lamps, wheels, and the small things that tell one of a model from the next."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .identity import generator
from .wardrobe import choice

__all__ = ['BODIES', 'BOXY', 'Model', 'Vehicle', 'draw_vehicle']

#: Kinds of bodies, and how often each is seen.
BODIES = {
    'sedan': 0.32, 'hatchback': 0.13, 'estate': 0.05, 'suv': 0.19, 'mpv': 0.05, 'microvan': 0.05, 'van': 0.07,
    'minibus': 0.02, 'pickup': 0.035, 'box truck': 0.04, 'flatbed': 0.02, 'bus': 0.025,
}  # fmt: skip
# Lowest values and ranges of what is in `Shape`.
_SHAPES = {
    'sedan': ((4.35, 1.74, 1.42, 0.66, 1.15, 0.92, 0.72, 0.7, 0.42, 1.02, 0.15, 0.3, 0.3, 0.8, 0.95),
              (0.6, 0.15, 0.08, 0.08, 0.3, 0.08, 0.25, 0.3, 0.22, 0.08, 0.04, 0.04, 0.14, 0.15, 0.2)),
    'hatchback': ((3.6, 1.65, 1.44, 0.68, 0.85, 0.93, 0.65, 0.25, 0.0, 0.98, 0.15, 0.28, 0.26, 0.7, 0.55),
                  (0.75, 0.15, 0.12, 0.1, 0.3, 0.1, 0.25, 0.3, 0.1, 0.08, 0.04, 0.04, 0.12, 0.15, 0.2)),
    'estate': ((4.4, 1.74, 1.44, 0.66, 1.1, 0.93, 0.72, 0.2, 0.0, 0.96, 0.15, 0.3, 0.28, 0.8, 0.9),
               (0.5, 0.14, 0.1, 0.08, 0.3, 0.08, 0.25, 0.35, 0.06, 0.08, 0.04, 0.04, 0.12, 0.15, 0.2)),
    'suv': ((4.15, 1.78, 1.6, 0.86, 1.0, 1.06, 0.6, 0.15, 0.0, 1.08, 0.2, 0.33, 0.2, 0.75, 0.75),
            (0.8, 0.2, 0.25, 0.16, 0.35, 0.14, 0.25, 0.4, 0.05, 0.1, 0.06, 0.06, 0.14, 0.15, 0.2)),
    'mpv': ((4.3, 1.72, 1.6, 0.74, 0.75, 1.02, 0.85, 0.15, 0.0, 1.02, 0.15, 0.3, 0.2, 0.8, 0.8),
            (0.7, 0.16, 0.16, 0.1, 0.3, 0.1, 0.3, 0.25, 0.05, 0.1, 0.04, 0.04, 0.12, 0.15, 0.2)),
    'microvan': ((3.7, 1.5, 1.78, 0.78, 0.25, 1.08, 0.4, 0.06, 0.0, 1.08, 0.16, 0.26, 0.1, 0.55, 0.5),
                 (0.6, 0.16, 0.16, 0.14, 0.3, 0.08, 0.25, 0.14, 0.03, 0.1, 0.05, 0.03, 0.08, 0.2, 0.25)),
    'van': ((4.7, 1.9, 1.9, 0.9, 0.65, 1.2, 0.55, 0.03, 0.0, 1.22, 0.17, 0.32, 0.05, 0.85, 0.85),
            (1.3, 0.15, 0.8, 0.15, 0.4, 0.14, 0.25, 0.06, 0.02, 0.12, 0.06, 0.04, 0.06, 0.15, 0.3)),
    'minibus': ((5.2, 1.9, 2.1, 0.85, 0.35, 1.15, 0.6, 0.04, 0.0, 1.2, 0.18, 0.33, 0.05, 0.9, 1.0),
                (1.6, 0.15, 0.5, 0.15, 0.5, 0.14, 0.3, 0.08, 0.02, 0.12, 0.06, 0.04, 0.06, 0.2, 0.4)),
    'pickup': ((4.9, 1.75, 1.68, 0.88, 1.1, 1.1, 0.55, 0.12, 1.4, 1.05, 0.22, 0.35, 0.18, 0.8, 1.05),
               (0.5, 0.15, 0.16, 0.14, 0.3, 0.1, 0.2, 0.12, 0.35, 0.1, 0.06, 0.05, 0.1, 0.15, 0.15)),
    'box truck': ((5.2, 1.85, 2.05, 0.95, 0.06, 1.22, 0.3, 0.04, 0.0, 1.3, 0.32, 0.37, 0.05, 0.75, 1.1),
                  (2.6, 0.4, 0.45, 0.2, 0.16, 0.14, 0.3, 0.05, 0.01, 0.1, 0.12, 0.08, 0.06, 0.3, 0.5)),
    'flatbed': ((5.2, 1.85, 2.0, 0.95, 0.06, 1.22, 0.3, 0.04, 0.0, 1.3, 0.32, 0.37, 0.05, 0.75, 1.1),
                (1.8, 0.35, 0.35, 0.2, 0.16, 0.14, 0.3, 0.05, 0.01, 0.1, 0.12, 0.08, 0.06, 0.3, 0.5)),
    'bus': ((8.4, 2.4, 2.9, 1.0, 0.03, 1.15, 0.12, 0.04, 0.0, 1.5, 0.26, 0.46, 0.02, 2.0, 2.4),
            (3.6, 0.14, 0.3, 0.1, 0.03, 0.2, 0.25, 0.06, 0.01, 0.2, 0.06, 0.04, 0.04, 0.6, 0.6)),
}  # fmt: skip
_PAINTS = {
    'white': (0.72, 0.72, 0.7), 'black': (0.012, 0.012, 0.013), 'grey': (0.11, 0.115, 0.12),
    'silver': (0.4, 0.41, 0.42), 'blue': (0.02, 0.055, 0.2), 'navy': (0.012, 0.02, 0.055), 'red': (0.3, 0.018, 0.02),
    'maroon': (0.075, 0.012, 0.015), 'brown': (0.07, 0.045, 0.03), 'champagne': (0.42, 0.36, 0.26),
    'green': (0.03, 0.09, 0.05), 'mint': (0.25, 0.45, 0.36), 'yellow': (0.62, 0.36, 0.02), 'orange': (0.5, 0.14, 0.02),
    'sky': (0.16, 0.36, 0.55), 'purple': (0.09, 0.03, 0.12),
}  # fmt: skip
_CARS = {
    'white': 0.31, 'black': 0.2, 'grey': 0.15, 'silver': 0.13, 'blue': 0.05, 'navy': 0.025, 'red': 0.05,
    'maroon': 0.012, 'brown': 0.018, 'champagne': 0.025, 'green': 0.008, 'yellow': 0.006, 'orange': 0.008,
    'sky': 0.006, 'purple': 0.003,
}  # fmt: skip
_WORKING = {
    'white': 0.58, 'silver': 0.09, 'grey': 0.05, 'blue': 0.08, 'red': 0.05, 'yellow': 0.04, 'green': 0.03,
    'black': 0.03, 'navy': 0.02, 'orange': 0.02, 'sky': 0.01,
}  # fmt: skip
_BUSES = {
    'white': 0.35,
    'red': 0.12,
    'blue': 0.1,
    'green': 0.12,
    'yellow': 0.1,
    'sky': 0.08,
    'mint': 0.07,
    'orange': 0.06,
}
_MODELS, _FLEETS = 60, 4  # that several vehicles of a data set share: of all bodies together, of each
_LARGE = ('box truck', 'flatbed', 'bus')
_WORK = ('van', 'box truck', 'flatbed', 'microvan', 'minibus')
#: Those with upright sides and ends.
BOXY = (*_WORK, 'bus')


class Shape(NamedTuple):
    """Measures of a body, in metres, heights above the ground.

    Attributes:
        length, width, height: of the whole; of a truck's cab the height.
        nose: height of the bonnet's front; bonnet: how far back it reaches; cowl: height of its end.
        screen, back: how far the windscreen and the rear window lean, along the vehicle.
        deck: length of the boot's lid, or of a pickup's bed; tail: height of the side windows' lower edge at the rear.
        clearance: height of the sills; wheel: radius; taper: how far sides lean inwards over a metre.
        front, rear: from the ends to the axles.
    """

    length: float
    width: float
    height: float
    nose: float
    bonnet: float
    cowl: float
    screen: float
    back: float
    deck: float
    tail: float
    clearance: float
    wheel: float
    taper: float
    front: float
    rear: float


@dataclass
class Model:
    """What all vehicles of a model share.

    Attributes:
        body: one of `BODIES`; shape: its measures.
        cab: length of a truck's cab; 0 for others.
        round: by how much front corners are rounded.
        crease: height of the sides' crease, as a share of the windows' lower edge; 0 for none.
        lamp: [4] of the headlamps: half width, half height, lean, exponent of their outline.
        tail_lamp: [4] of the rear ones, the same; low: how much lower than the windows.
        band: a strip of light joins the rear lamps.
        grille: width of half of it, height of half of it, exponent, bars (horizontal, or vertical below 0).
        mouth: half width and half height of the air intake in the bumper.
        windows: side windows between front and last pillar; pillar: lean of the last one.
        plate: how high the rear plate sits, from bumper (0) to lid (1).
        paints: names of the colours that it is sold in, the most frequent first; some come twice.
    """

    body: str
    shape: Shape
    cab: float
    round: float
    crease: float
    lamp: np.ndarray
    tail_lamp: np.ndarray
    low: float
    band: bool
    grille: np.ndarray
    mouth: np.ndarray
    windows: int
    pillar: float
    plate: float
    paints: tuple[str, ...]
    seed: int


@dataclass
class Vehicle:
    """All that stays the same about a vehicle. Colours are linear reflectances [3].

    Attributes:
        model: what it shares with others.
        paint: of the body; second: of what is painted otherwise; split: what that is.
        gloss: of the paint, 0 to 1.
        trim: colour of what frames windows; bumper: of bumpers and sills, None for the paint's.
        mirror, handle: colours; glass: of the windows; privacy: of the rear ones.
        spokes, rim: of the wheels, and their colour; hub: style, one of wheel styles.
        cargo: colour of a truck's box or bed.
        rack: what is on the roof; roof: sunroof, glass or None.
        decal, stickers, livery: see `bodywork`.
        dirt: 0 to 1; odd: colour of a panel that was painted anew, or None.
        seed: of small things.
    """

    model: Model
    paint: np.ndarray
    second: np.ndarray
    split: str | None
    gloss: float
    trim: np.ndarray
    bumper: np.ndarray | None
    mirror: np.ndarray
    handle: np.ndarray
    glass: np.ndarray
    privacy: np.ndarray
    hub: str
    spokes: int
    rim: np.ndarray
    cargo: np.ndarray
    height: float
    load: str | None
    rack: str | None
    roof: str | None
    spoiler: bool
    decal: str | None
    decals: np.ndarray
    stickers: list = field(default_factory=list)
    sign: bool = False
    plates: np.ndarray | None = None
    dirt: float = 0.0
    odd: tuple | None = None
    seed: int = 0


def _model(rng: np.random.Generator, body: str) -> Model:
    low, wide = map(np.array, _SHAPES[body])
    shape = Shape(*map(float, low + wide * rng.random(len(low))))
    large, boxy = body in _LARGE, body in BOXY
    style = rng.integers(4)
    lamp = [(0.2, 0.075, 0.18, 3.0), (0.13, 0.1, 0.0, 5.0), (0.085, 0.085, 0.0, 2.0), (0.24, 0.045, 0.12, 4.0)][style]
    lamp = np.array((0.16, 0.1, 0.0, 5.0) if large else lamp) * rng.uniform([0.8, 0.8, 0.5, 0.8], [1.15, 1.2, 1.5, 1.2])
    upright = body in ('hatchback', 'estate', 'suv', 'mpv', 'microvan', 'van', 'minibus') and rng.random() < 0.65
    tail_lamp = (0.075, 0.2, 0.0, 5.0) if upright or large else (0.2, 0.08, 0.1, 3.5)
    tail_lamp = np.array(tail_lamp) * rng.uniform([0.75, 0.75, 0.0, 0.7], [1.3, 1.3, 1.6, 1.5])
    wide = rng.uniform(0.25, 0.62) * (1.2 if large else 1)
    grille = np.array([wide, rng.uniform(0.05, 0.14), rng.choice([2.5, 4.0, 8.0]), rng.choice([-9, -6, 0, 3, 4, 5, 6])])
    windows = {'sedan': 2, 'hatchback': 2, 'estate': 3, 'suv': 3, 'mpv': 3, 'microvan': 3, 'minibus': 4, 'pickup': 2}
    windows = windows.get(body, 1)
    if body == 'bus':
        windows = int(shape.length / rng.uniform(1.2, 1.7))
    elif body == 'pickup' and rng.random() < 0.3:
        windows -= 1
    paints = _BUSES if body == 'bus' else _WORKING if body in _WORK else _CARS
    return Model(
        body, shape,
        cab=float(rng.uniform(1.55, 2.0)) if body in ('box truck', 'flatbed') else 0.0,
        round=float(rng.uniform(0.12, 0.25) if boxy else rng.uniform(0.3, 0.55)),
        crease=float(rng.uniform(0.62, 0.85)) * (rng.random() < 0.75),
        lamp=lamp, tail_lamp=tail_lamp, low=float(rng.uniform(0.02, 0.14)), band=bool(rng.random() < 0.15 and not boxy),
        grille=grille, mouth=rng.uniform([0.3, 0.05], [0.62, 0.11]), windows=windows,
        pillar=float(rng.uniform(-0.1, 0.35)) if not boxy else 0.0, plate=float(rng.uniform(0, 1)),
        paints=tuple(choice(rng, paints) for _ in range(6)), seed=int(rng.integers(1 << 30)),
    )  # fmt: skip


def draw_vehicle(seed: int, domain: str, number: int) -> Vehicle:
    """The vehicle with a number; the same for the same arguments, whatever else was drawn before.

    Of most models there are several on the roads of a data set, many of them in the same colour; vehicles of a fleet
    are painted alike, too.

    Args:
        seed: of the whole data set.
        domain: one of `identity.DOMAINS`.
        number: any integer from 0.
    """
    rng = generator(seed, domain, 11, number)
    bodies = BODIES if domain == 'street' else {k: v for k, v in BODIES.items() if k not in _LARGE}
    body = choice(rng, bodies)
    number, kinds = list(BODIES).index(body), 1 + round(_MODELS * BODIES[body])
    common = rng.random() < 0.75
    model = _model(generator(seed, domain, 12, number, int(kinds * rng.random() ** 1.5)) if common else rng, body)
    fleet = rng.random() < {'bus': 0.7, 'van': 0.2, 'box truck': 0.2, 'sedan': 0.12}.get(body, 0.04)
    look = generator(seed, domain, 13, number, int(rng.integers(_FLEETS))) if fleet else rng
    return _vehicle(model, rng, look, fleet)


def _grey(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low), np.log(high))) * rng.uniform(0.95, 1.05, 3)


def _colour(rng: np.random.Generator, names: dict[str, float] | None = None, name: str | None = None) -> np.ndarray:
    base = np.array(_PAINTS[name or choice(rng, names or _CARS)])
    return np.clip(base * np.exp(rng.normal(0, 0.08)) * np.exp(rng.normal(0, 0.03, 3)), 0.008, 0.8)


def _stickers(rng: np.random.Generator) -> list[tuple[str, float, float, float, np.ndarray]]:
    """What sticks to glass or body: where, at which place from -1 to 1 across and up, how wide, and its colour."""
    out = []
    for _ in range(rng.integers(1, 5)):  # behind the windscreen: badges of tests and taxes
        out.append(('front', rng.choice([-1, 1]) * rng.uniform(0.45, 0.9), 0.8, 0.05, rng.uniform(0.02, 0.7, 3)))
    if rng.random() < 0.4:  # something on the dashboard
        out.append(('front', rng.uniform(-0.8, 0.8), -0.8, rng.uniform(0.08, 0.2), rng.uniform(0.02, 0.7, 3)))
    if rng.random() < 0.12:  # a shade
        out.append(('front', 0.0, 0.88, 1.3, _grey(rng, 0.02, 0.3)))
    for _ in range(rng.poisson(0.5)):
        out.append(
            ('back', rng.uniform(-0.8, 0.8), rng.uniform(-0.7, 0.5), rng.uniform(0.07, 0.3), _grey(rng, 0.2, 0.8))
        )
    for _ in range(rng.poisson(0.35)):
        colour = rng.uniform(0.02, 0.7, 3)
        out.append(('boot', rng.uniform(-0.8, 0.8), rng.uniform(-0.2, 0.7), rng.uniform(0.08, 0.3), colour))
    return out


def _vehicle(model: Model, rng: np.random.Generator, look: np.random.Generator, fleet: bool) -> Vehicle:
    """A vehicle of a model: `look` is the generator of its fleet, or its own."""
    body = model.body
    work, large = body in _WORK, body in _LARGE
    taxi = fleet and body in ('sedan', 'mpv')
    paint = _colour(look, name=model.paints[min(int(look.exponential(1.4)), len(model.paints) - 1)])
    second = _colour(look, _BUSES if fleet or large else _WORKING)
    splits = {None: 0.97, 'roof': 0.03}
    if body in ('suv', 'hatchback'):
        splits = {None: 0.9, 'roof': 0.1}
    if taxi:
        paint = _colour(look, _BUSES | {'black': 0.1, 'silver': 0.1})
        splits = {None: 0.25, 'roof': 0.2, 'below': 0.4, 'ends': 0.15}
    elif body == 'bus':
        splits = {None: 0.15, 'below': 0.3, 'wave': 0.3, 'stripes': 0.25}
    elif work:
        splits = {None: 0.7, 'below': 0.08, 'stripes': 0.14, 'wave': 0.08 * fleet}
    split = choice(look, splits)
    decals = {None: 0.96, 'letters': 0.02, 'disc': 0.01, 'stripe': 0.01}
    if fleet or work:
        decals = {None: 0.3, 'letters': 0.4, 'disc': 0.12, 'stripe': 0.08, 'poster': 0.1 if large else 0.02}
    if body == 'bus':
        decals = {None: 0.35, 'letters': 0.25, 'poster': 0.4}
    decal = choice(look, decals)
    inks = np.stack([_colour(look, _BUSES), _grey(look, 0.02, 0.7)])
    cladding = rng.random() < {'suv': 0.5, 'microvan': 0.3, 'van': 0.55, 'pickup': 0.4}.get(body, 0.04)
    chrome, black = np.array([0.55, 0.56, 0.58]), np.array([0.015, 0.015, 0.016])
    privacy = rng.random() < {'suv': 0.45, 'mpv': 0.45, 'estate': 0.3}.get(body, 0.12)
    glass = np.array([0.02, 0.024, 0.024]) * rng.uniform(0.6, 1.8)
    hubs = {'spokes': 0.5, 'twin': 0.2, 'many': 0.12, 'disc': 0.1, 'steel': 0.08}
    if work or large:
        hubs = {'steel': 0.55, 'disc': 0.25, 'spokes': 0.15, 'many': 0.05}
    racks = {None: 0.97}
    if body in ('estate', 'suv', 'mpv'):
        racks = {None: 0.5, 'rails': 0.36, 'bars': 0.08, 'box': 0.04, 'boards': 0.02}
    elif body in ('hatchback', 'sedan'):
        racks = {None: 0.94, 'bars': 0.03, 'box': 0.02, 'boards': 0.01}
    elif body in ('van', 'minibus', 'microvan'):
        racks = {None: 0.7, 'ladder': 0.12, 'basket': 0.13, 'bars': 0.05}
    roofs = {None: 0.66, 'sunroof': 0.2, 'glass': 0.14} if not work and not large else {None: 0.8, 'vents': 0.2}
    plates = np.array([(0.7, 0.7, 0.68), (0.02, 0.06, 0.4), (0.66, 0.46, 0.04), (0.3, 0.6, 0.36)])
    plates = plates[
        choice(rng, {0: 0.45, 1: 0.05, 2: 0.45, 3: 0.05} if large else {0: 0.45, 1: 0.45, 2: 0.02, 3: 0.08})
    ]
    odd = None
    if rng.random() < 0.05:  # painted anew, or not yet
        odd = (
            choice(rng, {'door': 0.6, 'bonnet': 0.4}),
            paint * rng.uniform(0.6, 1.3) if rng.random() < 0.6 else _grey(rng, 0.05, 0.3),
        )
    return Vehicle(
        model, paint, second, split,
        gloss=float(rng.uniform(0.35, 0.5) * (0.75 if work else 1)),
        trim=chrome if rng.random() < 0.4 else black,
        bumper=_grey(rng, 0.015, 0.05) if cladding else None,
        mirror=[paint, black, chrome][choice(rng, {0: 0.75, 1: 0.2, 2: 0.05})] if not work else black,
        handle=[paint * 0.8, black, chrome][choice(rng, {0: 0.55, 1: 0.25, 2: 0.2})],
        glass=glass, privacy=glass * (0.35 if privacy else rng.uniform(0.9, 1.1)),
        hub=choice(rng, hubs), spokes=int(rng.integers(5, 9)),
        rim=_grey(rng, 0.03, 0.06) if rng.random() < 0.2 else _grey(rng, 0.22, 0.5),
        cargo=_colour(look, {'white': 0.6, 'silver': 0.2, 'blue': 0.08, 'grey': 0.06, 'red': 0.03, 'green': 0.03}),
        height=float(rng.uniform(0.2, 0.9)), load=choice(rng, {None: 0.4, 'boxes': 0.3, 'sheet': 0.3}),
        rack=choice(rng, racks), roof=choice(rng, roofs), spoiler=bool(rng.random() < 0.25), decal=decal, decals=inks,
        stickers=_stickers(rng), sign=taxi, plates=plates, dirt=float(np.clip(rng.gamma(1.3, 0.22), 0, 1)), odd=odd,
        seed=int(rng.integers(1 << 30)),
    )  # fmt: skip
