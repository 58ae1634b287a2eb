"""What a small model learns from a larger one: which images resemble which."""

import timm.task
import torch
import torch.nn as nn
import torch.nn.functional as F

from msinet_timm.errors import explained

__all__ = ['Teacher', 'similarity_distillation']


def similarity_distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """How far from a teacher's a student takes the images of a batch to resemble each other.

    For each image, the cosines to all others, divided by `temperature`, become probabilities; the loss is the mean over
    images of the Kullback-Leibler divergence of the student's from the teacher's. So the two may have features of
    different lengths.

    Source: `Learning Deep Representations with Probabilistic Knowledge Transfer` - https://arxiv.org/abs/1803.10837,
    with the softmax of cosines in place of their shares of a sum.

    Args:
        student: [B, D], B at least 3.
        teacher: [B, E]; gets no gradient.
        temperature: above 0; the smaller, the more only the nearest images count.

    Returns:
        The loss, a scalar, from 0.
    """
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)

    def log_shares(features: torch.Tensor) -> torch.Tensor:
        features = F.normalize(features)
        return (features @ features.T / temperature)[others].view(len(features), -1).log_softmax(1)

    return F.kl_div(log_shares(student), log_shares(teacher.detach()), reduction='batchmean', log_target=True)


class Teacher(timm.task.DistillationTeacher):
    """A model whose embeddings another one learns from; it stays in evaluation mode and does not train.

    Args:
        model: a timm model without classifier.
        data_config: timm's, of what the student sees: `input_size`, `mean` and `std` count.
        device: to which the teacher moves.

    Raises:
        InputError: a model that does not embed images of the student's input size.
    """

    def __init__(self, model: nn.Module, data_config: dict, device: torch.device | None = None) -> None:
        with explained('it cannot embed images of the input size'), torch.inference_mode():
            features = model.eval()(torch.zeros(1, *data_config['input_size']))
            if features.ndim != 2:
                raise ValueError(f'it gives {list(features.shape)} for an image')
        super().__init__(model.requires_grad_(False).to(device), device=device)
        for name in ('mean', 'std'):
            values = torch.tensor(data_config[name], device=device).view(1, -1, 1, 1)
            self.register_buffer(f'student_{name}', values, persistent=False)

    def train(self, mode: bool = True) -> 'Teacher':
        """Stays in evaluation mode, as a part of what trains."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W], normalised for the student, to embeddings [B, E]."""
        return super().forward(self.normalize_input(input, self.student_mean, self.student_std))
