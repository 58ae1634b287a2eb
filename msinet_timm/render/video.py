"""Renders films of people who walk before the cameras of one place, in the layout of MOTChallenge; resumable."""

import logging
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msinet_timm.commands import progress
from msinet_timm.errors import InputError, needs
from msinet_timm.files import locked, refusing, replace_file, replace_text, sweep

from . import raster
from .body import load_rig
from .cameras import draw_film_camera
from .crowd import Visit, World, walk
from .identity import DOMAINS, generator
from .work import begin, check_range, count_workers, spread

__all__ = ['inside', 'render_video']

_logger = logging.getLogger(__name__)
_LOOK = 4  # of people, places, cameras and walks: a folder holds films of one kind
_BEGINS = datetime(2026, 1, 1, 12)
_INSIDE = 0.25  # share of somebody's box that is in the frame, at least, of those in gt.txt
_ALIKE = 4  # every so manieth person is dressed as the one before
_TASK = 100  # frames, at most, that a process draws in one go


class _Row(NamedTuple):
    """Somebody in a frame: its number and the person's, both from 1, the box in pixels, the share that is visible."""

    frame: int
    person: int
    left: float
    top: float
    wide: float
    tall: float
    visible: float


class _Sequence(NamedTuple):
    """What one camera films.

    Attributes:
        folder: of its files.
        camera: number, from 1.
        clock: seconds by which the camera's clock is fast.
    """

    folder: Path
    camera: int
    clock: float

    def image(self, frame: int) -> Path:
        return self.folder / 'img1' / f'{frame:06d}.jpg'

    @property
    def film(self) -> Path:
        return self.folder.with_name(f'{self.folder.name}.mp4')


def render_video(
    root: str | os.PathLike,
    *,
    identities: int = 8,
    cameras: int = 1,
    seconds: float = 20.0,
    fps: int = 10,
    domain: str = 'street',
    seed: int = 0,
    width: int = 640,
    height: int = 360,
    clock_error: float = 0.0,
    mp4: bool = False,
    workers: int | None = None,
) -> dict[str, int]:
    """Renders people who walk before the cameras of one place; or completes what was interrupted.

    Each camera gets a folder in MOTChallenge's layout: `seqinfo.ini`, `img1/000001.jpg`, `gt/gt.txt` and `det/det.txt`.
    A person has one number in all of them. A box of `gt.txt` is around all that a person is, wears and carries, hidden
    or not, as far as it is in the frame; left and top are edges, from 0 at the frame's. It is there from when a quarter
    of it is in the frame. The last column is the share of the person's pixels in the frame that nothing hides.
    `det.txt` is what a detector might find: boxes a little off, some missing, a few of nothing, with scores.

    Call it under `if __name__ == '__main__'` when `workers` is not 1.

    Args:
        root: folder to write to: new, empty, or begun by this function with the same settings.
        identities: people, 1 to 500; every fourth is dressed as the one before.
        cameras: of the place, 1 to 9; their views do not overlap, and the way from one to the next takes seconds.
        seconds: how long they film, 0.1 to 10,000.
        fps: frames in a second, 1 to 60.
        domain: one of `DOMAINS`: places, lights and clothes.
        seed: from 0; of everything random.
        width, height: of the frames in pixels, 64 to 1920.
        clock_error: seconds, 0 to 3600, by which a camera's clock is wrong at most: `startTime` in `seqinfo.ini` is by
            its own clock, `clockError` says by how much that is fast.
        mp4: also write a film of each camera beside its folder, by PyAV.
        workers: processes; None for one for each core.

    Returns:
        Numbers of cameras, frames of all of them, boxes in them, and people who are ever seen.

    Raises:
        InputError: a value is out of range, the folder holds something else, cannot be written to, or is written to by
            another process, or what rendering needs is missing.
    """
    workers = count_workers(workers)
    if domain not in DOMAINS:
        raise InputError(f'--domain {domain} is unknown: a film is of one place, choose one of {", ".join(DOMAINS)}')
    check_range(
        {
            'identities': (identities, 1, 500), 'cameras': (cameras, 1, 9), 'seconds': (seconds, 0.1, 10_000),
            'fps': (fps, 1, 60), 'seed': (seed, 0, 2**31 - 1), 'width': (width, 64, 1920), 'height': (height, 64, 1920),
            'clock-error': (clock_error, 0, 3600), 'workers': (workers, 1, 1024),
        }
    )  # fmt: skip
    if mp4:
        if width % 2 or height % 2:
            raise InputError(f'--mp4: films have an even --width and --height, not {width}x{height}')
        with needs('video', '--mp4'):
            import av  # noqa: F401 - missing, it is missed before the frames are drawn
    load_rig()
    versions = raster.versions('anny')
    settings = dict(
        video=True, identities=identities, cameras=cameras, seconds=seconds, fps=fps, domain=domain, seed=seed,
        width=width, height=height, clock_error=clock_error, look=_LOOK,
    )  # fmt: skip
    root, frames = Path(root), max(1, round(seconds * fps))
    if root.exists() and not root.is_dir():
        raise InputError(f'{root} is a file: give a folder')
    with refusing(f'{root}: cannot write there', root), locked(root):
        begin(root, {'settings': settings, 'versions': versions}, 'films')
        sequences = _sequences(root, settings)
        for sequence in sequences:
            _make_folders(sequence, settings, frames)
        _draw(sequences, settings, frames, workers)
        if mp4:
            for sequence in sequences:
                _write_film(sequence, (width, height), frames, fps)
        rows = [line.split(',') for s in sequences for line in (s.folder / 'gt/gt.txt').read_text().splitlines()]
    people = len({row[1] for row in rows})
    return {'cameras': cameras, 'frames': cameras * frames, 'boxes': len(rows), 'people': people}


def _sequences(root: Path, settings: dict) -> list[_Sequence]:
    rng = generator(settings['seed'], settings['domain'], 15)
    errors = rng.uniform(-1, 1, 9) * settings['clock_error']
    name = f'{settings["domain"]}-{settings["seed"]}'
    return [
        _Sequence(root / f'{name}-c{k}', k, round(float(errors[k - 1]), 3) + 0.0)
        for k in range(1, settings['cameras'] + 1)
    ]


def _make_folders(sequence: _Sequence, settings: dict, frames: int) -> None:
    for name in ('img1', 'gt', 'det'):
        (sequence.folder / name).mkdir(parents=True, exist_ok=True)
        sweep(sequence.folder / name)
    begins = (_BEGINS + timedelta(seconds=sequence.clock)).isoformat(timespec='milliseconds')
    info = dict(
        name=sequence.folder.name, imDir='img1', frameRate=settings['fps'], seqLength=frames,
        imWidth=settings['width'], imHeight=settings['height'], imExt='.jpg', startTime=begins,
        clockError=sequence.clock,
    )  # fmt: skip
    text = ''.join(f'{key}={value}\n' for key, value in info.items())
    if not (sequence.folder / 'seqinfo.ini').exists():
        replace_text(sequence.folder / 'seqinfo.ini', f'[Sequence]\n{text}')


def _draw(sequences: list[_Sequence], settings: dict, frames: int, workers: int) -> None:
    """Draws the frames that are missing, and writes who is in them, of each camera whose `gt.txt` is missing."""
    aspect = settings['width'] / settings['height']
    worlds = [World.seen(draw_film_camera(settings['seed'], settings['domain'], s.camera), aspect) for s in sequences]
    visits = None
    with progress(total=len(sequences) * frames, unit='frame', desc='render') as bar:
        for sequence, world in zip(sequences, worlds, strict=True):
            gt, det = (sequence.folder / name / f'{name}.txt' for name in ('gt', 'det'))
            missing = [k for k in range(1, frames + 1) if not sequence.image(k).exists()]
            if gt.exists() and det.exists() and not missing:
                bar.update(frames)
                continue
            if visits is None:
                visits = walk(
                    worlds, settings['identities'], frames / settings['fps'], settings['seed'], settings['domain']
                )
            if len(missing) < frames:
                _logger.info('%s: %d of %d frames are there already', sequence.folder, frames - len(missing), frames)
            size = min(_TASK, -(-frames // workers))
            tasks = [range(first, min(first + size, frames + 1)) for first in range(1, frames + 1, size)]
            own = [v for v in visits if v.camera == sequence.camera - 1]
            arguments = [(sequence, world, settings, task, _during(own, task, settings['fps'])) for task in tasks]
            rows = sorted(row for found in spread(_draw_task, arguments, workers, bar) for row in found)
            replace_text(gt, ''.join(f'{r.frame},{r.person},{_box(r[2:6])},1,1,{r.visible:.3f}\n' for r in rows))
            replace_text(det, _detect(rows, frames, sequence, settings))


def _during(visits: list[Visit], frames: range, fps: int) -> list[Visit]:
    """The visits during some frames."""
    first, last = (frames[0] - 1) / fps, (frames[-1] - 1) / fps
    return [v for v in visits if v.end >= first and v.start <= last]


def _box(sides) -> str:
    return ','.join(f'{side:.2f}' for side in sides)


_films: dict = {}


def _film(sequence: _Sequence, world: World, settings: dict):
    """This process's film of a camera: one is kept."""
    from .film import Film

    key = (sequence.camera, *settings.values())
    if key not in _films:
        _films.clear()
        alike = {k: k - 1 for k in range(_ALIKE, settings['identities'] + 1, _ALIKE)}
        size = (settings['width'], settings['height'])
        _films[key] = Film(world, sequence.camera, size, settings['seed'], settings['domain'], alike)
    return _films[key]


def _draw_task(
    sequence: _Sequence, world: World, settings: dict, frames: range, visits: list[Visit], tell: Callable[[int], None]
) -> list[_Row]:
    """Draws some frames of a camera where they are missing; returns who is in them."""
    film, rows, size = _film(sequence, world, settings), [], (settings['width'], settings['height'])
    for frame in frames:
        path = sequence.image(frame)
        seen, image = film.frame((frame - 1) / settings['fps'], frame - 1, visits, not path.exists())
        if image:
            replace_file(path, lambda draft, image=image: draft.write_bytes(image), swept=True)
        for somebody in seen:
            if (box := inside(somebody.box, size)) is not None:
                low, high = box[:2], box[2:]
                rows.append(_Row(frame, somebody.person, *low, *(high - low), somebody.pixels / somebody.alone))
        tell(1)
    return rows


def inside(box: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The part of a box [4] that is in a frame of some width and height; None where that is less than a quarter."""
    low, high = np.clip(box[:2], 0, size), np.clip(box[2:], 0, size)
    return np.concatenate([low, high]) if np.prod(high - low) >= _INSIDE * np.prod(box[2:] - box[:2]) else None


def _detect(rows: list[_Row], frames: int, sequence: _Sequence, settings: dict) -> str:
    """What a detector finds, as the text of `det.txt`.

    It misses people the more, the less is visible of them and the smaller they are; what it finds is off by some
    hundredths, more where much is hidden; and now and then it finds somebody where there is nobody, some of them again
    and again at the same spot.
    """
    wide, tall = settings['width'], settings['height']
    spots = generator(settings['seed'], settings['domain'], 16, sequence.camera).random((3, 3))
    by_frame: dict[int, list[_Row]] = {}
    for row in rows:
        by_frame.setdefault(row.frame, []).append(row)
    heights = [row.tall for row in rows] or [tall / 4]
    lines = []
    for frame in range(1, frames + 1):
        rng = generator(settings['seed'], settings['domain'], 17, sequence.camera, frame)
        for row in by_frame.get(frame, []):
            small = np.clip(row.tall / 40, 0, 1) ** 0.5
            surely = small / (1 + np.exp(-12 * (row.visible - 0.3)))
            chance, level, off = rng.random(), rng.normal(0, 0.06), rng.normal(0, 0.02 + 0.03 * (1 - row.visible), 4)
            if chance < 0.97 * surely:
                left, top = row.left + off[0] * row.wide, row.top + off[1] * row.tall
                size = row.wide * np.exp(2 * off[2]), row.tall * np.exp(off[3])
                score = np.clip(0.45 + 0.47 * surely * (0.4 + 0.6 * row.visible) + level, 0.05, 0.99)
                lines.append((frame, left, top, *size, score))
        false = [spot for spot in spots if rng.random() < 0.03]
        false += [rng.random(3) for _ in range(rng.poisson(0.03))]
        for x, y, scale in false:
            high = float(np.quantile(heights, 0.1 + 0.8 * scale))
            broad = high * rng.uniform(0.3, 0.5)
            where = x * (wide - broad), y * (tall - high) if tall > high else 0.0
            lines.append((frame, *where, broad, high, np.clip(rng.normal(0.42, 0.12), 0.05, 0.8)))
    return ''.join(f'{frame},-1,{_box(box)},{score:.3f},-1,-1,-1\n' for frame, *box, score in lines)


def _write_film(sequence: _Sequence, size: tuple[int, int], frames: int, fps: int) -> None:
    """Writes an MP4 file of a camera's frames, if it is not there yet."""
    import av

    def write(draft: Path) -> None:
        with av.open(str(draft), 'w', format='mp4') as film:
            stream = film.add_stream('libx264', rate=fps, options={'crf': '20', 'threads': '1'})
            stream.pix_fmt = 'yuv420p'
            stream.width, stream.height = size
            for frame in range(1, frames + 1):
                with av.open(str(sequence.image(frame))) as image:
                    film.mux(stream.encode(next(image.decode(video=0)).reformat(format='yuv420p')))
            film.mux(stream.encode())

    if not sequence.film.exists():
        replace_file(sequence.film, write)
