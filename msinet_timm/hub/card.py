"""Model cards: what a set of weights is, how good it is and how it is used, in the Hub's format."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn as nn
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from msinet_timm.errors import explained
from msinet_timm.files import read_json, replace_text
from msinet_timm.models.camera_norm import FILE_NAME
from msinet_timm.models.entries import Entry, Threshold

from .calibration import FILE_NAME as CALIBRATION
from .folder import model_preprocessing, read_config

__all__ = [
    'PREVIEW', 'Result', 'describe_cameras', 'folder_facts', 'new_entry', 'read_card', 'read_results', 'update_card',
    'without_cameras', 'write_card',
]  # fmt: skip

CARD = 'README.md'
PREVIEW = 'preview.png'
_CAMERAS = '## Cameras'
_THRESHOLD = '## Same or not'
_TASK = 'object-re-identification'
_METRICS = {'mAP': 'mAP', 'Rank-1': 'rank1', 'mINP': 'mINP'}


@dataclass(frozen=True)
class Result:
    """What a model reaches on a data set.

    Attributes:
        dataset: its name.
        mAP: mean average precision, 0 to 1.
        rank1: share of queries whose nearest image is right, 0 to 1.
        mINP: mean inverse negative penalty, 0 to 1; None where it is not known.
        protocol: rules of the measurement.
        query: number of queries; None where it is not known.
        gallery: number of gallery images; None where it is not known.
    """

    dataset: str
    mAP: float
    rank1: float
    mINP: float | None = None
    protocol: str = 'standard'
    query: int | None = None
    gallery: int | None = None

    def eval_results(self) -> list[EvalResult]:
        """As the Hub's metadata has it, one for each metric."""
        counts = {name: getattr(self, name) for name in ('protocol', 'query', 'gallery') if getattr(self, name)}
        known = {name: getattr(self, field) for name, field in _METRICS.items() if getattr(self, field) is not None}
        data = dict(dataset_name=self.dataset, dataset_type=self.dataset, dataset_split='test', dataset_args=counts)
        return [
            EvalResult(task_type=_TASK, metric_type=name, metric_value=round(value, 4), **data)
            for name, value in known.items()
        ]


def read_results(data: ModelCardData) -> list[Result]:
    """The results in a card's metadata; those without mAP and Rank-1 are left out."""
    found: dict[str, dict[str, Any]] = {}
    for result in data.eval_results or []:
        if result.metric_type in _METRICS:
            told = result.dataset_args if isinstance(result.dataset_args, dict) else {}
            ours = {name: told[name] for name in ('protocol', 'query', 'gallery') if name in told}
            fields = found.setdefault(result.dataset_name, ours)
            fields[_METRICS[result.metric_type]] = result.metric_value
    return [Result(name, **fields) for name, fields in found.items() if {'mAP', 'rank1'} <= fields.keys()]


def write_card(
    title: str,
    about: str,
    input_size: tuple[int, int],
    results: Sequence[Result] = (),
    training_data: Sequence[str] = (),
    facts: Sequence[str] = (),
    remarks: Sequence[str] = (),
    settings: str = '',
    license: str | None = None,
) -> str:
    """The README of a model folder.

    Args:
        title: name of the model.
        about: one sentence.
        input_size: height and width in pixels.
        results: what was measured with these weights.
        training_data: names of data sets.
        facts: listed under the title.
        remarks: what a reader of the metrics must know.
        settings: of the training, as YAML.
        license: of the weights.
    """
    data = ModelCardData(
        license=license,
        library_name='timm',
        pipeline_tag='image-feature-extraction',
        tags=['timm', 'image-feature-extraction', _TASK, *training_data],
        training_data=list(training_data),
        model_name=title if results else None,
        eval_results=[item for r in results for item in r.eval_results()] or None,
    )
    told = dict(title=title, about=about, facts=facts, results=results, remarks=remarks, settings=settings)
    told |= dict(height=input_size[0], width=input_size[1])
    card = ModelCard.from_template(data, template_path=str(Path(__file__).with_name('card.md')), **told)
    return f'{str(card).rstrip()}\n'


def _insert(body: str, heading: str, text: str) -> str:
    """Puts a text before a heading; at the end where there is no such heading."""
    before, found, after = body.partition(f'{heading}\n')
    return f'{before}{text}\n\n{found}{after}' if found else f'{body.rstrip()}\n\n{text}\n'


def _same_or_not(threshold: dict[str, Any]) -> str:
    false, true = (100 * threshold[f'{kind}_positive_rate'] for kind in ('false', 'true'))
    return f"""{_THRESHOLD}

Two images at a Euclidean distance up to {threshold['threshold']:.4f} (of embeddings of length 1) are held to be of
one identity. On {threshold['dataset']} this is done to {false:.3g} % of the pairs of different identities, and to
{true:.1f} % of the pairs of one identity."""


def _cameras(source: str, counts: Mapping[str, int], norms: bool) -> str:
    learnt = (
        "each camera's statistics of the batch norms and mean embedding"
        if norms
        else ("each camera's mean embedding, as the network has no batch norms")
    )
    rows = '\n'.join(f'| {name.replace("|", "&#124;")} | {count} |' for name, count in counts.items())
    return f"""{_CAMERAS}

The weights are those of `{source}`. `{FILE_NAME}` holds {learnt}, learnt from crops that nobody had
labelled. Metrics in this card, and thresholds found before, are of embeddings without it.

| camera | crops |
| --- | --- |
{rows}

```python
from msinet_timm.embedder import Embedder

embedder = Embedder('local-dir:THIS_FOLDER')
embeddings = embedder(images, cameras=cameras)  # a name for each image, or one for all
```"""


def without_cameras(body: str) -> str:
    """A card's text without its section on cameras."""
    return _without(body, _CAMERAS)


def _without(body: str, heading: str) -> str:
    return re.sub(rf'(?ms)^{heading}\n.*?(?=^## |\Z)', '', body)


def describe_cameras(folder: Path, source: str, counts: Mapping[str, int], norms: bool) -> None:
    """Writes the section on cameras into a folder's card, in the place of an earlier one and of a stale threshold.

    Args:
        folder: with a card.
        source: the model that was adapted.
        counts: crops by camera.
        norms: whether the network has batch norms.
    """
    card = read_card(folder)
    body = card.text if (folder / CALIBRATION).is_file() else _without(card.text, _THRESHOLD)
    card.text = _insert(without_cameras(body), '## Limits', _cameras(source, counts, norms))
    replace_text(folder / CARD, f'{str(card).rstrip()}\n')


def read_card(folder: Path) -> ModelCard | None:
    """The card of a folder; None where there is none.

    Raises:
        InputError: its metadata cannot be read.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    with explained(f'{path}: cannot read the metadata of this card'):  # YAML and the Hub's checks fail in many ways
        return ModelCard(path.read_text(encoding='utf-8'))


def _threshold(folder: Path) -> dict[str, Any] | None:
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    with explained(f'{path}: cannot read the calibration'):
        found = read_json(path)
        return {name: found[name] for name in Threshold.__annotations__}


def folder_facts(folder: Path, card: ModelCard | None) -> dict[str, Any]:
    """The fields of an entry that card and calibration know: results, and the threshold of the distance."""
    results = [
        {'dataset': r.dataset, 'protocol': r.protocol, 'mAP': r.mAP, 'rank1': r.rank1, 'mINP': r.mINP}
        for r in (read_results(card.data) if card else [])
    ]
    return {'results': results, 'threshold': _threshold(folder)}


def new_entry(name: str, model: nn.Module, card: ModelCard | None, repository: str) -> Entry:
    """An entry of weights for which there is no template; what depends on their file is None.

    Args:
        name: `architecture.tag`.
        model: with these weights.
        card: of their folder.
        repository: `OWNER/NAME` on the Hub.
    """
    data = card.data.to_dict() if card else {}
    trained_on = data.get('training_data') or []
    architecture, tag = name.split('.', 1)
    return Entry(
        architecture=architecture,
        genotype=re.fullmatch(r'msinet_(?:(.+)_)?x\d_\d+', architecture)[1] or 'msmt',
        tag=tag,
        description=f'{repository}, trained on {", ".join(trained_on or ["data that its card names"])}.',
        hf_hub_id=repository,
        sha256=None,
        size=None,
        num_classes=model.num_classes,
        preprocessing=model_preprocessing(model),
        training_data=[{'name': n, 'license': 'not stated', 'url': None} for n in trained_on],
        recipe=None,
        results=[],
        threshold=None,
        paper_url='https://arxiv.org/abs/2303.07065',
        origin_url=model.pretrained_cfg.get('origin_url') or 'https://github.com/vimar-gu/MSINet',
        license=data.get('license') or 'unknown',
    )


def update_card(
    folder: Path, entry: Entry | None = None, repository: str | None = None, license: str | None = None
) -> Path:
    """Writes the card of a folder that has none, and adds to one that is there what it doesn't say yet.

    Args:
        folder: of the model.
        entry: of the weights; the card of a folder without one tells what it tells.
        repository: `OWNER/NAME` on the Hub, for the lines of use.
        license: of the weights.
    """
    card, threshold = read_card(folder), _threshold(folder)
    license = license or (entry and entry.license)
    if card is None:
        config = read_config(folder)
        _, height, width = config.get('pretrained_cfg', {}).get('input_size', (3, 256, 128))
        text = write_card(
            repository.rpartition('/')[2] if repository else folder.absolute().name,
            entry.description if entry else f'`{config["architecture"]}`.',
            (height, width),
            training_data=[d['name'] for d in entry.training_data] if entry else (),
            facts=[f'Trained on: {d["name"]} ({d["license"]})' for d in entry.training_data] if entry else (),
            license=license or 'unknown',
        )
        card = ModelCard(text)
    card.data.license = card.data.license or license
    body = card.text
    if repository:
        body = body.replace("'local-dir:THIS_FOLDER'", f"'hf-hub:{repository}'").replace('  # or hf-hub:OWNER/NAME', '')
    if (folder / PREVIEW).is_file() and PREVIEW not in body:
        body = _insert(body, '## Results', f'![A query, and the images that are found for it]({PREVIEW})')
    if threshold and _THRESHOLD not in body:
        body = _insert(body, '## Limits', _same_or_not(threshold))
    card.text = body
    path = folder / CARD
    replace_text(path, f'{str(card).rstrip()}\n')
    return path
