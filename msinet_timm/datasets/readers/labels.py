"""Names of identities and cameras -> the numbers that records hold."""

from collections.abc import Iterable, Mapping

from msinet_timm.datasets.records import Record

__all__ = ['FIELDS', 'make_records', 'number_labels']

#: What users may tell of an image, apart from its path and box.
FIELDS = ('identity', 'camera', 'view', 'time', 'tracklet', 'domain', 'clothes')
_AS_THEY_ARE = {'time': int, 'domain': str}


def number_labels(names: Iterable[str]) -> dict[str, int]:
    """A number for each name: its own where all names are different numbers, else its place in their order from 0."""
    names = sorted(set(names))
    if all(name.isdecimal() for name in names) and len({int(name) for name in names}) == len(names):
        return {name: int(name) for name in names}
    return {name: number for number, name in enumerate(names)}


def make_records(parts: Mapping[str, list[dict]]) -> dict[str, tuple[Record, ...]]:
    """Records of each part; a name is the same number in all of them.

    Args:
        parts: part -> rows with a `path`, texts of `FIELDS` as far as known (`time` an integer), perhaps a `box`.
    """
    labelled = [field for field in FIELDS if field not in _AS_THEY_ARE]
    rows = [row for part in parts.values() for row in part]
    convert = {f: number_labels(row[f] for row in rows if f in row).__getitem__ for f in labelled} | _AS_THEY_ARE

    def record(row: dict) -> Record:
        fields = {name: convert[name](row[name]) for name in FIELDS if name in row}
        return Record(row['path'], **fields, box=row.get('box'))

    return {part: tuple(record(row) for row in rows) for part, rows in parts.items()}
