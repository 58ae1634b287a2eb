"""What a training leaves on disk."""

import contextlib
import copy
import csv
import io
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import yaml
from timm.utils import CheckpointSaver

from msinet_eval.metrics.calibration import FILE_NAME, Calibration
from msinet_timm.errors import InputError
from msinet_timm.files import replace_text
from msinet_timm.hub.folder import save_folder
from msinet_train.curves import read_rows
from msinet_train.models import backbone_of

__all__ = ['RunFolder']

_LOGGERS = ('msinet_train', 'msinet_eval', 'msinet_timm')


class _AtomicSaver(CheckpointSaver):
    """timm's saver, whose files are whole at any moment, and which makes up for what a killed process left undone."""

    def _save(self, save_path: str, epoch: int, metric: float | None = None) -> None:
        super()._save(save_path, epoch, metric)
        with open(save_path, 'rb') as file:  # or else a power failure could leave a name without its contents
            os.fsync(file.fileno())

    def _replace(self, src: str, dst: str) -> None:
        os.replace(src, dst)

    def _duplicate(self, src: str, dst: str) -> None:
        partial = Path(f'{dst}.tmp')
        partial.unlink(missing_ok=True)
        try:
            os.link(src, partial)
        except OSError:
            shutil.copy2(src, partial)
        os.replace(partial, dst)
        partial.unlink(missing_ok=True)  # it stays where both are links to one file

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        epoch, metric = state_dict['pending']
        best = state_dict['best_metric']
        improved = metric is not None and (best is None or metric > best)
        last = os.path.join(self.checkpoint_dir, 'last' + self.extension)
        if improved:
            # the process may have ended between the arrival of the checkpoint and that of its duplicates
            self._duplicate(last, self._checkpoint_path(epoch))
            self._duplicate(last, os.path.join(self.checkpoint_dir, 'model_best' + self.extension))
        super().load_state_dict(state_dict)

    def save_milestone_if_due(self, done: int, interval: int) -> None:
        """Keeps the checkpoint of every `interval`-th epoch; of none for 0."""
        if interval and done and done % interval == 0:
            self.save_milestone(done)


class RunFolder:
    """A run: `args.yaml`, `summary.csv`, `log.txt`, `curves.png`, checkpoints, and the models `last/` and `best/`.

    Both models are folders in the Hub's layout without classifiers, so that
    `timm.create_model('local-dir:RUN/best', pretrained=True)` embeds. All files but the log are written under another
    name first, so that a process may be killed at any moment.

    Args:
        path: the folder.
        settings: of the run, for `args.yaml`.
        resume: whether the run in it is to go on.

    Raises:
        InputError: the folder holds a run already and isn't to be resumed, or cannot be made.
    """

    def __init__(self, path: Path, settings: dict[str, Any], resume: bool = False) -> None:
        self.path = path
        self.checkpoint = self.path / 'last.pth.tar'
        if self.checkpoint.exists() and not resume:
            raise InputError(
                f'{self.path}: holds a run already; continue it with `resume` {self.path}, or choose another `output`'
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write('args.yaml', yaml.safe_dump(settings, sort_keys=True))
        except OSError as e:
            raise InputError(f'output {self.path}: cannot write there ({e.strerror})') from e

    def write(self, name: str, text: str) -> None:
        """Writes a text file."""
        replace_text(self.path / name, text)

    @contextlib.contextmanager
    def log(self) -> Iterator[None]:
        """Copies log messages to `log.txt`."""
        handler = logging.FileHandler(self.path / 'log.txt', encoding='utf-8')
        handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%Y-%m-%d %H:%M:%S'))
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.addHandler(handler)
            if logger.level == logging.NOTSET:
                logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.removeHandler(handler)
                logger.setLevel(level)
            handler.close()

    def create_saver(self, **kwargs) -> _AtomicSaver:
        """timm's saver of checkpoints to resume from; it keeps the newest and the best."""
        return _AtomicSaver(checkpoint_dir=str(self.path), max_history=1, **kwargs)

    def add_summary(self, epoch: int, metrics: dict[str, float], columns: list[str], measured: dict | None) -> None:
        """Adds a row to `summary.csv`.

        Args:
            epoch: counted from 0.
            metrics: of the training.
            columns: names of what is measured.
            measured: metrics by those names; None where there was no evaluation: the columns stay empty.
        """
        row = {'epoch': epoch} | {f'train_{k}': v for k, v in metrics.items()}
        row |= {f'eval_{name}': '' if measured is None else measured[name] for name in columns}
        self._write_summary([*self.summary(), row])

    def drop_summary_from(self, epoch: int) -> None:
        """Drops rows of epochs that will be run again, as after an interruption between summary and checkpoint."""
        rows = self.summary()
        if rows:
            self._write_summary([row for row in rows if int(row['epoch']) < epoch], rows[0])

    def summary(self) -> list[dict[str, Any]]:
        """Rows of `summary.csv`, as texts by column."""
        return read_rows(self.path / 'summary.csv')

    def _write_summary(self, rows: list[dict[str, Any]], header: dict[str, Any] | None = None) -> None:
        columns = dict.fromkeys(name for row in [header or {}, *rows] for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
        self.write('summary.csv', text.getvalue())

    def save_model(
        self, name: str, model: nn.Module, data_config: dict, card: str, calibration: Calibration | None = None
    ) -> Path:
        """Writes a model folder: `config.json`, `model.safetensors`, `README.md` and perhaps `calibration.json`.

        Args:
            name: `'last'` or `'best'`.
            model: its classifiers, which know the training identities only, are left out.
            data_config: preprocessing that the weights were trained for.
            card: text of the README.
            calibration: of these weights; None removes that of earlier ones.
        """
        # safetensors takes no tensors in the layout that training prefers
        embedder = copy.deepcopy(backbone_of(model)).to(memory_format=torch.contiguous_format)
        embedder.reset_classifier(0)
        partial = self.path / f'{name}.tmp'
        shutil.rmtree(partial, ignore_errors=True)
        save_folder(embedder, partial, data_config)
        (partial / 'README.md').write_text(card, encoding='utf-8')
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        (folder / FILE_NAME).unlink(missing_ok=True)
        if calibration:
            calibration.save(partial)
        for file in partial.iterdir():
            file.replace(folder / file.name)
        shutil.rmtree(partial)
        return folder
