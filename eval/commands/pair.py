"""What `msinet-eval pair` does: how far apart two images are, and whether they show the same one."""

import logging
from dataclasses import dataclass

import torch
from timm.models import is_model_pretrained

from msinet_eval.features.extract import extract
from msinet_eval.models.load import find_norms, load_model
from msinet_timm.commands import find_device
from msinet_timm.datasets import Record
from msinet_timm.errors import InputError
from msinet_timm.hub.calibration import find_calibration

__all__ = ['Pair', 'compare_images']

_DEFAULT_MODEL = 'msinet_x1_0'
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """Two images, compared.

    Attributes:
        a: file of the one image.
        b: file of the other.
        model: what has embedded them.
        distance: Euclidean distance of their normalised embeddings, 0-2.
        cosine: similarity of the embeddings, -1 to 1.
        threshold: largest distance of the same one; None where it is not known.
        origin: where the threshold is from.
    """

    a: str
    b: str
    model: str
    distance: float
    cosine: float
    threshold: float | None
    origin: str

    @property
    def same(self) -> bool | None:
        """Whether both are held to show the same one; None without a threshold."""
        return None if self.threshold is None else self.distance <= self.threshold


def compare_images(
    a: str,
    b: str,
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    threshold: float | None = None,
    height: int | None = None,
    width: int | None = None,
    device: str | None = None,
) -> Pair:
    """Compares two images, each cropped to one person or vehicle.

    What a model's folder knows of cameras is not used, since nobody knows those of the images, and thresholds are
    calibrated without it.

    Args:
        a: an image file.
        b: another.
        model: as `msinet_eval.models.load_model` takes it; None for the default model, if that is pretrained.
        checkpoint: weights for a model given by name.
        threshold: largest distance of the same one; None for the model's calibrated one.
        height: of the input in pixels, instead of the model's own.
        width: of the input in pixels, instead of the model's own.
        device: None for the first GPU, or the CPU where there is none.

    Raises:
        InputError: an image that cannot be read, a model that cannot be loaded, or a damaged calibration.
    """
    model, origin = model or _find_default(), 'given'
    if not checkpoint and find_norms(model):
        _logger.warning("%s knows cameras, but a pair has none: it is embedded by the model's own statistics", model)
    if threshold is None:
        calibration = find_calibration(checkpoint or model)
        if calibration:
            threshold = calibration.threshold
            origin = f'calibrated on {calibration.dataset}: {100 * calibration.false_positive_rate:.2g} % false alarms'
    module, config = load_model(model, checkpoint, height, width)
    records = [Record(path, path) for path in (a, b)]
    one, other = extract(module, records, data_config=config, workers=0, device=find_device(device)).embeddings
    return Pair(a, b, model, float(torch.dist(one, other)), float(one @ other), threshold, origin)


def _find_default() -> str:
    if not is_model_pretrained(_DEFAULT_MODEL):
        raise InputError(f'{_DEFAULT_MODEL} has no pretrained weights yet: give --model, such as the folder of a run')
    return _DEFAULT_MODEL
