"""Data sets by name: `create_dataset` gives records, `create_scenes` whole images to search people in,
`msinet_timm.datasets.images` the images themselves."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from msinet_timm.datasets.readers.clothes import LTCC, PRCC
from msinet_timm.datasets.readers.folder import FOLDER
from msinet_timm.datasets.readers.market1501 import MARKET1501, RENDERED, SAMPLE
from msinet_timm.datasets.readers.msmt17 import MSMT17
from msinet_timm.datasets.readers.people import CLONEDPERSON, CUHK03, PERSONX, RANDPERSON
from msinet_timm.datasets.readers.reader import Option, Reader, add_data_option, parse_options
from msinet_timm.datasets.readers.scenes import CUHK_SYSU, PRW, RENDERED_SCENES
from msinet_timm.datasets.readers.table import TABLE
from msinet_timm.datasets.readers.vehicles import VEHICLEID, VERI776, VERIWILD
from msinet_timm.datasets.shards.index import SHARDS
from msinet_timm.errors import InputError

from .archive import Remote, typed_root
from .records import Protocol, Record, ReIDDataset
from .scenes import Scene, SceneQuery, SceneSet

__all__ = [
    'Protocol',
    'ReIDDataset',
    'Record',
    'Remote',
    'Scene',
    'SceneQuery',
    'SceneSet',
    'add_data_option',
    'create_dataset',
    'create_scenes',
    'get_reader',
    'list_datasets',
    'list_scenes',
    'parse_options',
    'read_datasets',
    'typed_root',
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
_SCENES: dict[str, Reader] = {
    'cuhk_sysu': CUHK_SYSU,
    'prw': PRW,
    'rendered_scenes': RENDERED_SCENES,
}


def list_datasets() -> list[str]:
    """Names that `create_dataset` knows, sorted."""
    return sorted(_READERS)


def list_scenes() -> list[str]:
    """Names that `create_scenes` knows, sorted."""
    return sorted(_SCENES)


def get_reader(name: str) -> Reader:
    """What is known of a data set, or of scenes, without reading it: its options, layout and published counts.

    Raises:
        InputError: unknown name, or a data set that was withdrawn.
    """
    if 'duke' in name.lower():
        raise InputError(
            f"data set '{name}': DukeMTMC and what was made of it (DukeMTMC-reID, Occluded-Duke, ...) was withdrawn by "
            'its creators in 2019 and is not read; use market1501, msmt17 or cuhk03'
        )
    if name not in _READERS and name not in _SCENES:
        raise InputError(f"unknown data set '{name}', choose from: {', '.join(list_datasets())}")
    return _READERS.get(name) or _SCENES[name]


def create_dataset(name: str, root: str | Path | None = None, **options) -> ReIDDataset:
    """Reads the list of images of a data set; the images themselves are not opened.

    Args:
        name: one of `list_datasets()`.
        root: folder of the data set, or the file of a table. `sample` comes with the package and needs none; `shards`
            may be fetched, see `Remote`.
        options: see `get_reader(name).options`; values may be texts.

    Raises:
        InputError: unknown name or option, missing folder, or a folder that is not laid out as the data set.
    """
    reader = get_reader(name)
    if name in _SCENES:
        raise InputError(f"data set '{name}' has whole images, to search people in: it has no crops of them")
    return reader(name, root, options)


def create_scenes(name: str, root: str | Path, **options) -> SceneSet:
    """Reads a data set of whole images, to search people in; the images themselves are not opened.

    Args:
        name: one of `list_scenes()`.
        root: folder of the data set.
        options: see `get_reader(name).options`; values may be texts.

    Raises:
        InputError: unknown name or option, missing folder or file, or a folder that is not laid out as the data set.
        MissingPackageError: scipy is not there, which reads the files of CUHK-SYSU and PRW.
    """
    if name not in _SCENES:
        raise InputError(f"unknown scenes '{name}', choose from: {', '.join(list_scenes())}")
    return _SCENES[name](name, root, options)


def read_datasets(
    names: Sequence[str],
    roots: Sequence[str] | None = None,
    options: Mapping[str, object] | None = None,
    *,
    expand: bool = False,
    further: Sequence[Mapping[str, object]] = (),
) -> dict[str, ReIDDataset]:
    """Reads several data sets: what `-ds`, `--data-dir` and `--data-option` name.

    Args:
        names: of `list_datasets()`, also one of them several times.
        roots: one folder for all, or one for each. A single one is not for data sets that need none, unless there
            is no other data set.
        options: each goes to the data sets that know it.
        further: options of each data set alone; empty for none.
        expand: whether the value `all` of an option means each of its choices in turn, unless it is itself a choice.

    Returns:
        Data sets in the order given, by names of which no two are alike: `vehicleid size=800`, `sample`, `sample2`.

    Raises:
        InputError: a number of folders that does not fit, an option that no data set knows, or as `create_dataset`.
    """
    roots, options = roots or [None], options or {}
    if len(roots) not in (1, len(names)):
        given = f'--data-dir: {len(roots)} folders for {len(names)} data sets'
        raise InputError(f'{given}: give one for all, or one for each')
    known = {name: {option.name: option for option in get_reader(name).options} for name in names}
    for key in options:
        if len(known) > 1 and not any(key in of_one for of_one in known.values()):
            raise InputError(f"--data-option: unknown option '{key}': none of {', '.join(known)} has it")
    datasets: dict[str, ReIDDataset] = {}
    for number, name in enumerate(names):
        root = roots[number] if len(roots) > 1 else roots[0]
        if len(names) > len(roots) and not get_reader(name).needs_root:
            root = None
        own = {key: value for key, value in options.items() if key in known[name] or len(known) == 1}
        own |= further[number] if further else {}
        for choice in _expand(own, known[name]) if expand else [own]:
            chosen = (f'{key}={value}' for key, value in choice.items() if own[key] != value)
            label = ' '.join([name, *chosen])
            distinct = (f'{label}{again}' if again > 1 else label for again in count(1))
            datasets[next(name for name in distinct if name not in datasets)] = create_dataset(name, root, **choice)
    return datasets


def _expand(options: Mapping[str, object], known: Mapping[str, Option]) -> Iterator[dict[str, object]]:
    for key, value in options.items():
        choices = known[key].choices if key in known else ()
        if value == 'all' and choices and 'all' not in choices:
            for choice in choices:
                yield from _expand({**options, key: str(choice)}, known)
            return
    yield dict(options)
