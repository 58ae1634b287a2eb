"""MSMT17 (Wei et al., CVPR 2018): people, 15 cameras, in two versions that differ in blurred faces and in folder names.

Lists name images and identities: `0000/0000_000_01_0303morning_0015_0.jpg 0`. The third field of a file name is the
camera. The identities of the test set are numbered from 0 again, so that they are moved behind those of the training
set here: the first one is called `1041`.
"""

from pathlib import Path

from msinet_timm.datasets.records import Counts, Record, ReIDDataset
from msinet_timm.errors import InputError

from .layout import find_folder, number_name, read_lines, require_file
from .reader import Option, Reader

__all__ = ['MSMT17']

_VERSIONS = {'v1': ('train', 'test'), 'v2': ('mask_train_v2', 'mask_test_v2')}
_SUBFOLDERS = {'v1': ('MSMT17_V1', 'msmt17'), 'v2': ('MSMT17_V2', 'msmt17')}
_TRAIN_IDENTITIES = 1041
_TEST: Counts = {'query': (3060, 11659), 'gallery': (3060, 82161)}
_KNOWN: dict[str, Counts] = {
    'trainval': {'train': (_TRAIN_IDENTITIES, 30248 + 2373), **_TEST},
    'train': {'train': (_TRAIN_IDENTITIES, 30248), **_TEST},
}


def _read(root: str, split: str = 'trainval', version: str | None = None) -> ReIDDataset:
    folder, version = _find(root, version)
    train_folder, test_folder = (_part(folder, name) for name in _VERSIONS[version])
    lists = ('list_train.txt', 'list_val.txt')[: 2 if split == 'trainval' else 1]
    train = tuple(record for name in lists for record in _read_list(folder / name, train_folder, 0))
    query, gallery = (
        _read_list(folder / f'list_{n}.txt', test_folder, _TRAIN_IDENTITIES) for n in ('query', 'gallery')
    )
    trained = 'train and validation images' if split == 'trainval' else 'train images without the validation ones'
    notes = (f'MSMT17 version {version[1:]}, {trained} to train on',)
    return ReIDDataset('msmt17', str(folder), train, query, gallery, notes=notes, known=_KNOWN[split])


def _find(root: str, version: str | None) -> tuple[Path, str]:
    """The folder and its version, which is the only one there is unless it is given."""
    found = {}
    for name, parts in _VERSIONS.items():
        try:
            found[name] = find_folder(root, _SUBFOLDERS[name], parts, lambda f, p=parts: _holds(f, p))
        except InputError:
            if name == version:
                raise
    if version is None and len(found) > 1:
        raise InputError(f'{root} holds both versions of MSMT17: give the option version=v1 or version=v2')
    if not found:
        find_folder(root, ('MSMT17_V1', 'MSMT17_V2', 'msmt17'), ('train', 'test (or mask_train_v2, mask_test_v2)'))
        raise InputError(f'{root}: list_train.txt is missing beside the images of MSMT17')
    version = version or next(iter(found))
    return found[version], version


def _holds(folder: Path, parts: tuple[str, str]) -> bool:
    """A folder with the lists: folders called train and test alone are not yet MSMT17."""
    return (folder / 'list_train.txt').is_file() and any(_part(folder, part).is_dir() for part in parts)


def _part(folder: Path, name: str) -> Path:
    """`mask_train_v2` is found as `mask_train_V2`, too."""
    other = folder / name.replace('_v2', '_V2')
    return other if other.is_dir() else folder / name


def _read_list(path: Path, folder: Path, first: int) -> tuple[Record, ...]:
    if not folder.is_dir():
        raise InputError(f'{folder} is missing: it holds the images of {path.name}')
    records = []
    for number, line in read_lines(path):
        try:
            name, label = line.split()
            camera = number_name(name.rpartition('/')[2].split('_')[2])
            records.append(Record(str(folder / name), number_name(first + int(label)), camera))
        except (ValueError, IndexError):
            expected = '0000/0000_000_01_0303morning_0015_0.jpg 0'
            raise InputError(f"{path}, line {number}: expected a line like '{expected}', got '{line}'") from None
    require_file(Path(records[0].path), named_in=path)
    return tuple(records)


MSMT17 = Reader(
    _read,
    about='MSMT17: people, 15 cameras',
    layout='MSMT17_V1/{train,test}/ or MSMT17_V2/{mask_train_v2,mask_test_v2}/, '
    'beside list_{train,val,query,gallery}.txt',
    options=(
        Option('split', 'trainval', 'images to train on', ('trainval', 'train')),
        Option('version', None, 'needed only where both are there', ('v1', 'v2')),
    ),
    known={f'split={split}': counts for split, counts in _KNOWN.items()},
)
