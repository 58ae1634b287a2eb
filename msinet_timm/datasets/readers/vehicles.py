"""Vehicles: VeRi-776, VehicleID and VERI-Wild."""

import os
import re
from datetime import datetime, timezone
from pathlib import Path

from msinet_timm.datasets.records import Counts, Protocol, Record, ReIDDataset
from msinet_timm.errors import InputError

from .layout import FileNames, find_folder, image_names, number_name, read_lines, require_file
from .reader import Option, Reader

__all__ = ['VEHICLEID', 'VERI776', 'VERIWILD', 'VERI_FOLDERS', 'read_veri776']

VERI_FOLDERS = {'train': 'image_train', 'query': 'image_query', 'gallery': 'image_test'}
_VERI_NAMES = FileNames(
    re.compile(r'(?P<identity>-1|\d+)_c(?P<camera>\d+)_(?P<time>\d+).*', re.ASCII),
    '<identity>_c<camera>_<time>_<box>',
    '0001_c001_00016450_0.jpg',
)
_VERI_KNOWN: Counts = {'train': (576, 37778), 'query': (200, 1678), 'gallery': (200, 11579)}


def read_veri776(root: str) -> ReIDDataset:
    """VeRi-776 (Liu et al., ECCV 2016): 20 cameras."""
    folder = find_folder(root, ('VeRi', 'VeRi-776', 'veri776'), tuple(VERI_FOLDERS.values()))
    parts = {part: _VERI_NAMES.read(folder / name, VERI_FOLDERS.values()) for part, name in VERI_FOLDERS.items()}
    return ReIDDataset('veri776', str(folder), **parts, known=_VERI_KNOWN)


_DRAWS = 10
_VEHICLEID_PARTS = ('image', 'train_test_split')
_VEHICLEID_TESTS = {800: 6493, 1600: 13377, 2400: 19777}
_VEHICLEID_KNOWN: dict[int, Counts] = {
    size: {'train': (13164, 113346), 'gallery': (size, images)} for size, images in _VEHICLEID_TESTS.items()
}


def _read_vehicleid(root: str, size: int = 800) -> ReIDDataset:
    """VehicleID (Liu et al., CVPR 2016): no cameras; of each test vehicle one image is drawn, which the rest seek.

    Lists name images without their ending, and vehicles: `0000001 1`.
    """
    folder = find_folder(root, ('VehicleID_V1.0', 'VehicleID'), _VEHICLEID_PARTS)
    if not (folder / 'image').is_dir():
        raise InputError(f'{folder / "image"} is missing: it holds the images of VehicleID')
    images = {os.path.splitext(name)[0]: str(folder / 'image' / name) for name in image_names(folder / 'image')}
    lists = folder / 'train_test_split'
    return ReIDDataset(
        'vehicleid',
        str(folder),
        train=_read_vehicleid_list(lists / 'train_list.txt', images),
        query=(),
        gallery=_read_vehicleid_list(lists / f'test_list_{size}.txt', images),
        protocol=Protocol(draws=_DRAWS),
        notes=(f'test of {size} vehicles: mean of {_DRAWS} draws of one gallery image for each',),
        known=_VEHICLEID_KNOWN[size],
    )


def _read_vehicleid_list(path: Path, images: dict[str, str]) -> tuple[Record, ...]:
    records = []
    for number, line in read_lines(path):
        try:
            name, identity = line.split()
            records.append(Record(images[name], number_name(identity)))
        except KeyError:
            raise InputError(f'{path}, line {number}: there is no image {name}.jpg in image/') from None
        except ValueError:
            raise InputError(f"{path}, line {number}: expected '<image> <vehicle>', got '{line}'") from None
    return tuple(records)


_WILD_PARTS = ('images', 'train_test_split')
_WILD_GALLERIES = {3000: 38861, 5000: 64389, 10000: 128517}
_WILD_KNOWN: dict[int, Counts] = {
    size: {'train': (30671, 277797), 'query': (size, size), 'gallery': (size, images)}
    for size, images in _WILD_GALLERIES.items()
}


def _read_veriwild(root: str, size: int = 3000) -> ReIDDataset:
    """VERI-Wild (Lou et al., CVPR 2019): 174 cameras, a fixed query for each test vehicle.

    Lists name images without their ending: `00001/000001` is `images/00001/000001.jpg`. Camera and time are in
    `vehicle_info.txt`, below a header: `00001/000001;32;2018-03-11 09:26:11;...`.
    """
    folder = find_folder(root, ('VERI-Wild', 'VERIWild', 'VERI_Wild'), _WILD_PARTS)
    lists = folder / 'train_test_split'
    information = _read_vehicle_info(lists / 'vehicle_info.txt')
    files = {'train': 'train_list.txt', 'query': f'test_{size}_query.txt', 'gallery': f'test_{size}.txt'}
    parts = {part: _read_wild_list(lists / name, folder / 'images', information) for part, name in files.items()}
    notes = (f'test of {size} vehicles',)
    return ReIDDataset('veriwild', str(folder), **parts, notes=notes, known=_WILD_KNOWN[size])


def _read_vehicle_info(path: Path) -> dict[str, tuple[str, int | None]]:
    """Camera and time of each image."""
    information = {}
    for number, line in read_lines(path):
        try:
            name, camera, time, *_ = line.split(';')
            information[name] = number_name(camera), _seconds(time)
        except ValueError:
            if number > 1:  # the first line is the header
                expected = '<vehicle>/<image>;<camera>;<time>;...'
                raise InputError(f"{path}, line {number}: expected '{expected}', got '{line}'") from None
    return information


def _seconds(text: str) -> int | None:
    """Seconds since 1970, as if all cameras were in UTC; None for a time in another form, which no ranking needs."""
    try:
        return round(datetime.fromisoformat(text.strip()).replace(tzinfo=timezone.utc).timestamp())
    except ValueError:
        return None


def _read_wild_list(path: Path, images: Path, information: dict) -> tuple[Record, ...]:
    records = []
    for number, line in read_lines(path):
        identity = line.partition('/')[0]
        if not identity.isdecimal():
            raise InputError(f"{path}, line {number}: expected '<vehicle>/<image>', got '{line}'")
        if line not in information:
            raise InputError(f'{path}, line {number}: {line} is not in vehicle_info.txt')
        camera, time = information[line]
        records.append(Record(str(images / f'{line}.jpg'), number_name(identity), camera, time=time))
    require_file(Path(records[0].path), named_in=path)
    return tuple(records)


VERI776 = Reader(
    read_veri776,
    about='VeRi-776: vehicles, 20 cameras',
    layout='VeRi or VeRi-776/{image_train,image_query,image_test}/' + _VERI_NAMES.example,
    known={'': _VERI_KNOWN},
)
VEHICLEID = Reader(
    _read_vehicleid,
    about='VehicleID: vehicles, no cameras',
    layout='VehicleID or VehicleID_V1.0/image/, train_test_split/{train_list,test_list_SIZE}.txt',
    options=(Option('size', 800, 'vehicles of the test', tuple(_VEHICLEID_TESTS)),),
    known={f'size={size}': counts for size, counts in _VEHICLEID_KNOWN.items()},
)
VERIWILD = Reader(
    _read_veriwild,
    about='VERI-Wild: vehicles, 174 cameras',
    layout='VERI-Wild/images/<vehicle>/, train_test_split/{train_list,test_SIZE,test_SIZE_query,vehicle_info}.txt',
    options=(Option('size', 3000, 'vehicles of the test', tuple(_WILD_GALLERIES)),),
    known={f'size={size}': counts for size, counts in _WILD_KNOWN.items()},
)
