"""Data sets by name: `create_dataset` gives the records, `msinet_timm.datasets.images` the images."""

from msinet_timm.datasets.readers.clothes import LTCC, PRCC
from msinet_timm.datasets.readers.folder import FOLDER
from msinet_timm.datasets.readers.market1501 import MARKET1501, RENDERED, SAMPLE
from msinet_timm.datasets.readers.msmt17 import MSMT17
from msinet_timm.datasets.readers.people import CLONEDPERSON, CUHK03, PERSONX, RANDPERSON
from msinet_timm.datasets.readers.reader import Reader, add_data_option, parse_options
from msinet_timm.datasets.readers.table import TABLE
from msinet_timm.datasets.readers.vehicles import VEHICLEID, VERI776, VERIWILD
from msinet_timm.datasets.shards.index import SHARDS
from msinet_timm.errors import InputError

from .records import Protocol, Record, ReIDDataset

__all__ = [
    'Protocol',
    'ReIDDataset',
    'Record',
    'add_data_option',
    'create_dataset',
    'get_reader',
    'list_datasets',
    'parse_options',
]

_READERS: dict[str, Reader] = {
    'clonedperson': CLONEDPERSON,
    'cuhk03': CUHK03,
    'folder': FOLDER,
    'ltcc': LTCC,
    'market1501': MARKET1501,
    'msmt17': MSMT17,
    'personx': PERSONX,
    'prcc': PRCC,
    'randperson': RANDPERSON,
    'rendered': RENDERED,
    'sample': SAMPLE,
    'shards': SHARDS,
    'table': TABLE,
    'vehicleid': VEHICLEID,
    'veri776': VERI776,
    'veriwild': VERIWILD,
}


def list_datasets() -> list[str]:
    """Names that `create_dataset` knows, sorted."""
    return sorted(_READERS)


def get_reader(name: str) -> Reader:
    """What is known of a data set without reading it: its options, layout and published counts.

    Raises:
        InputError: unknown name, or a data set that was withdrawn.
    """
    if 'duke' in name.lower():
        raise InputError(
            f"data set '{name}': DukeMTMC and what was made of it (DukeMTMC-reID, Occluded-Duke, ...) was withdrawn by "
            'its creators in 2019 and is not read; use market1501, msmt17 or cuhk03'
        )
    if name not in _READERS:
        raise InputError(f"unknown data set '{name}', choose from: {', '.join(list_datasets())}")
    return _READERS[name]


def create_dataset(name: str, root: str | None = None, **options) -> ReIDDataset:
    """Reads the list of images of a data set; the images themselves are not opened.

    Args:
        name: one of `list_datasets()`.
        root: folder of the data set, or the file of a table. `sample` comes with the package and needs none.
        options: see `get_reader(name).options`; values may be texts.

    Raises:
        InputError: unknown name or option, missing folder, or a folder that is not laid out as the data set.
    """
    return get_reader(name)(name, root, options)
