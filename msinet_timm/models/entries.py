"""The entries of `hub_configs/*.json`: what is known of each set of weights, and timm's pretrained cfgs out of it."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from msinet_timm.errors import InputError
from msinet_timm.files import replace_text

__all__ = [
    'ChecksumError',
    'Entry',
    'check_entry',
    'check_file',
    'check_source',
    'entries_folder',
    'find_entry',
    'load_entries',
    'sha256_of',
    'write_entry',
]


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _three(check: Callable[..., bool], *limits: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) == 3 and all(check(v, *limits) for v in value)


class _Field(NamedTuple):
    """What a field must be: a check and its words, or the fields of the object, or of each object in a list."""

    check: Callable[[Any], bool] | Mapping[str, '_Field']
    words: str = ''
    null: bool = False
    optional: bool = False
    many: bool = False


_TEXT = _Field(_text, 'a text')
_URL = _Field(_matches(r'https?://\S+'), 'a URL')
_SHARE = _Field(lambda v: _number(v, 0, 1), 'a number from 0 to 1')

_FIELDS = {
    'architecture': _Field(_matches(r'msinet_[a-z0-9_]+'), 'the name of one of this package\'s models'),
    'genotype': _Field(_matches(r'[a-z][a-z0-9_]*'), 'the name of a genotype'),
    'tag': _Field(_matches(r'[A-Za-z0-9][A-Za-z0-9_-]*'), 'letters, digits, - and _'),
    'default': _Field(lambda v: v is True, 'true, or left out', optional=True),
    'description': _TEXT,
    'hf_hub_id': _Field(_matches(r'[\w.-]+/[\w.-]+'), 'OWNER/NAME'),
    'revision': _Field(_matches('[0-9a-f]{40}'), 'a commit: 40 hexadecimal digits', optional=True),
    'file': _Field(_matches(r'weights/[\w.-]+\.safetensors'), 'weights/NAME.safetensors', optional=True),
    'sha256': _Field(_matches('[0-9a-f]{64}'), '64 hexadecimal digits, lower case', null=True),
    'size': _Field(lambda v: _whole(v, 1), 'a number of bytes', null=True),
    'num_classes': _Field(lambda v: _whole(v, 0), 'a whole number, 0 or more'),
    'preprocessing': _Field(
        {
            'input_size': _Field(_three(_whole, 1), '[channels, height, width]'),
            'interpolation': _Field(lambda v: v in ('bilinear', 'bicubic'), 'bilinear or bicubic'),
            'crop_pct': _Field(lambda v: _number(v, 1e-3, 1), 'a number greater than 0, up to 1'),
            'crop_mode': _Field(lambda v: v in ('squash', 'center', 'border'), 'squash, center or border'),
            'mean': _Field(_three(_number, 0, 1), 'three numbers from 0 to 1'),
            'std': _Field(_three(_number, 1e-6, 1), 'three numbers greater than 0, up to 1'),
        }
    ),
    'training_data': _Field({'name': _TEXT, 'license': _TEXT, 'url': _URL._replace(null=True)}, many=True),
    'recipe': _TEXT._replace(null=True),
    'results': _Field(
        {'dataset': _TEXT, 'protocol': _TEXT, 'mAP': _SHARE, 'rank1': _SHARE, 'mINP': _SHARE._replace(null=True)},
        many=True,
    ),
    'threshold': _Field(
        {
            'threshold': _Field(lambda v: _number(v, 1e-9), 'a number greater than 0'),
            'false_positive_rate': _SHARE,
            'true_positive_rate': _SHARE,
            'dataset': _TEXT,
        },
        null=True,
    ),
    'paper_url': _URL,
    'origin_url': _URL,
    'license': _TEXT,
}  # fmt: skip


def _check(place: str, value: Any, fields: Mapping[str, _Field]) -> None:
    """Raises an InputError that names the first wrong field; `place` is the file, and the object in it."""
    if not isinstance(value, dict):
        raise InputError(f'{place}: must be an object with the fields {", ".join(fields)}')
    missing = sorted(name for name, field in fields.items() if not field.optional and name not in value)
    unknown = sorted(value.keys() - fields.keys())
    if missing or unknown:
        listed = [f'{kind} {", ".join(names)}' for kind, names in (('missing', missing), ('unknown', unknown)) if names]
        raise InputError(f'{place}: fields are {" and ".join(listed)}')
    for name, found in value.items():
        field = fields[name]
        if found is None and field.null:
            continue
        if field.many:
            if not isinstance(found, list):
                raise InputError(f'{place}: {name} must be a list, got {found!r}')
            for number, item in enumerate(found):
                _check(f'{place}: {name}[{number}]', item, field.check)
        elif isinstance(field.check, dict):
            _check(f'{place}: {name}', found, field.check)
        elif not field.check(found):
            raise InputError(f'{place}: {name} must be {field.words}{" or null" * field.null}, got {found!r}')


class Entry(dict):
    """An entry's fields by name, checked; `file_name` says which file of `hub_configs/` it is."""

    def __init__(self, fields: dict[str, Any], file_name: str, folder: Path) -> None:
        super().__init__(fields)
        self.file_name = file_name
        self.folder = folder

    @property
    def name(self) -> str:
        """As timm calls the weights: `architecture.tag`."""
        return f'{self["architecture"]}.{self["tag"]}'

    @property
    def place(self) -> str:
        """For messages."""
        return f'hub_configs/{self.file_name}'

    @property
    def weights(self) -> Path | None:
        """The file that comes with the package; None where there is none."""
        path = self.folder / self['file'] if self.get('file') else None
        return path if path and path.is_file() else None

    @property
    def hub_id(self) -> str:
        """The Hub id, with the commit where one is recorded: weights published later leave this version alone."""
        return self['hf_hub_id'] + (f'@{self["revision"]}' if self.get('revision') else '')

    @property
    def available(self) -> bool:
        """Whether there are weights: in the package, or on the Hub, their SHA-256 recorded."""
        return self['sha256'] is not None and (not self.get('file') or self.weights is not None)

    def cfg(self) -> dict[str, Any]:
        """Of these fields, those that timm's `PretrainedCfg` has; the weights' place only where there are weights."""
        preprocessing = {k: tuple(v) if isinstance(v, list) else v for k, v in self['preprocessing'].items()}
        _, height, width = preprocessing['input_size']
        places = {}
        if self.available:
            places = {'file': str(self.weights)} if self.weights else {'hf_hub_id': self.hub_id}
        return {
            **preprocessing,
            **places,
            'num_classes': self['num_classes'],
            'pool_size': (height // 16, width // 16),
            'description': self['description'],
            'license': self['license'],
            'origin_url': self['origin_url'],
        }


def entries_folder() -> Path:
    """Where the entries of this installation are."""
    return Path(str(resources.files('msinet_timm.hub_configs')))


def check_entry(text: str, file_name: str, folder: Path | None = None) -> Entry:
    """Parses and checks an entry.

    Args:
        text: JSON.
        file_name: for messages; must be `architecture.tag.json`.
        folder: that `file` is relative to; None for the package's.

    Raises:
        InputError: no JSON, or a field is missing, unknown or wrong; names file and field.
    """
    place = f'hub_configs/{file_name}'
    try:
        fields = json.loads(text)
    except ValueError as e:
        raise InputError(f'{place}: no JSON ({e})') from e
    _check(place, fields, _FIELDS)
    entry = Entry(fields, file_name, folder or entries_folder())
    if file_name != f'{entry.name}.json':
        raise InputError(f'{place}: architecture and tag are those of {entry.name}.json')
    infix = '' if entry['genotype'] == 'msmt' else f'_{entry["genotype"]}'
    if not re.fullmatch(rf'msinet{infix}_x\d_\d+', entry['architecture']):
        raise InputError(f'{place}: genotype {entry["genotype"]} is not that of {entry["architecture"]}')
    if (entry['sha256'] is None) != (entry['size'] is None):
        raise InputError(f'{place}: sha256 and size belong together: record both or neither')
    for needed in ('file', 'revision'):
        if entry.get(needed) and entry['sha256'] is None:
            raise InputError(f'{place}: {needed} needs the sha256 of the weights')
    return entry


def load_entries(folder: Path | None = None) -> dict[str, Entry]:
    """All entries by name (`architecture.tag`), in the order of their names.

    Args:
        folder: with the JSON files; None for the package's.

    Raises:
        InputError: as `check_entry`, or an architecture has two defaults.
    """
    folder = folder or entries_folder()
    entries: dict[str, Entry] = {}
    defaults: dict[str, str] = {}
    for path in sorted(folder.glob('*.json')):
        entry = check_entry(path.read_text(encoding='utf-8'), path.name, folder)
        entries[entry.name] = entry
        if entry.get('default'):
            other = defaults.setdefault(entry['architecture'], path.name)
            if other != path.name:
                raise InputError(f'{entry.place}: default is true in {other} as well')
    return entries


def find_entry(name: str) -> Entry | None:
    """The entry that a name means: `architecture.tag`, an `architecture` (its default), or `hf-hub:OWNER/NAME`."""
    for entry in load_entries().values():
        if name in (entry.name, f'hf-hub:{entry["hf_hub_id"]}', f'hf-hub:{entry.hub_id}') or (
            entry.get('default') and name == entry['architecture']
        ):
            return entry
    return None


def write_entry(fields: dict[str, Any], path: Path) -> Entry:
    """Checks an entry and writes it, its fields in the usual order.

    Raises:
        InputError: a field is wrong, or the file cannot be written.
    """
    ordered = {name: fields[name] for name in _FIELDS if name in fields}
    ordered |= {name: value for name, value in fields.items() if name not in ordered}
    entry = check_entry(json.dumps(ordered), f'{fields.get("architecture")}.{fields.get("tag")}.json', path.parent)
    # short lists and objects on one line, as a person would write them
    text = ',\n'.join(f'  {json.dumps(name)}: {_lines(value)}' for name, value in ordered.items())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, f'{{\n{text}\n}}\n')
    except OSError as e:
        raise InputError(f'{path}: cannot write the entry ({e.strerror})') from e
    return entry


def _lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return '[\n' + ',\n'.join(f'    {json.dumps(item, ensure_ascii=False)}' for item in value) + '\n  ]'
    return json.dumps(value, ensure_ascii=False)


#: In the order in which timm looks for them.
_WEIGHTS = ('model.safetensors', 'pytorch_model.bin')


class ChecksumError(InputError, RuntimeError):
    """Weights other than those recorded. A RuntimeError too, as timm's own for weights that cannot be loaded."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_file(path: Path, entry: Entry, source: str) -> None:
    """Compares a file with what an entry records.

    Args:
        path: the weights.
        entry: with a SHA-256.
        source: for the message: what the weights were asked for by.

    Raises:
        ChecksumError: it is another file; the message has both sums.
    """
    found = sha256_of(path)
    if found != entry['sha256']:
        raise ChecksumError(
            f'{source}: {path} has the SHA-256 {found}, but {entry.place} records {entry["sha256"]}: it is damaged, or '
            'not the published file. Delete it to download it again. If newer weights have been published, update '
            'msinet-timm, or ask for them by their commit: hf-hub:OWNER/NAME@COMMIT'
        )


def check_source(cfg: Mapping[str, Any], cache_dir: str | Path | None = None) -> None:
    """Checks the file that timm has just read, before its tensors go anywhere, if an entry records it.

    A repository that is asked for at another revision than the entry's is not the entry's, nor is a file or state
    dict given in place of it.

    Args:
        cfg: the model's `pretrained_cfg`.
        cache_dir: as given to `timm.create_model`.

    Raises:
        ChecksumError: the entry records another sum.
    """
    # timm's order: a folder or repository that was asked for by name, then a state dict, a file, the entry's repository
    hub_id = file = None
    if cfg.get('source') == 'hf-hub':
        hub_id = cfg.get('hf_hub_id')
    elif not cfg.get('source') and not cfg.get('state_dict'):
        file = cfg.get('file')
        hub_id = None if file else cfg.get('hf_hub_id')
    for entry in load_entries().values():
        if not entry['sha256']:
            continue
        if file and file == str(entry.weights):
            check_file(entry.weights, entry, entry.name)
        elif hub_id and not entry.weights and hub_id in (entry['hf_hub_id'], entry.hub_id):
            check_file(_cached(hub_id, cfg.get('hf_hub_filename'), cache_dir), entry, f'hf-hub:{hub_id}')


def _cached(hub_id: str, name: str | None, cache_dir: str | Path | None) -> Path:
    """The file in the Hub's cache that timm has read: no request is made."""
    repository, _, revision = hub_id.partition('@')
    for candidate in [name] if name else _WEIGHTS:
        try:
            return Path(
                hf_hub_download(
                    repository, candidate, revision=revision or None, cache_dir=cache_dir, local_files_only=True
                )
            )
        except LocalEntryNotFoundError:
            continue
    raise ChecksumError(f'hf-hub:{hub_id}: its weights are not in the cache, and so cannot be compared with their sum')
