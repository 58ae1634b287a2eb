"""Is a set of scenes sound? Counts, people who cannot be learnt or found, boxes outside of images, broken images."""

from collections import Counter
from collections.abc import Iterable, Sequence

from msinet_timm.commands import format_table
from msinet_timm.datasets.images import UnreadableImageError, load_image
from msinet_timm.datasets.scenes import UNNAMED, Scene, SceneSet
from msinet_timm.errors import InputError

from .check import Finding, found
from .verify import map_images

__all__ = ['check_scenes', 'summarize_scenes']


def summarize_scenes(scenes: SceneSet) -> str:
    """A table of images, boxes, identities and cameras of train and test, and of the queries."""
    rows = [('', 'identities', 'images', 'boxes', 'unnamed', 'cameras')]
    for part, some in (('train', scenes.train), ('test', scenes.test)):
        identities = [identity for scene in some for identity in scene.identities]
        cameras = {scene.camera for scene in some} - {None}
        numbers = (len({*identities} - {UNNAMED}), len(some), len(identities), identities.count(UNNAMED), len(cameras))
        rows.append((part, *(f'{number:,}' for number in numbers)))
    asked, images = ({get(query) for query in scenes.queries} for get in (lambda q: q.identity, lambda q: q.scene.path))
    rows.append(('queries', f'{len(asked):,}', f'{len(images):,}', f'{len(scenes.queries):,}', '', ''))
    return format_table(rows)


def check_scenes(scenes: SceneSet) -> list[Finding]:
    """Everything that is wrong with a set of scenes; opens all of its images."""
    return [*_check_counts(scenes), *_check_identities(scenes), *_check_images(scenes.train + scenes.test)]


def _check_counts(scenes: SceneSet) -> Iterable[Finding]:
    counts = {
        part: (len({identity for scene in some for identity in scene.named}), len(some))
        for part, some in (('train', scenes.train), ('test', scenes.test))
    }
    counts['queries'] = len({query.identity for query in scenes.queries}), len(scenes.queries)
    for part, known in scenes.known.items():
        if counts[part] != known:
            of, what = ('{1:,} {2} of {0:,} identities', 'queries' if part == 'queries' else 'images')
            text = f'{part}: {of.format(*counts[part], what)}, but {of.format(*known, what)} are known'
            yield Finding('counts', text)


def _check_identities(scenes: SceneSet) -> Iterable[Finding]:
    asked = {query.identity for query in scenes.queries}
    for part, some in (('train', scenes.train), ('test', scenes.test)):
        images = Counter(identity for scene in some for identity in scene.named)
        once = [identity for identity, count in images.items() if count == 1 and (part == 'train' or identity in asked)]
        yield from found('single', f'{part}: identities with one image', map(str, once))
    yield from found('mixed', 'identities in both train and test', map(str, scenes.shared))


def _check_images(scenes: Sequence[Scene]) -> Iterable[Finding]:
    problems = list(map_images(_inspect, scenes, 'check'))
    for kind, text in (('unreadable', 'unreadable images'), ('outside', 'images with a box outside of them')):
        examples = tuple(problem for is_kind, problem in problems if is_kind == kind)
        if examples:
            yield Finding(kind, f'{text}: {len(examples):,}', examples)
    if empty := tuple(scene.path for scene in scenes if not scene.boxes):
        yield Finding('empty', f'images without a box: {len(empty):,}', empty)


def _inspect(scene: Scene) -> tuple[str, str]:
    """What is wrong with an image, of which kind; two empty texts where nothing is."""
    try:
        image = load_image(scene.path)
        scene.within(*image.size)
    except UnreadableImageError as e:
        return 'unreadable', str(e)
    except InputError as e:
        return 'outside', str(e)
    return '', ''
