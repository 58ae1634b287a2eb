"""The parts of a user's folder: which of its folders are to train on, which ask, which are ranked."""

from collections.abc import Mapping
from pathlib import Path

from msinet_timm.datasets.images import IMAGE_SUFFIXES
from msinet_timm.errors import InputError

from .layout import list_folder, pick_folders, pick_images, skip, walk

__all__ = ['TEST', 'find_parts']

#: Part that queries are to be drawn from.
TEST = 'test'
_NAMES = {
    **{name: name for name in ('train', 'query', 'gallery', TEST)},
    # as benchmarks call them
    **{f'{kind}_{name}': name for kind in ('bbox', 'bounding_box', 'image') for name in ('train', 'query', TEST)},
    **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
    **{'training': 'train', 'testing': TEST, 'queries': 'query', 'probe': 'query', 'probes': 'query'},
}


def find_parts(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Finds the folders of parts, in any capitalisation.

    `test` is the gallery of `query`, or holds the two, or is to be split into them. `val` is the same where there is
    nothing else to test on, and otherwise set aside: who chooses settings by it must not train or test on it.

    Args:
        folder: of the data set.

    Returns:
        Part (`train`, `query`, `gallery`, or `TEST`) -> folder, none where all folders are of identities; and notes.

    Raises:
        InputError: two folders for one part, parts that exclude each other, or images in further folders.
    """
    folders, files = list_folder(folder)
    found: dict[str, Path] = {}
    unknown = []
    for name in sorted(name for name in folders if not name.startswith('.')):
        part = _NAMES.get(name.lower())
        if part is None:
            unknown.append(name)
        elif part in found:
            raise InputError(f'{folder} has both {found[part].name} and {name}: join them, or rename one')
        else:
            found[part] = folder / name
    # an identity may be called so, too
    if not found or (unknown and not found.keys() & {'train', 'query', 'gallery'}):
        return {}, ()
    _refuse_images(folder, found, unknown)
    pick_folders(folders)  # which counts the hidden ones
    skip(f'images beside the folders in {folder.name}', len(pick_images(files)))
    return _assign(found)


def _refuse_images(folder: Path, found: Mapping[str, Path], unknown: list[str]) -> None:
    """Images outside of the parts were meant for something; other files are counted as skipped."""
    counts = {name: _count(folder / name) for name in unknown}
    if holding := [f'{name} ({images:,} images)' for name, (images, _) in counts.items() if images]:
        known = ', '.join(path.name for path in found.values())
        raise InputError(
            f'{folder} has {known}, and beside them {", ".join(holding)}, which would not be read: move it elsewhere, '
            'or call it train, val, test, query or gallery'
        )
    for name, (_, files) in counts.items():
        skip(f'files in {name}', files)


def _count(folder: Path) -> tuple[int, int]:
    """How many images, and how many other files."""
    files = [file for _, _, files in walk(folder) for file in files]
    images = sum(file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith('.') for file in files)
    return images, len(files) - images


def _assign(found: dict[str, Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    parts = {part: path for part, path in found.items() if part in ('train', 'query', 'gallery')}
    test, val, notes = found.get(TEST), found.get('val'), ()
    if val and not test and not parts.keys() & {'query', 'gallery'}:
        test, val, notes = val, None, (f'{val.name} is tested on, as there is nothing else to test on',)
    if val:
        notes += (f'{val.name} is set aside: {_count(val)[0]:,} images that are neither trained nor tested on',)
    if not test:
        return parts, notes
    if 'gallery' in parts:
        raise InputError(
            f'{test.parent} has {test.name} and {parts["gallery"].name}: which is ranked? Move one of them elsewhere'
        )
    if 'query' in parts:
        return {**parts, 'gallery': test}, (*notes, f'{test.name} is the gallery')
    inner, _ = find_parts(test)
    if inner.keys() == {'query', 'gallery'}:
        return parts | inner, notes
    if inner:
        raise InputError(
            f'{test} has {", ".join(path.name for path in inner.values())}: expected identities, or query and gallery'
        )
    return {**parts, TEST: test}, notes
