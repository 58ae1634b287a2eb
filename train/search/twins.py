"""The published way of searching: alternating steps of weights and of a mixture of all interactions."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from msinet_timm.errors import InputError
from msinet_timm.models.genotype import Genotype
from msinet_train.engine.optim import create_schedule
from msinet_train.run.folder import RunFolder

from .report import add_mixture, genotype_table, read_mixtures, write_mixtures_chart
from .settings import SearchSettings
from .steps import SearchTask, architecture_step, finite
from .strategy import Batch, Strategy

__all__ = ['TwinsContrastive']


class TwinsContrastive(Strategy):
    """The weights learn from one half with all interactions mixed, their mixture from the other half.

    Source: `MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID` (section 3.3)
        - https://arxiv.org/abs/2303.07065

    Args:
        settings: of the search.
        task: of the search.
        weights: optimizer of the weights.
        arch: optimizer of the architecture.
        costs: [12, 4] milliseconds of the interactions where latency counts, else None.

    Raises:
        InputError: settings that it does not have.
    """

    def __init__(
        self,
        settings: SearchSettings,
        task: SearchTask,
        weights: torch.optim.Optimizer,
        arch: torch.optim.Optimizer,
        costs: torch.Tensor | None,
    ) -> None:
        if settings.objective == 'front':
            raise InputError('objective front needs `method` paths, which rates single genotypes')
        self.settings, self.task, self.weights, self.optimizer, self.costs = settings, task, weights, arch, costs
        falling = replace(settings, milestones=settings.arch_milestones, warmup_step=0, min_lr=0.0)
        self.schedule = create_schedule(self.optimizer, falling)
        self.epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.schedule.step(epoch)

    def before_step(self, number: int, batch: Batch, validation: Iterator[Batch]) -> float | None:
        if not number or self.epoch < self.settings.arch_start:  # as published, an epoch begins with the weights
            return None
        second = self.settings.order == 2
        found = architecture_step(
            self.task,
            next(validation),
            self.optimizer,
            train=batch if second else None,
            weight_optimizer=self.weights,
            penalty=self._latency(),
        )
        return finite(found['loss'], 'valid')

    def _latency(self) -> torch.Tensor | None:
        """Expected time of all interactions as a share of the dearest choice's, weighted."""
        if self.costs is None:
            return None
        dearest = self.costs.amax(1).sum()
        return self.settings.latency_weight * (self.task.supernet.mixture() * self.costs).sum() / dearest

    def metrics(self) -> dict[str, float]:
        mixture = self.task.supernet.mixture().detach()
        found = {'entropy': float(-(mixture * mixture.log()).sum(1).mean())}
        if self.costs is not None:
            found['expected_ms'] = float((mixture * self.costs).sum())
        return {'arch_lr': self.optimizer.param_groups[0]['lr']} | found

    def genotype(self) -> Genotype:
        return self.task.supernet.genotype()

    def save(self, folder: RunFolder, epoch: int, due: bool, details: dict[str, Any]) -> None:
        mixture = self.task.supernet.mixture().detach().cpu()
        add_mixture(folder, epoch, mixture)
        if due:
            rounded = [[round(w, 6) for w in row] for row in mixture.tolist()]
            self.genotype().save(folder.path / 'genotype.json', weights=rounded, **details)

    def draw(self, folder: RunFolder) -> None:
        write_mixtures_chart(read_mixtures(folder.path), folder.path / 'architecture.png')

    def remark(self) -> str:
        return genotype_table(self.genotype(), self.task.supernet.mixture().detach().cpu())

    def state_dict(self) -> dict[str, Any]:
        return {'arch': self.optimizer.state_dict(), 'costs': self.costs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state['arch'])
        if self.costs is not None and state['costs'] is not None:
            self.costs.copy_(state['costs'])
