"""Data sets by name: `create_dataset` gives the records, `msinet_timm.datasets.images` the pictures."""

from collections.abc import Callable
from pathlib import Path

from ..commands import InputError
from .market1501 import read_market1501
from .records import Record, ReIDDataset

__all__ = ['ReIDDataset', 'Record', 'create_dataset', 'list_datasets']


def _read_sample(root: str | None) -> ReIDDataset:
    """The rendered sample of the package, in the layout of Market-1501; `root` is another sample of that kind."""
    return read_market1501(root or str(Path(__file__).parent / 'sample'), name='sample')


# name -> reader(root), where root is None when the user named no folder
_READERS: dict[str, Callable[[str | None], ReIDDataset]] = {
    'market1501': read_market1501,
    'sample': _read_sample,
}


def list_datasets() -> list[str]:
    """Names that `create_dataset` knows, sorted."""
    return sorted(_READERS)


def create_dataset(name: str, root: str | None = None) -> ReIDDataset:
    """Reads the list of pictures of a data set; the pictures themselves are not opened.

    Args:
        name: one of `list_datasets()`.
        root: folder of the data set. `sample` comes with the package and needs none.

    Raises:
        InputError: unknown name, missing folder, or a folder that is not laid out as the data set.
    """
    if name not in _READERS:
        raise InputError(f"unknown data set '{name}', choose from: {', '.join(list_datasets())}")
    return _READERS[name](root)
