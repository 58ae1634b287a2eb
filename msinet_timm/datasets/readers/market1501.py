"""Market-1501 (Zheng et al., ICCV 2015), and whatever is laid out like it.

Three folders of images named `<identity>_c<camera>s<sequence>_<frame>_<box>.jpg`, as in `0002_c1s1_000451_03.jpg`.
Identity -1 is junk (a bad detection), dropped; identity 0000 is a distractor, kept in the gallery under the name `0`.
The 500,000 distractors that came later are a folder `distractors_500k` or `images` beside the three.
"""

import re
from pathlib import Path

from msinet_timm.datasets.records import Counts, Record, ReIDDataset
from msinet_timm.errors import InputError
from msinet_timm.files import read_json

from .layout import FileNames, find_folder, image_names
from .reader import Option, Reader
from .vehicles import VERI_FOLDERS, read_veri776

__all__ = ['DISTRACTOR', 'FOLDERS', 'MARKET1501', 'MASKS', 'NAMES', 'RENDERED', 'SAMPLE', 'mask_path']
__all__ += ['read_market1501']

FOLDERS = {'train': 'bounding_box_train', 'query': 'query', 'gallery': 'bounding_box_test'}
NAMES = FileNames(
    re.compile(r'(?P<identity>-1|\d+)_c(?P<camera>\d+)s\d+_\d+_\d+\.\w+', re.ASCII),
    '<identity>_c<camera>s<sequence>_<frame>_<box>',
    '0002_c1s1_000451_03.jpg',
)
#: What images of people are called whom nobody asks for.
DISTRACTOR = '0'
#: Beside these, masks of rendered people; no reader takes them for images.
MASKS = 'masks'
_SUBFOLDERS = ('Market-1501-v15.09.15', 'market1501', 'Market-1501')
_DISTRACTORS = ('distractors_500k', 'images')
_KNOWN: Counts = {'train': (751, 12936), 'query': (750, 3368), 'gallery': (751, 15913)}


def read_market1501(root: str, name: str = 'market1501', distractors_500k: bool = False) -> ReIDDataset:
    """Reads the lists of a folder with `bounding_box_train`, `query` and `bounding_box_test`.

    Args:
        root: that folder, or a folder above it if it has one of the names the data set is distributed under.
        name: name of the resulting data set.
        distractors_500k: add the images of the distractors' folder to the gallery.

    Raises:
        InputError: a folder missing or without images, or an image whose name does not parse.
    """
    folder = find_folder(root, _SUBFOLDERS, tuple(FOLDERS.values()))
    parts = {part: NAMES.read(folder / subfolder, FOLDERS.values()) for part, subfolder in FOLDERS.items()}
    if not distractors_500k:
        return ReIDDataset(name, str(folder), **parts, known=_KNOWN if name == 'market1501' else {})
    more = _read_distractors(folder)
    parts['gallery'] += more
    return ReIDDataset(name, str(folder), **parts, notes=(f'with {len(more):,} more distractors',))


def mask_path(image: Path) -> Path:
    """Where `msinet-data render --masks` writes how much of each pixel of an image is the person or vehicle."""
    return image.parent.parent / MASKS / image.parent.name / f'{image.stem}.png'


def _read_distractors(folder: Path) -> tuple[Record, ...]:
    """Nobody asks for them, so that all have one name and their cameras do not matter."""
    for subfolder in (folder / d for d in _DISTRACTORS):
        if subfolder.is_dir() and (names := image_names(subfolder)):
            return tuple(Record(str(subfolder / name), DISTRACTOR, camera='0') for name in names)
    raise InputError(f'{folder} has no distractors: expected images in a folder {" or ".join(_DISTRACTORS)}')


def _read_rendered(root: str, name: str = 'rendered') -> ReIDDataset:
    """What `msinet-data render` has written, people or vehicles; its settings are in `render.json`."""
    vehicles = any((Path(root) / folder).is_dir() for folder in VERI_FOLDERS.values())
    dataset = read_veri776(root) if vehicles else read_market1501(root, name=name)
    file = Path(dataset.root) / 'render.json'
    try:
        content = read_json(file)
        counts, settings = content['counts'], content['settings']
        known = {part: (None, counts[part]) for part in ('train', 'query')}
        known['gallery'] = (None, counts['gallery'] - counts['junk'])
        notes = (f'rendered: domain {settings["domain"]}, seed {settings["seed"]}',)
        outfits = settings.get('outfits', 1)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f'{file}: not as msinet-data render writes it ({e!r})') from e
    parts = {part: getattr(dataset, part) for part in FOLDERS}
    if outfits != 1:
        parts = {part: tuple(_with_clothes(record) for record in records) for part, records in parts.items()}
    return ReIDDataset(name, dataset.root, **parts, notes=notes, known=known)


def _with_clothes(record: Record) -> Record:
    """Where people change their clothes, the sequence tells which they wear."""
    return record._replace(clothes=re.search(r'_c\d+s(\d+)_', Path(record.path).name)[1])


def _read_sample(root: str | None) -> ReIDDataset:
    """The rendered sample of the package; `root` is another folder of that layout."""
    return read_market1501(root or str(Path(__file__).parents[1] / 'sample'), name='sample')


_LAYOUT = f'{{{",".join(FOLDERS.values())}}}/'
MARKET1501 = Reader(
    read_market1501,
    about='Market-1501: people, 6 cameras',
    layout=f'{" or ".join(_SUBFOLDERS)}/{_LAYOUT}{NAMES.example}',
    options=(Option('distractors_500k', False, 'add the 500,000 distractors to the gallery'),),
    known={'': _KNOWN},
)
RENDERED = Reader(
    _read_rendered,
    about='people or vehicles that msinet-data render has rendered',
    layout=f'{_LAYOUT} or {{{",".join(VERI_FOLDERS.values())}}}/, render.json',
)
SAMPLE = Reader(
    _read_sample,
    about='100 rendered people, in the package',
    layout=_LAYOUT,
    needs_root=False,
)
