"""Who walks where in films: people cross the views of one place's cameras, meet, step aside, stop, leave and return."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .cameras import Camera
from .identity import generator

__all__ = ['STEP', 'Moment', 'Visit', 'World', 'walk']

#: Seconds between the moments that are computed; people move straight on between them.
STEP = 0.1
_WARM_UP = 30.0  # seconds before a film, in which people spread over the place
_EYES, _TALL, _REACH = 1.25, 1.95, 1.0  # metres: a brisk walk in a second, a tall person, what somebody carries
_BEYOND = 2.0  # metres outside of the view at which somebody appears and is gone: shadows fall into it
_SPACE, _LEAST = 1.1, 0.5  # metres at which people step aside, and at which they stand still rather than touch
_ROOM = 3.0  # square metres for each person, at least
_DRAWN, _SCATTER = 0.75, 0.8  # share of stops that are at a meeting point, and metres around it
_SLOW = 45.0  # seconds after which somebody no longer steps aside, so that every visit ends


class World(NamedTuple):
    """A camera of a film and what it sees of the ground: metres, in its own axes, see `Camera`.

    Attributes:
        camera: what films, at (0, 0, height).
        field: vertical field of view, degrees.
        tilt: by which it looks down, radians.
        aspect: width of a frame by its height.
    """

    camera: Camera
    field: float
    tilt: float
    aspect: float

    @classmethod
    def seen(cls, camera: Camera, aspect: float) -> 'World':
        """Looks so that the ground is seen from `near`, and people's heads up to `far`."""
        low, high = np.arctan(camera.height / camera.near), np.arctan((camera.height - 2.4) / camera.far)
        return cls(camera, float(np.rad2deg(low - high)), float(low + high) / 2, aspect)

    def side(self, away: float) -> float:
        """How far to a side the ground is seen, `away` metres from the camera."""
        deep = away * np.cos(self.tilt) + self.camera.height * np.sin(self.tilt)
        return float(deep * np.tan(np.deg2rad(self.field) / 2) * self.aspect)

    @property
    def front(self) -> float:
        """Where a head leaves the view of somebody who walks towards the camera."""
        return max(0.4, (self.camera.height - _TALL) * self.camera.near / self.camera.height - 0.3)

    def door(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """A point [2] outside of the view: left, right, or front, below the camera."""
        if name == 'front':
            return np.array([rng.uniform(-0.6, 0.6) * self.side(self.camera.near) * 0.5, self.front])
        away = rng.uniform(self.camera.near + 1.0, self.camera.far - 1.0)
        return np.array([(self.side(away) + _REACH + _BEYOND) * (1 if name == 'right' else -1), away])

    def spot(self, rng: np.random.Generator) -> np.ndarray:
        """A point [2] well within the view."""
        away = rng.uniform(self.camera.near + 1.0, self.camera.far - 1.0)
        return np.array([rng.uniform(-0.75, 0.75) * self.side(away), away])

    def meeting_points(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Points [2] where people like to stop, such as a bench and a window; two are in one line from the camera."""
        first, second = self.spot(rng), self.spot(rng)
        away = first[1] + 2.2 if first[1] + 2.2 < self.camera.far - 1 else first[1] - 2.2
        return [first, np.array([first[0] * away / first[1], away]), second]

    @property
    def room(self) -> int:
        """How many people may be there at once."""
        near, far = self.camera.near, self.camera.far
        return max(2, int((far - near) * (self.side(near) + self.side(far)) / _ROOM))


class Moment(NamedTuple):
    """Where somebody is at a time, and how they move.

    Attributes:
        place: [2] metres.
        heading: radians; 0 is towards the camera.
        way: metres walked, as if every stride were a whole one.
        stride: 0 (stands) to 1.
    """

    place: np.ndarray
    heading: float
    way: float
    stride: float


class Visit(NamedTuple):
    """Somebody before one camera, from where they come into view until they are gone.

    Attributes:
        person: number, from 1.
        camera: number, from 0.
        start: seconds from the film's beginning, perhaps before it.
        moments: [T, 5], each `STEP` after the one before: `place`, `heading`, `way` and `stride` of `Moment`; the
            heading is not cut at a whole turn.
    """

    person: int
    camera: int
    start: float
    moments: np.ndarray

    @property
    def end(self) -> float:
        return self.start + (len(self.moments) - 1) * STEP

    def at(self, time: float) -> Moment:
        """The moment at a time from `start` to `end`, in seconds."""
        step = min(max((time - self.start) / STEP, 0.0), len(self.moments) - 1.0)
        first = min(int(step), len(self.moments) - 2) if len(self.moments) > 1 else 0
        a, b = self.moments[first], self.moments[min(first + 1, len(self.moments) - 1)]
        x, y, heading, way, stride = (a + (b - a) * (step - first)).tolist()
        return Moment(np.array([x, y]), heading, way, stride)


@dataclass
class _Walker:
    """Somebody as they walk."""

    person: int
    camera: int
    start: float
    points: list[np.ndarray]
    waits: list[float]
    exit: str
    speed: float
    place: np.ndarray
    velocity: np.ndarray
    heading: float
    way: float
    rests: float
    rows: list


def walk(worlds: list[World], people: int, seconds: float, seed: int, domain: str) -> list[Visit]:
    """Lets people walk through a place.

    Its cameras stand in a row: who leaves a view to the right comes, some seconds later, from the left into the next
    one. Beyond the ends people turn round, and are back in a few seconds. Nobody is before two cameras at once. Each
    view has points where many stop, so that people meet there and hide one another.

    Args:
        worlds: what each camera sees.
        people: how many there are; with a short film, some may never come into view.
        seconds: of the film.
        seed, domain: of all that is random.

    Returns:
        All visits during the film, in the order in which they begin.
    """
    rng = generator(seed, domain, 11)
    paces = rng.uniform(0.85, 1.55, people)
    transits = rng.uniform(2.5, 7.0, len(worlds))  # seconds between a camera and the next, at a brisk walk
    points = [world.meeting_points(rng) for world in worlds]
    waiting = [
        (float(rng.uniform(-_WARM_UP, -_WARM_UP / 3)), person, int(rng.integers(len(worlds))), '')
        for person in range(people)
    ]
    walking: list[list[_Walker]] = [[] for _ in worlds]
    done: list[Visit] = []
    for step in range(int(np.ceil(_WARM_UP / STEP)) + int(np.ceil(seconds / STEP)) + 1):
        time = step * STEP - _WARM_UP
        later = []
        for due, person, camera, door in sorted(waiting):
            if due > time:
                later.append((due, person, camera, door))
                continue
            place = worlds[camera], points[camera], walking[camera]
            new = _enter(*place, person, camera, door, float(paces[person]), time, rng)
            if new is None:  # somebody stands there
                later.append((time + 0.5, person, camera, door))
            else:
                walking[camera].append(new)
        waiting = later
        for camera, walkers in enumerate(walking):
            _move(walkers, time)
            for walker in [w for w in walkers if not w.points]:
                walkers.remove(walker)
                done.append(_visit(walker))
                waiting.append(_next(walker, camera, transits, time, rng))
    done += [_visit(walker) for walkers in walking for walker in walkers]
    return sorted((v for v in done if v.end >= 0 and v.start <= seconds), key=lambda v: (v.start, v.person))


def _visit(walker: _Walker) -> Visit:
    return Visit(walker.person + 1, walker.camera, walker.start, np.array(walker.rows))


def _enter(world, meet, others, person, camera, door, speed, time, rng) -> _Walker | None:
    """Somebody who comes into a view by a door (an empty text: any); None if there is no room."""
    doors = ('left', 'right', 'front')
    door = door or str(rng.choice(doors, p=(0.4, 0.4, 0.2)))
    place = world.door(door, rng)
    if len(others) >= world.room or any(np.linalg.norm(other.place - place) < _SPACE for other in others):
        return None
    across = {'left': 'right', 'right': 'left'}.get(door, str(rng.choice(doors[:2])))
    leaves = str(rng.choice([across, door, 'front'], p=(0.65, 0.2, 0.15)))
    stops = max(int(rng.choice(3, p=(0.4, 0.4, 0.2))), leaves == door)
    points = [
        meet[rng.integers(len(meet))] + rng.normal(0, _SCATTER, 2) if rng.random() < _DRAWN else world.spot(rng)
        for _ in range(stops)
    ]
    waits = [float(rng.uniform(2, 6)) if rng.random() < 0.5 else 0.0 for _ in points]
    points, waits = [*points, world.door(leaves, rng)], [*waits, 0.0]
    towards = points[0] - place
    velocity = towards / np.linalg.norm(towards) * speed
    heading = float(np.arctan2(velocity[0], -velocity[1]))
    way = float(rng.uniform(0, 10))
    return _Walker(person, camera, time, points, waits, leaves, speed, place, velocity, heading, way, 0.0, [])


def _next(walker: _Walker, camera: int, transits: np.ndarray, time: float, rng: np.random.Generator) -> tuple:
    """When, before which camera and by which door somebody comes again who has left a view."""
    other = camera + {'left': -1, 'right': 1}.get(walker.exit, 0)
    if walker.exit == 'front' or not 0 <= other < len(transits):
        door = walker.exit if rng.random() < 0.7 or len(transits) > 1 else ''
        return time + float(rng.uniform(2, 7)), walker.person, camera, door
    took = transits[min(camera, other)] * _EYES / walker.speed * float(rng.uniform(0.9, 1.25))
    return time + took, walker.person, other, 'left' if other > camera else 'right'


def _move(walkers: list[_Walker], time: float) -> None:
    """Writes down where everybody is, and moves them by a step."""
    places = np.array([w.place for w in walkers]).reshape(-1, 2)
    for k, w in enumerate(walkers):
        speed = float(np.linalg.norm(w.velocity))
        w.rows.append((*w.place, w.heading, w.way, min(speed / _EYES, 1.0)))
        to = w.points[0] - w.place
        away = float(np.linalg.norm(to))
        if away < max(0.35, 0.5 * speed * (w.waits[0] > 0)):
            if w.waits[0] > 0:
                w.waits[0] -= STEP
                to = np.zeros(2)
            else:
                w.points.pop(0)
                w.waits.pop(0)
                if not w.points:
                    continue
                to = w.points[0] - w.place
                away = float(np.linalg.norm(to))
        wanted = to / max(away, 0.3) * w.speed
        if len(walkers) > 1:
            wanted = _aside(wanted, w, places, walkers, k, patient=time - w.start < _SLOW)
        w.velocity = w.velocity + (wanted - w.velocity) * (STEP / 0.35)
        speed = float(np.linalg.norm(w.velocity))
        if speed < 0.06:
            w.velocity = w.velocity * 0
        else:
            turn = np.arctan2(w.velocity[0], -w.velocity[1]) - w.heading
            turn = (turn + np.pi) % (2 * np.pi) - np.pi
            w.heading += float(np.clip(turn, -2.5 * STEP, 2.5 * STEP) * min(1, speed / 0.4))
            w.way += max(_EYES, speed) * STEP
        w.place = w.place + w.velocity * STEP


def _aside(
    wanted: np.ndarray, walker: _Walker, places: np.ndarray, walkers: list[_Walker], number: int, patient: bool
) -> np.ndarray:
    """The velocity [2] of somebody who steps aside for others, to the right, and does not run into them."""
    ahead = places - walker.place
    apart = np.linalg.norm(ahead, axis=1)
    apart[number] = np.inf
    for k in np.flatnonzero(apart < (2.5 if patient else _LEAST)):
        other = walkers[k]
        relative = walker.velocity - other.velocity
        closing = float(relative @ ahead[k]) / max(float(relative @ relative), 1e-6)
        meet = np.clip(closing, 0, 1.6)  # seconds until they are nearest to each other
        gap = ahead[k] - relative * meet
        near = float(np.linalg.norm(gap))
        if near < _SPACE and (meet > 0 or apart[k] < _SPACE):
            direction = ahead[k] / max(apart[k], 1e-6)
            right = np.array([direction[1], -direction[0]])
            side = 1.0 if right @ -gap >= -0.15 else -1.0
            strength = (1 - near / _SPACE) * (1.0 if apart[k] > _SPACE else 1.4)
            wanted = wanted + side * right * strength * 1.1 - direction * max(0, 1 - apart[k] / 0.9) * 1.6
    speed = float(np.linalg.norm(wanted))
    return wanted * (1.3 * walker.speed / speed) if speed > 1.3 * walker.speed else wanted
