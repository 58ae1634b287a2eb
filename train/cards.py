"""Model cards: what a trained model is, how good it is and how it is used, in the Hub's format."""

import argparse
from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResult, ModelCardData

from msinet_eval.protocol import Evaluation

from .measure import Measurement

__all__ = ['model_card']

#: Settings that tell one experiment from another, in the order of the card.
_SHOWN = (
    'model', 'genotype', 'pretrained', 'checkpoint', 'freeze', 'height', 'width', 'batch_size', 'num_instance',
    'padding', 'erasing', 'color_jitter', 'metric_loss', 'classifier_loss', 'margin', 'smoothing', 'sam_mode',
    'sam_ratio', 'opt', 'lr', 'layer_decay', 'weight_decay', 'sched', 'milestones', 'epochs', 'warmup_step',
    'grad_accum_steps', 'amp', 'amp_dtype', 'model_ema', 'model_ema_decay', 'seed',
)  # fmt: skip

_LIMITS = """It tells people or vehicles apart that look like those it was trained on, in pictures cropped to one of
them. Other cameras, places, seasons and angles lower its figures: measure it on your own pictures before you
rely on it. It goes by appearance, clothes above all, and is no proof of identity. Its figures come from the data sets
named here, with their choice of people and places; how it does for groups of people that are rare there is not known.
Whoever follows people with it needs a legal ground and their trust."""


def model_card(
    args: argparse.Namespace,
    title: str,
    epoch: int,
    sizes: dict[str, int],
    measurement: Measurement | None,
    remarks: Sequence[str] = (),
) -> str:
    """The README of a model folder.

    Args:
        args: settings of the run.
        title: name of the model.
        epoch: that the weights are of, counted from 0.
        sizes: numbers to tell about the training set, by what they count.
        measurement: what was measured with these weights.
        remarks: what a reader of the figures must know.
    """
    found = {} if measurement is None else measurement.average or measurement.evaluations
    results = [
        EvalResult('object-re-identification', name, name, figure, round(value, 4), dataset_split='test')
        for name, evaluation in found.items()
        for figure, value in _figures(evaluation).items()
    ]
    data = ModelCardData(
        library_name='timm',
        pipeline_tag='image-feature-extraction',
        tags=['timm', 'image-feature-extraction', 'object-re-identification', *args.dataset],
        **(dict(model_name=title, eval_results=results) if results else {}),
    )
    settings = yaml.safe_dump({name: getattr(args, name) for name in _SHOWN}, sort_keys=False, default_flow_style=None)
    counts = ', '.join(f'{value:,} {name}' for name, value in sizes.items())
    weights = 'averaged weights' if measurement is not None and measurement.average else 'weights'
    notes = ''.join(f'- {remark}\n' for remark in remarks) + ('\n' if remarks else '')
    return f"""---
{data.to_yaml()}
---
# {title}

`{args.model}`, trained to recognise the same person or vehicle in other pictures.

- Trained on: {', '.join(args.dataset)} ({counts})
- State: {weights} after epoch {epoch + 1} of {args.epochs}

## Results

{_table(found)}{notes}## Use

```python
import timm
import msinet_timm  # only needed for MSINet's models

model = timm.create_model('local-dir:THIS_FOLDER', pretrained=True).eval()  # on the Hub: hf-hub:OWNER/NAME
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
embedding = model(transform(image)[None])  # normalise to length 1; the smaller the distance, the more alike
```

Input: RGB pictures of {args.height}x{args.width} (height x width), each resized as a whole.

## Limits

{_LIMITS}

## Settings

```yaml
{settings}```
"""


def _figures(evaluation: Evaluation) -> dict[str, float]:
    ranking = evaluation.ranking
    return {'mAP': ranking.mAP, 'Rank-1': float(ranking.cmc[0]), 'mINP': ranking.mINP}


def _table(found: dict[str, Evaluation]) -> str:
    if not found:
        return 'Not measured.\n\n'
    rows = [
        f'| {name} | {len(e.query):,} | {len(e.gallery):,} | '
        + ' | '.join(f'{100 * value:.1f}' for value in _figures(e).values())
        + ' |'
        for name, e in found.items()
    ]
    header = '| data set | queries | gallery | mAP % | Rank-1 % | mINP % |\n| --- | --- | --- | --- | --- | --- |'
    return '\n'.join([header, *rows, '', ''])
