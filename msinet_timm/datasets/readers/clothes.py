"""People who change their clothes: LTCC and PRCC, each in its standard and its clothes-changing protocol."""

import re
from collections.abc import Sequence
from pathlib import Path

from msinet_timm.datasets.records import Counts, Protocol, Record, ReIDDataset
from msinet_timm.errors import InputError

from .layout import FileNames, find_folder, folder_names, image_names, number_name
from .reader import Option, Reader

__all__ = ['CLOTHES_OPTION', 'LTCC', 'PRCC', 'clothes_protocol']

_PROTOCOLS = ('standard', 'clothes-changing')
CLOTHES_OPTION = Option('protocol', 'standard', "clothes-changing drops a query's clothes, too", _PROTOCOLS)


def clothes_protocol(protocol: str, tested: Sequence[Record]) -> Protocol:
    """The protocol that `CLOTHES_OPTION` names, for the queries and gallery given.

    Raises:
        InputError: it needs clothes, and they are not known for all images.
    """
    if protocol == 'standard':
        return Protocol()
    unknown = next((r.path for r in tested if r.clothes is None), None)
    if unknown is not None:
        raise InputError(f'{unknown}: its clothes are not known, which the option protocol={protocol} needs')
    return Protocol(same_clothes_removed=True)


_LTCC_PARTS = {'train': 'train', 'query': 'query', 'gallery': 'test'}
_LTCC_NAMES = FileNames(
    re.compile(r'(?P<identity>\d+)_(?P<clothes>\d+)_c(?P<camera>\d+)_.*', re.ASCII),
    '<identity>_<clothes>_c<camera>_<frame>',
    '094_1_c9_015833.png',
)
_LTCC_KNOWN: Counts = {'train': (77, 9576), 'query': (75, 493), 'gallery': (75, 7050)}


def _read_ltcc(root: str, protocol: str = 'standard') -> ReIDDataset:
    """LTCC (Qian et al., ACCV 2020): 12 cameras.

    In the clothes-changing protocol, gallery images of a query's identity are left out if they have its camera or
    its clothes. Training takes all images in both.
    """
    folder = find_folder(root, ('LTCC_ReID', 'LTCC'), tuple(_LTCC_PARTS.values()))
    parts = {part: _LTCC_NAMES.read(folder / name, _LTCC_PARTS.values()) for part, name in _LTCC_PARTS.items()}
    return ReIDDataset(
        'ltcc',
        str(folder),
        **parts,
        protocol=clothes_protocol(protocol, parts['query'] + parts['gallery']),
        notes=(f'{protocol} protocol',),
        known=_LTCC_KNOWN,
    )


_DRAWS = 10
_PRCC_NAME = re.compile(r'(?P<camera>[ABC])_.*')
_PRCC_QUERIES = {'standard': 'B', 'clothes-changing': 'C'}
_PRCC_IMAGES = {'A': 3384, 'B': 3873, 'C': 3543}
_PRCC_KNOWN: dict[str, Counts] = {
    protocol: {'train': (150, 17896), 'query': (71, _PRCC_IMAGES[camera]), 'gallery': (71, _PRCC_IMAGES['A'])}
    for protocol, camera in _PRCC_QUERIES.items()
}


def _read_prcc(root: str, protocol: str = 'clothes-changing', gallery: str = 'single') -> ReIDDataset:
    """PRCC (Yang et al., TPAMI 2021): cameras A and B saw the same clothes, C others.

    Camera A is the gallery, B asks in the standard protocol and C in the clothes-changing one. The paper draws one
    gallery image of each identity (`single`); many later works rank `all`. `rgb/val` is not read.
    """
    folder = find_folder(root, ('prcc', 'rgb'), ('train', 'test'))
    query = _PRCC_QUERIES[protocol]
    drawn = gallery == 'single'
    ranked = f'mean of {_DRAWS} draws of one gallery image for each identity' if drawn else 'all gallery images'
    return ReIDDataset(
        'prcc',
        str(folder),
        train=_read_prcc_folder(folder / 'train', None),
        query=_read_prcc_folder(folder / 'test' / query, query),
        gallery=_read_prcc_folder(folder / 'test' / 'A', 'A'),
        protocol=Protocol(draws=_DRAWS if drawn else 0),
        notes=(f'{protocol} protocol, {ranked}',),
        known=_PRCC_KNOWN[protocol],
    )


def _read_prcc_folder(folder: Path, camera: str | None) -> tuple[Record, ...]:
    """Records of a folder of identities. Without a camera given, it is the first letter of the file names."""
    if not folder.is_dir():
        raise InputError(f'{folder} is missing: expected prcc/rgb with train/<identity> and test/{{A,B,C}}/<identity>')
    records = []
    for person in (folder / name for name in folder_names(folder)):
        if not person.name.isdecimal():
            raise InputError(f'{person}: expected folders named by the number of an identity')
        identity = number_name(person.name)
        for name in image_names(person):
            match = _PRCC_NAME.fullmatch(name)
            if camera is None and match is None:
                raise InputError(f'{person / name}: expected <camera>_..., like A_cropped_rgb001.jpg')
            letter = camera or match['camera']
            clothes = '2' if letter == 'C' else '1'
            records.append(Record(str(person / name), identity, letter, clothes=clothes))
    if not records:
        raise InputError(f'{folder} holds no images: expected them in folders named by identities')
    return tuple(records)


LTCC = Reader(
    _read_ltcc,
    about='LTCC: people who change their clothes, 12 cameras',
    layout=f'LTCC_ReID/{{train,query,test}}/{_LTCC_NAMES.example}',
    options=(CLOTHES_OPTION,),
    known={'': _LTCC_KNOWN},
)
PRCC = Reader(
    _read_prcc,
    about='PRCC: people who change their clothes, 3 cameras',
    layout='prcc/rgb/{train/<identity>/A_cropped_rgb001.jpg,test/{A,B,C}/<identity>/}',
    options=(
        Option('protocol', 'clothes-changing', 'camera B (same clothes) or C asks', _PROTOCOLS),
        Option('gallery', 'single', 'one image an identity, drawn 10 times, or all', ('single', 'all')),
    ),
    known={f'protocol={protocol}': counts for protocol, counts in _PRCC_KNOWN.items()},
)
