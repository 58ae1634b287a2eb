"""What a training leaves on disk."""

import contextlib
import copy
import csv
import io
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import yaml
from timm.utils import CheckpointSaver

from msinet_timm.errors import InputError
from msinet_timm.files import WriteError, drafts, refusing, replace_file, replace_text
from msinet_timm.hub.calibration import FILE_NAME, Calibration
from msinet_timm.hub.folder import save_folder
from msinet_timm.models import camera_norm
from msinet_timm.models.camera_norm import CameraNorms
from msinet_train.curves import read_rows
from msinet_train.models import backbone_of

__all__ = ['CHECKPOINT', 'UNMEASURED', 'RunFolder', 'holds_run']

_LOGGERS = ('msinet_train', 'msinet_eval', 'msinet_timm')


#: The newest epoch, and one that is trained but not yet measured.
CHECKPOINT, UNMEASURED = 'last.pth.tar', 'unmeasured.pth.tar'


def holds_run(folder: Path) -> bool:
    """Whether there is anything to go on with."""
    return any((folder / name).exists() for name in (CHECKPOINT, UNMEASURED))


class _LogFile(logging.FileHandler):
    """A log whose disk is full ends the run in one line, and not in a traceback for each message."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        raise WriteError(f'{self.baseFilename}: cannot write this file ({error.strerror})') from error


# the names that timm's saver gives to checkpoints that it removes again
_RANKED = re.compile(r'checkpoint-\d+\.pth\.tar')


class _AtomicSaver(CheckpointSaver):
    """timm's saver, whose files are whole at any moment, and which makes up for what a killed process left undone."""

    def _save(self, save_path: str, epoch: int, metric: float | None = None) -> None:
        save = super()._save
        replace_file(save_path, lambda draft: save(str(draft), epoch, metric))

    def save_unmeasured(self, path: Path, epoch: int) -> None:
        """Writes a checkpoint without taking it for the newest."""
        self._save(str(path), epoch)

    def _replace(self, src: str, dst: str) -> None:
        os.replace(src, dst)

    def _duplicate(self, src: str, dst: str) -> None:
        def duplicate(draft: Path) -> None:
            try:
                os.link(src, draft)
            except OSError:
                shutil.copyfile(src, draft)

        replace_file(dst, duplicate)

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


def check_saver(found: Any) -> None:
    """Refuses what no saver has written into a checkpoint: it removes files by the names in there.

    Raises:
        ValueError: wrong types, missing entries, or files that are no checkpoints of a run.
    """
    if not isinstance(found, dict):
        raise ValueError(f'its entry saver is a {type(found).__name__} instead of a dict')

    def epoch(value: Any) -> bool:
        return value is None or (type(value) is int and value >= 0)

    def metric(value: Any) -> bool:
        return value is None or (type(value) in (int, float) and math.isfinite(value))

    def files(value: Any) -> bool:
        pairs = isinstance(value, list) and all(isinstance(v, tuple | list) and len(v) == 2 for v in value)
        return pairs and all(isinstance(n, str) and _RANKED.fullmatch(n) and metric(m) for n, m in value)

    def pending(value: Any) -> bool:
        return isinstance(value, tuple | list) and len(value) == 2 and epoch(value[0]) and metric(value[1])

    parts = {'checkpoint_files': files, 'best_epoch': epoch, 'best_metric': metric, 'pending': pending}
    for name, right in parts.items():
        if name not in found or not right(found[name]):
            raise ValueError(f'its entry saver {"holds a wrong" if name in found else "lacks"} {name}')


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
        self.checkpoint, self.unmeasured = self.path / CHECKPOINT, self.path / UNMEASURED
        if holds_run(path) and not resume:
            raise InputError(
                f'{self.path}: holds a run already; continue it with `resume` {self.path}, or choose another `output`'
            )
        with refusing(f'output {self.path}: cannot write there', path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.write('args.yaml', yaml.safe_dump(settings, sort_keys=True))

    def write(self, name: str, text: str) -> None:
        """Writes a text file."""
        replace_text(self.path / name, text)

    @contextlib.contextmanager
    def log(self) -> Iterator[None]:
        """Copies log messages to `log.txt`."""
        with refusing(f'{self.path / "log.txt"}: cannot write this file', self.path):
            handler = _LogFile(self.path / 'log.txt', encoding='utf-8')
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
            with contextlib.suppress(OSError):
                handler.close()

    def create_saver(self, **kwargs) -> _AtomicSaver:
        """timm's saver of checkpoints to resume from; it keeps the newest and the best."""
        return _AtomicSaver(checkpoint_dir=str(self.path), max_history=1, **kwargs)

    def add_summary(self, epoch: int, metrics: dict[str, float], columns: list[str]) -> None:
        """Adds a row to `summary.csv`, without what is measured later, if at all.

        Args:
            epoch: counted from 0.
            metrics: of the training.
            columns: names of what is measured.
        """
        row = {'epoch': epoch} | {f'train_{k}': v for k, v in metrics.items()}
        self._write_summary([*self.summary(), row | {f'eval_{name}': '' for name in columns}])

    def add_measured(self, measured: dict[str, float]) -> None:
        """Adds metrics to the last row of `summary.csv`, by the names of its columns."""
        *rows, last = self.summary()
        self._write_summary([*rows, last | {f'eval_{name}': value for name, value in measured.items()}])

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
        self,
        name: str,
        model: nn.Module,
        data_config: dict,
        card: str,
        calibration: Calibration | None = None,
        norms: CameraNorms | None = None,
    ) -> Path:
        """Writes a model folder: `config.json`, `model.safetensors`, `README.md` and perhaps `calibration.json`.

        Args:
            name: `'last'` or `'best'`.
            model: its classifiers, which know the training identities only, are left out.
            data_config: preprocessing that the weights were trained for.
            card: text of the README.
            calibration: of these weights; None removes that of earlier ones.
            norms: of cameras that this model has been adapted to; None likewise.
        """
        # safetensors takes no tensors in the layout that training prefers
        embedder = copy.deepcopy(backbone_of(model)).to(memory_format=torch.contiguous_format)
        embedder.reset_classifier(0)
        folder = self.path / name
        with drafts(folder, f'{folder}: cannot write the model') as draft:
            save_folder(embedder, draft, data_config)
            (draft / 'README.md').write_text(card, encoding='utf-8')
            if calibration:
                calibration.save(draft)
            if norms:
                norms.save(draft)
            for file in (FILE_NAME, camera_norm.FILE_NAME):
                (folder / file).unlink(missing_ok=True)
        return folder
