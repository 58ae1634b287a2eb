"""Where the metrics of a run go besides its own files: TensorBoard, Weights & Biases."""

import uuid
from pathlib import Path
from typing import Any, Protocol

from msinet_timm.errors import InputError, needs
from msinet_timm.files import replace_text

__all__ = ['TensorBoard', 'Tracker', 'WandB', 'create_trackers']


class Tracker(Protocol):
    """Takes metrics."""

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Metrics of an epoch, counted from 0, by name such as `train_loss`."""

    def close(self) -> None:
        """Nothing more will come."""


class TensorBoard:
    """Writes `tensorboard/` in a run's folder.

    Args:
        folder: of the run.
        settings: of the run.
        start: first epoch to come; metrics of it and later ones from before an interruption are dropped.

    Raises:
        InputError: TensorBoard, an optional package, is missing.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], start: int) -> None:
        with needs('tensorboard', 'log_tensorboard'):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(folder / 'tensorboard'), purge_step=start)
        self._writer.add_text('settings', '\n'.join(f'    {k}: {v}' for k, v in sorted(settings.items())), start)

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name.replace('_', '/', 1), value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Sends metrics to Weights & Biases, or keeps them in the run's folder if `WANDB_MODE` is `offline`.

    Args:
        folder: of the run; `wandb.id` in it lets a resumed run go on where it was.
        settings: of the run, of which `wandb_project` names the project.
        start: first epoch to come.

    Raises:
        InputError: Weights & Biases, an optional package, is missing, or not logged in.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], start: int) -> None:
        with needs('wandb', 'log_wandb'):
            import wandb
        file = folder / 'wandb.id'
        if not file.exists():
            replace_text(file, uuid.uuid4().hex[:8])
        try:
            self._run = wandb.init(
                project=settings['wandb_project'],
                name=folder.name,
                dir=str(folder),
                id=file.read_text(encoding='utf-8'),
                resume='allow',
                config=settings,
            )
        except wandb.errors.Error as e:
            raise InputError(f'log_wandb: {e}; log in by "wandb login", or set WANDB_MODE=offline') from e

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        self._run.log({'epoch': epoch, **metrics}, step=epoch)

    def close(self) -> None:
        self._run.finish()


def create_trackers(folder: Path, settings: dict[str, Any], start: int) -> list[Tracker]:
    """The trackers that a run asks for.

    Args:
        folder: of the run.
        settings: of the run, of which `log_tensorboard` and `log_wandb` choose.
        start: first epoch to come.
    """
    chosen = [TensorBoard] * settings['log_tensorboard'] + [WandB] * settings['log_wandb']
    return [tracker(folder, settings, start) for tracker in chosen]
