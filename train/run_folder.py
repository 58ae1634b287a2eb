"""What a training leaves on disk."""

import argparse
import copy
import os
import shutil
from pathlib import Path

import torch
import torch.nn as nn
import yaml
from timm.models import save_for_hf
from timm.utils import CheckpointSaver, update_summary

from msinet_eval.metrics import RankingResult
from msinet_timm.commands import InputError

__all__ = ['RunFolder']


class _AtomicSaver(CheckpointSaver):
    """timm's saver, without its moment between the removal of a file and the arrival of the next."""

    def _replace(self, src: str, dst: str) -> None:
        os.replace(src, dst)


class RunFolder:
    """A run: `args.yaml`, `summary.csv`, `curves.png`, `last.pth.tar` to resume from, the models `last/` and `best/`.

    Both models are folders in the Hub's layout without classifiers, so that
    `timm.create_model('local-dir:RUN/best', pretrained=True)` embeds. All files are written under another name first.

    Args:
        args: settings of the run; `args.output` is the folder, `args.resume` is set where it continues.

    Raises:
        InputError: the folder holds a run already and isn't to be resumed, or cannot be made.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.path = Path(args.output)
        self.checkpoint = self.path / 'last.pth.tar'
        if self.checkpoint.exists() and not args.resume:
            raise InputError(
                f'{self.path}: holds a run already; continue it with --resume {self.path}, or choose another --output'
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            settings = {k: v for k, v in vars(args).items() if k not in ('resume', 'recipe', 'output')}
            self._write('args.yaml', yaml.safe_dump(settings, sort_keys=True))
        except OSError as e:
            raise InputError(f'--output {self.path}: cannot write there ({e.strerror})') from e

    def _write(self, name: str, text: str) -> None:
        partial = self.path / f'{name}.tmp'
        partial.write_text(text, encoding='utf-8')
        partial.replace(self.path / name)

    def create_saver(self, **kwargs) -> CheckpointSaver:
        """timm's saver of checkpoints to resume from; it keeps the newest."""
        return _AtomicSaver(checkpoint_dir=str(self.path), max_history=1, **kwargs)

    def add_summary(self, epoch: int, figures: dict[str, float], ranking: RankingResult | None) -> None:
        """Adds a row to `summary.csv`; the columns of the ranking stay empty where it wasn't measured."""
        path = self.path / 'summary.csv'
        measured = dict(mAP='', rank1='', mINP='')
        if ranking is not None:
            measured = dict(mAP=ranking.mAP, rank1=float(ranking.cmc[0]), mINP=ranking.mINP)
        update_summary(epoch, figures, measured, str(path), write_header=not path.exists())

    def drop_summary_from(self, epoch: int) -> None:
        """Drops rows of epochs that will be run again, as after an interruption between summary and checkpoint."""
        path = self.path / 'summary.csv'
        if path.exists():
            header, *rows = path.read_text(encoding='utf-8').splitlines(keepends=True)
            self._write('summary.csv', header + ''.join(row for row in rows if int(row.partition(',')[0]) < epoch))

    def save_model(self, name: str, model: nn.Module, data_config: dict) -> Path:
        """Writes a model folder: `config.json` and `model.safetensors`.

        Args:
            name: `'last'` or `'best'`.
            model: its classifiers, which know the training identities only, are left out.
            data_config: preprocessing that the weights were trained for.
        """
        # safetensors takes no tensors in the layout that training prefers
        embedder = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        embedder.reset_classifier(0)
        partial = self.path / f'{name}.tmp'
        save_for_hf(embedder, str(partial), safe_serialization=True, data_config=data_config)
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        for file in partial.iterdir():
            file.replace(folder / file.name)
        shutil.rmtree(partial)
        return folder
