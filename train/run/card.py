"""The model cards of runs."""

from collections.abc import Sequence

import yaml

from msinet_timm.datasets.trained import TrainedOn
from msinet_timm.hub.card import Result, write_card
from msinet_train.settings import TrainSettings

from .measure import Measurement

__all__ = ['model_card']

#: Settings that tell one experiment from another, in the order of the card.
_SHOWN = (
    'unlabelled', 'round_epochs', 'camera_crops', 'held_out',
    'model', 'genotype', 'pretrained', 'checkpoint', 'freeze', 'camera_norm', 'mixstyle', 'wake_gates', 'height',
    'width', 'progressive_resize', 'batch_size',
    'num_instance', 'padding', 'erasing', 'color_jitter', 'miscrop', 'camera_tone', 'camera_quality', 'background',
    'metric_loss', 'classifier_loss', 'margin', 'smoothing',
    'sam_mode', 'sam_ratio', 'teacher', 'teacher_weight', 'opt', 'lr', 'layer_decay', 'weight_decay', 'sched',
    'milestones', 'epochs', 'warmup_step', 'grad_accum_steps', 'amp', 'amp_dtype', 'model_ema', 'model_ema_decay',
    'seed',
)  # fmt: skip


def model_card(
    settings: TrainSettings,
    title: str,
    epoch: int,
    sizes: dict[str, int],
    measurement: Measurement | None,
    remarks: Sequence[str] = (),
    facts: Sequence[str] = (),
    trained_on: TrainedOn | None = None,
) -> str:
    """The README of a run's model folder.

    Args:
        settings: of the run.
        title: name of the model.
        epoch: that the weights are of, counted from 0.
        sizes: numbers to tell about the training set, by what they count.
        measurement: what was measured with these weights.
        remarks: what a reader of the metrics must know.
        facts: further ones, listed under the title.
        trained_on: of which the card tells digests, and no names; None where it is not known.
    """
    found = {} if measurement is None else measurement.average or measurement.evaluations
    counts = ', '.join(f'{value:,} {name}' for name, value in sizes.items())
    weights = 'averaged weights' if measurement is not None and measurement.average else 'weights'
    return write_card(
        title,
        f'`{settings.model}`, trained to recognise the same person or vehicle in other images.',
        (settings.height, settings.width),
        results=[
            Result(
                name,
                e.ranking.mAP,
                float(e.ranking.cmc[0]),
                e.ranking.mINP,
                query=len(e.query),
                gallery=len(e.gallery),
            )
            for name, e in found.items()
        ],
        training_data=settings.dataset,
        facts=[
            f'Trained on: {", ".join(settings.dataset)} ({counts})',
            f'State: {weights} after epoch {epoch + 1} of {settings.epochs}',
            *facts,
            *(
                f'{len(learnt.identities):,} identities of {learnt.dataset}, SHA-256 of their names: {learnt.digest}'
                for learnt in (trained_on.everything if trained_on else ())
            ),
        ],
        remarks=remarks,
        settings=yaml.safe_dump(
            {name: getattr(settings, name) for name in _SHOWN}, sort_keys=False, default_flow_style=None
        ),
    )
