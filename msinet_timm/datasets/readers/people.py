"""More people: CUHK03 in its new protocol, and the synthetic PersonX, RandPerson and ClonedPerson."""

import os
import re
from pathlib import Path

from msinet_timm.datasets.records import Counts, ReIDDataset
from msinet_timm.errors import InputError

from .layout import FileNames, find_folder, number_name
from .market1501 import FOLDERS
from .reader import Option, Reader

__all__ = ['CLONEDPERSON', 'CUHK03', 'PERSONX', 'RANDPERSON']

# PersonX and CUHK03-NP say no more in common than this at the beginning of a name.
_START = FileNames(
    re.compile(r'(?P<identity>-1|\d+)_c(?P<camera>\d+).*', re.ASCII), '<identity>_c<camera>...', '0001_c1_1.png'
)

_CUHK03_KNOWN: dict[str, Counts] = {
    'detected': {'train': (767, 7365), 'query': (700, 1400), 'gallery': (700, 5332)},
    'labeled': {'train': (767, 7368), 'query': (700, 1400), 'gallery': (700, 5328)},
}


def _read_cuhk03(root: str, boxes: str = 'detected') -> ReIDDataset:
    """CUHK03-NP (Li et al., CVPR 2014; split of Zhong et al., CVPR 2017): 2 cameras for each identity."""
    folder = find_folder(root, ('cuhk03-np', 'cuhk03_np', 'cuhk03'), tuple(_CUHK03_KNOWN)) / boxes
    parts = {part: _START.read(folder / name, FOLDERS.values()) for part, name in FOLDERS.items()}
    return ReIDDataset('cuhk03', str(folder), **parts, notes=(f'{boxes} boxes',), known=_CUHK03_KNOWN[boxes])


_PERSONX_KNOWN: Counts = {'train': (410, 9840), 'query': (856, 5136), 'gallery': (856, 30816)}


def _read_personx(root: str, backgrounds: str = '456') -> ReIDDataset:
    """PersonX (Sun and Zheng, CVPR 2019): folders 1 to 6, one for each background, or the three parts at once."""
    parts = tuple(FOLDERS.values())
    folder = find_folder(root, ('PersonX_v1', 'PersonX'), (*parts, *backgrounds))
    if any((folder / part).is_dir() for part in parts):
        folders, notes = [folder], ()
    else:
        folders, notes = [folder / number for number in backgrounds], (f'backgrounds {", ".join(backgrounds)}',)
    records = {p: tuple(r for f in folders for r in _START.read(f / name, parts)) for p, name in FOLDERS.items()}
    known = _PERSONX_KNOWN if backgrounds == '456' else {}
    return ReIDDataset('personx', str(folder), **records, notes=notes, known=known)


def _scene_fields(groups: dict[str, str]) -> dict:
    """Cameras are numbered anew in each scene: camera 1 of scene 12 becomes 1201."""
    scene, number = int(groups['scene']), int(groups['number'])
    return {
        'identity': number_name(groups['identity']),
        'camera': number_name(100 * scene + number),
        'time': int(groups['time']),
        'domain': f'scene {scene}',
    }


# RandPerson's first release has camera and scene the other way round.
_SCENES = FileNames(
    re.compile(
        r'(?P<identity>\d+)_(?=(c\d+_)?s(?P<scene>\d+))(?=(s\d+_)?c(?P<number>\d+))[sc]\d+_[sc]\d+_f(?P<time>\d+)\.\w+',
        re.ASCII,
    ),
    '<identity>_s<scene>_c<camera>_f<frame>',
    '000000_s00_c00_f000264.jpg',
    _scene_fields,
)
_RANDPERSON_KNOWN: Counts = {'train': (8000, 132145)}


def _read_randperson(root: str) -> ReIDDataset:
    """RandPerson (Wang et al., ACM MM 2020), the subset of the paper's experiments: to train on only."""
    names = ('randperson_subset', 'RandPerson', 'images', 'subset')
    folder = find_folder(root, names, (f'images named like {_SCENES.example}',), _holds_scenes)
    records = _SCENES.read(folder, ())
    return ReIDDataset('randperson', str(folder), records, (), (), known=_RANDPERSON_KNOWN)


def _holds_scenes(folder: Path) -> bool:
    return folder.is_dir() and any(map(_SCENES.pattern.fullmatch, os.listdir(folder)))


_CLONED_PARTS = {'train': 'train', 'query': 'test/query', 'gallery': 'test/gallery'}
_CLONED_KNOWN: Counts = {'train': (4826, 763953)}


def _read_clonedperson(root: str) -> ReIDDataset:
    """ClonedPerson (Wang et al., CVPR 2022): 24 cameras; its test part may be missing."""
    folder = find_folder(root, ('ClonedPerson',), ('train',))
    there = _CLONED_PARTS if (folder / 'test').is_dir() else {'train': 'train'}
    records = dict.fromkeys(_CLONED_PARTS, ())
    records |= {part: _SCENES.read(folder / name, _CLONED_PARTS.values()) for part, name in there.items()}
    return ReIDDataset('clonedperson', str(folder), **records, known=_CLONED_KNOWN)


class _Backgrounds(Option):
    def convert(self, value, dataset: str) -> str:
        value = str(value)
        if not value or set(value) - set('123456') or len(set(value)) < len(value):
            raise InputError(f"data set '{dataset}': option backgrounds={value} must be digits from 1 to 6, like 456")
        return value


CUHK03 = Reader(
    _read_cuhk03,
    about='CUHK03-NP: people, split into 767 and 700',
    layout=f'cuhk03-np/{{detected,labeled}}/{{{",".join(FOLDERS.values())}}}/{_START.example}',
    options=(Option('boxes', 'detected', 'who made the boxes', tuple(_CUHK03_KNOWN)),),
    known={f'boxes={boxes}': counts for boxes, counts in _CUHK03_KNOWN.items()},
)
PERSONX = Reader(
    _read_personx,
    about='PersonX: synthetic people in front of 6 backgrounds',
    layout=f'PersonX_v1/[1-6/]{{{",".join(FOLDERS.values())}}}/',
    options=(_Backgrounds('backgrounds', '456', 'folders to read, 1 to 6'),),
    known={'': _PERSONX_KNOWN},
)
RANDPERSON = Reader(
    _read_randperson,
    about='RandPerson: synthetic people to train on, 19 cameras',
    layout=f'randperson_subset/{_SCENES.example}',
    known={'': _RANDPERSON_KNOWN},
)
CLONEDPERSON = Reader(
    _read_clonedperson,
    about='ClonedPerson: synthetic people, 24 cameras',
    layout=f'clonedperson/{{train,test/query,test/gallery}}/{_SCENES.example}',
    known={'': _CLONED_KNOWN},
)
