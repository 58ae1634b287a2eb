"""What `python -m msinet_timm.benchmark --render` measures: images of people in a second, and what takes the time."""

import cProfile
import pstats
import time
from collections.abc import Callable
from typing import NamedTuple

from msinet_timm.commands import progress
from msinet_timm.render import raster
from msinet_timm.render.dataset import plan
from msinet_timm.render.image import render_image
from msinet_timm.render.scene import PASSERS

__all__ = ['RenderTimes', 'measure_rendering', 'rendering_to_markdown']

#: The functions that are the steps, by their names in the modules of `msinet_timm.render`.
_STEPS = {'people': 'person', 'poses': 'compose', 'drawing': 'render', 'camera': 'develop'}
_CAMERAS = 6


class RenderTimes(NamedTuple):
    """What rendering takes.

    Attributes:
        images: how many were rendered.
        seconds: of the processor, by step; `other` is what is left.
    """

    images: int
    seconds: dict[str, float]


def measure_rendering(
    identities: int, width: int, height: int, clock: Callable[[], float] = time.process_time
) -> RenderTimes:
    """Renders a data set in memory.

    What a process makes once, and the first image, are left out: places, people who pass by, compiled shaders.

    Args:
        identities: people, an even number, each in as many images as `msinet-data render` gives them.
        width, height: of the images, in pixels.
        clock: gives seconds; those of this process, of all of its threads.

    Raises:
        InputError: what rendering needs is not installed.
    """
    images = sorted(
        plan(identities=identities, cameras=_CAMERAS, images=12, seed=0, domain='street'), key=lambda p: p.identity
    )
    render_image(1, 'street', 1, 1, 0, 'person', width, height)
    for camera in range(1, _CAMERAS + 1):
        raster.place(0, 'street', camera)
    for number in PASSERS:
        raster.person(0, 'street', height, number)
    profile = cProfile.Profile(clock)
    start = clock()
    for p in progress(images, desc='render'):
        profile.runcall(render_image, 0, 'street', p.identity, p.camera, p.index, p.kind, width, height)
    return RenderTimes(len(images), _steps(profile, clock() - start))


def _steps(profile: cProfile.Profile, whole: float) -> dict[str, float]:
    """Seconds of each step, of a profile in which `compose` calls `person`; and of all else."""
    taken = dict.fromkeys(_STEPS, 0.0)
    for (file, _, function), (*_, cumulative, _) in pstats.Stats(profile).stats.items():
        for step, name in _STEPS.items():
            if name == function and file.rpartition('msinet_timm')[2].replace('\\', '/').startswith('/render/'):
                taken[step] += cumulative
    taken['poses'] -= taken['people']
    return taken | {'other': whole - sum(taken.values())}


def rendering_to_markdown(result: RenderTimes) -> str:
    """A table of images/s of a core, and of the share of each step."""
    head, whole = ('images', 'images/s of a core', *result.seconds), sum(result.seconds.values())
    shares = [f'{100 * seconds / whole:.0f} %' for seconds in result.seconds.values()]
    rows = [head, ['---'] * len(head), [result.images, f'{result.images / whole:.1f}', *shares]]
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in rows)
