"""The entries of `hub_configs/*.json`: what is known of each set of weights, and timm's pretrained cfgs out of it."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from huggingface_hub import hf_hub_download
from huggingface_hub.dataclasses import strict, validate_typed_dict, validated_field
from huggingface_hub.errors import LocalEntryNotFoundError, StrictDataclassError

from msinet_timm.errors import InputError, one_line
from msinet_timm.files import drafts, read_json, replace_text

__all__ = [
    'PREPROCESSING', 'ChecksumError', 'Entry', 'Threshold', 'check_file', 'check_preprocessing', 'check_source',
    'entries_folder', 'find_entry', 'load_entries', 'read_entry', 'sha256_of', 'write_entry',
]  # fmt: skip

Number = int | float


def _rule(test: str | Callable[[Any], Any], words: str) -> Callable[[Any], None]:
    """What a value must be besides its type: text of a pattern, or what passes a test. None is up to the type."""
    holds = re.compile(test).fullmatch if isinstance(test, str) else test

    def check(value: Any) -> None:
        if value is not None and not holds(value):
            raise ValueError(f'must be {words}, got {value!r}')

    return check


def _like(schema: type) -> Callable[[Any], None]:
    """An object, or each in a list of objects, with the fields of a `TypedDict`."""

    def check(value: Any) -> None:
        for place, item in enumerate(value if isinstance(value, list) else [value] if value is not None else []):
            number = f'[{place}] ' * isinstance(value, list)
            if missing := schema.__annotations__.keys() - item.keys():
                raise ValueError(f'{number}fields are missing: {", ".join(sorted(missing))}')
            try:
                validate_typed_dict(schema, item)
            except (StrictDataclassError, TypeError) as e:
                raise ValueError(number + one_line(e)) from e

    return check


_text = _rule(str.strip, 'a text')
_url = _rule(r'https?://\S+', 'a URL')
_share = _rule(lambda v: 0 <= v <= 1, 'a number from 0 to 1')
_sizes = _rule(lambda v: len(v) == 3 and all(1 <= n <= 10_000 for n in v), '[channels, height, width]')
_means = _rule(lambda v: len(v) == 3 and all(0 <= n <= 1 for n in v), 'three numbers from 0 to 1')
_deviations = _rule(lambda v: len(v) == 3 and all(0 < n <= 1 for n in v), 'three numbers greater than 0, up to 1')


class Preprocessing(TypedDict):
    """How images are prepared, in timm's words."""

    input_size: Annotated[list[int], _sizes]
    interpolation: Literal['bilinear', 'bicubic']
    crop_pct: Annotated[Number, _rule(lambda v: 0 < v <= 1, 'a number greater than 0, up to 1')]
    crop_mode: Literal['squash', 'center', 'border']
    mean: Annotated[list[Number], _means]
    std: Annotated[list[Number], _deviations]


#: What decides how images are prepared, as `timm.data.resolve_data_config` names it.
PREPROCESSING = tuple(Preprocessing.__annotations__)
#: One schema for each field of a configuration, as any may be missing.
_KNOWN = {
    name: TypedDict(name, {name: hint})
    for name, hint in {
        **Preprocessing.__annotations__,
        'crop_pct': Annotated[Number, _rule(lambda v: 0 < v <= 2, 'a number greater than 0')],  # of some timm models
        'num_classes': Annotated[int, _rule(lambda v: v >= 0, 'a whole number, 0 or more')],
        'classifier': str | list[str],
        'first_conv': str | list[str],
    }.items()
}


def check_preprocessing(config: Any) -> None:
    """Checks what a configuration tells of how images are prepared, and of classifiers; fields may be missing or None.

    Raises:
        InputError: no object, or a field of another type or out of range; names the field.
    """
    if not isinstance(config, Mapping):
        raise InputError(f'expected named values, got a {type(config).__name__}')
    try:
        for name, schema in _KNOWN.items():
            if (value := config.get(name)) is not None:
                validate_typed_dict(schema, {name: list(value) if isinstance(value, tuple) else value})
    except (StrictDataclassError, TypeError) as e:
        raise InputError(re.sub(r"Validation error for field '(\w+)': \w+Error: ", r'\1: ', one_line(e))) from e


class TrainingData(TypedDict):
    """A data set that the weights have seen."""

    name: Annotated[str, _text]
    license: Annotated[str, _text]
    url: Annotated[str | None, _url]


class Metrics(TypedDict):
    """What the weights reach on a data set: each metric from 0 to 1."""

    dataset: Annotated[str, _text]
    protocol: Annotated[str, _text]
    mAP: Annotated[Number, _share]
    rank1: Annotated[Number, _share]
    mINP: Annotated[Number | None, _share]


class Threshold(TypedDict):
    """A calibrated distance."""

    threshold: Annotated[Number, _rule(lambda v: 0 < v < float('inf'), 'a number greater than 0')]
    false_positive_rate: Annotated[Number, _share]
    true_positive_rate: Annotated[Number, _share]
    dataset: Annotated[str, _text]


@dataclass(kw_only=True)
class Entry:
    """What is known of a set of weights: the fields of its file, in their order. `check` says what they must be."""

    architecture: str = validated_field(_rule(r'msinet_[a-z0-9_]+', "the name of one of this package's models"))
    genotype: str = validated_field(_rule(r'[a-z][a-z0-9_]*', 'the name of a genotype'))
    tag: str = validated_field(_rule(r'[A-Za-z0-9][A-Za-z0-9_-]*', 'letters, digits, - and _'))
    #: Whether the bare name of the architecture stands for these weights.
    default: bool = False
    description: str = validated_field(_text)
    hf_hub_id: str = validated_field(_rule(r'[\w.-]+/[\w.-]+', 'OWNER/NAME'))
    #: Commit on the Hub.
    revision: str | None = validated_field(_rule('[0-9a-f]{40}', 'a commit: 40 hexadecimal digits'), default=None)
    #: Of weights in the package.
    file: str | None = validated_field(_rule(r'weights/[\w.-]+\.safetensors', 'weights/NAME.safetensors'), default=None)
    #: None where there are no weights yet.
    sha256: str | None = validated_field(_rule('[0-9a-f]{64}', '64 hexadecimal digits, lower case, or null'))
    #: Bytes of the weights.
    size: int | None = validated_field(_rule(lambda v: v >= 1, 'a number of bytes, or null'))
    num_classes: int = validated_field(_rule(lambda v: v >= 0, 'a whole number, 0 or more'))
    preprocessing: dict = validated_field(_like(Preprocessing))
    training_data: list[dict] = validated_field(_like(TrainingData))
    recipe: str | None = validated_field(_text)
    results: list[dict] = validated_field(_like(Metrics))
    threshold: dict | None = validated_field(_like(Threshold))
    paper_url: str = validated_field(_url)
    origin_url: str = validated_field(_url)
    license: str = validated_field(_text)
    #: Where the file is, and what `file` is relative to; None for this installation's.
    folder: Path | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """As timm calls the weights: `architecture.tag`."""
        return f'{self.architecture}.{self.tag}'

    @property
    def place(self) -> str:
        """For messages."""
        return f'hub_configs/{self.name}.json'

    @property
    def weights(self) -> Path | None:
        """The file that comes with the package; None where there is none."""
        path = (self.folder or entries_folder()) / self.file if self.file else None
        return path if path and path.is_file() else None

    @property
    def hub_id(self) -> str:
        """The Hub id, with the commit where one is recorded: weights published later leave this version alone."""
        return self.hf_hub_id + (f'@{self.revision}' if self.revision else '')

    @property
    def available(self) -> bool:
        """Whether there are weights: in the package, or on the Hub, their SHA-256 recorded."""
        return self.sha256 is not None and (not self.file or self.weights is not None)

    def cfg(self) -> dict[str, Any]:
        """Of these fields, those that timm's `PretrainedCfg` has; the weights' place only where there are weights."""
        preprocessing = {k: tuple(v) if isinstance(v, list) else v for k, v in self.preprocessing.items()}
        _, height, width = preprocessing['input_size']
        places = {}
        if self.available:
            places = {'file': str(self.weights)} if self.weights else {'hf_hub_id': self.hub_id}
        return {
            **preprocessing,
            **places,
            'num_classes': self.num_classes,
            'pool_size': (height // 16, width // 16),
            'description': self.description,
            'license': self.license,
            'origin_url': self.origin_url,
        }

    def as_fields(self) -> dict[str, Any]:
        """The fields of the file, without optional ones that say nothing."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != 'folder'}
        return {name: v for name, v in found.items() if v or name not in ('default', 'revision', 'file')}

    def check(self) -> None:
        """Checks all fields.

        Raises:
            InputError: one is wrong; names the file and the field.
        """
        try:
            _CheckedEntry(**vars(self))
        except StrictDataclassError as e:
            problem = re.sub(r"Validation error for field '(\w+)': \w+Error: ", r'\1: ', one_line(e))
            raise InputError(f'{self.place}: {problem}') from e
        infix = '' if self.genotype == 'msmt' else f'_{self.genotype}'
        if not re.fullmatch(rf'msinet{infix}_x\d_\d+', self.architecture):
            raise InputError(f'{self.place}: genotype {self.genotype} is not that of {self.architecture}')
        if (self.sha256 is None) != (self.size is None):
            raise InputError(f'{self.place}: sha256 and size belong together: record both or neither')
        for needed in ('file', 'revision'):
            if getattr(self, needed) and self.sha256 is None:
                raise InputError(f'{self.place}: {needed} needs the sha256 of the weights')


@strict
@dataclass(kw_only=True)
class _CheckedEntry(Entry):
    """An entry that can be made of right fields only."""


def entries_folder() -> Path:
    """Where the entries of this installation are."""
    return Path(str(resources.files('msinet_timm.hub_configs')))


def read_entry(path: Path) -> Entry:
    """The entry in a file, whose fields are there; what they are is not checked.

    Raises:
        InputError: no JSON, a field is missing or unknown, or it is the file of another name; names the file.
    """
    place = f'hub_configs/{path.name}'
    try:
        entry = Entry(**read_json(path), folder=path.parent)
    except ValueError as e:
        raise InputError(f'{place}: no JSON ({e})') from e
    except TypeError as e:  # Python's words name the fields
        raise InputError(f'{place}: {one_line(e).removeprefix("Entry.__init__() ")}') from e
    if path.name != f'{entry.name}.json':
        raise InputError(f'{place}: architecture and tag are those of {entry.name}.json')
    return entry


def load_entries(folder: Path | None = None, check: bool = True) -> dict[str, Entry]:
    """All entries by name (`architecture.tag`), in the order of their names.

    Args:
        folder: with the JSON files; None for the package's.
        check: whether to look if their fields are what they must be; only an import does without.

    Raises:
        InputError: as `read_entry` and `Entry.check`, or an architecture has two defaults.
    """
    entries = {path.stem: read_entry(path) for path in sorted((folder or entries_folder()).glob('*.json'))}
    defaults: dict[str, Entry] = {}
    for entry in entries.values():
        if check:
            entry.check()
        if entry.default and (other := defaults.setdefault(entry.architecture, entry)) is not entry:
            raise InputError(f'{entry.place}: default is true in {other.name}.json as well')
    return entries


def find_entry(name: str) -> Entry | None:
    """The entry that a name means: `architecture.tag`, an `architecture` (its default), or `hf-hub:OWNER/NAME`."""
    for entry in load_entries().values():
        if name in (entry.name, f'hf-hub:{entry.hf_hub_id}', f'hf-hub:{entry.hub_id}') or (
            entry.default and name == entry.architecture
        ):
            return entry
    return None


def write_entry(entry: Entry, path: Path) -> None:
    """Checks an entry and writes it.

    Raises:
        InputError: a field is wrong, or the file cannot be written.
    """
    entry.check()
    # short lists and objects on one line, as a person would write them
    text = ',\n'.join(f'  {json.dumps(name)}: {_lines(value)}' for name, value in entry.as_fields().items())
    words = f'{path}: cannot write the entry'
    with drafts(path.parent, words) as draft:
        replace_text(draft / path.name, f'{{\n{text}\n}}\n', words)


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
    if found != entry.sha256:
        raise ChecksumError(
            f'{source}: {path} has the SHA-256 {found}, but {entry.place} records {entry.sha256}: it is damaged, or '
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
        if not entry.sha256:
            continue
        if file and file == str(entry.weights):
            check_file(entry.weights, entry, entry.name)
        elif hub_id and not entry.weights and hub_id in (entry.hf_hub_id, entry.hub_id):
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
