"""Exported files where a PyTorch module is expected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms import Compose, InterpolationMode, PILToTensor, Resize

from msinet_timm.errors import InputError
from msinet_timm.models.entries import sha256_of

from .files import parts_of
from .formats import Cameras, Exported, load_exported

__all__ = ['ExportedModule', 'is_exported']

#: Endings that tell an exported file; TorchScript's `.pt` is that of checkpoints, too.
_ENDINGS = ('.onnx', '.xml', '.pt2', '.pte', '.torchscript')


def is_exported(name: str | Path) -> bool:
    """Whether a name is that of an exported file, other than TorchScript's `.pt`."""
    return str(name).endswith(_ENDINGS)


class ExportedModule(nn.Module):
    """An exported model that embeds on the CPU, as `msinet_eval.evaluate` and others call a model.

    Args:
        exported: the open file, or its path for `load_exported`.

    Attributes:
        data_config: how images are prepared, for `timm.data.create_transform`.
        cameras: names of the cameras that the file tells apart, see `Exported`.
        transform: PIL image -> bytes, where the file prepares images itself; None where `data_config` does.

    Raises:
        InputError: see `load_exported`; a file that does not say how images are prepared, or one for a program that
            leaves margins around boxes.
    """

    def __init__(self, exported: Exported | str | Path) -> None:
        super().__init__()
        self.exported = exported if isinstance(exported, Exported) else load_exported(exported)
        if 'preprocessing' not in self.exported.metadata:
            raise InputError(
                f'{self.exported.path} does not say how images are prepared for it: export the model by '
                'msinet-hub export'
            )
        if 'margins' in self.exported.metadata:
            raise InputError(
                f'{self.exported.path} cuts away the margins that {self.exported.metadata["host"]} leaves around '
                'boxes, so whole images cannot be measured with it: export the model without --for'
            )
        self.cameras = self.exported.cameras
        self.data_config: dict[str, Any] = self.exported.data_config
        self.transform: Callable | None = None
        if self.exported.metadata['preprocessing']['inside']:
            # batches need one size; the file's own resize to it changes nothing then
            size, mode = self.data_config['input_size'][1:], InterpolationMode(self.data_config['interpolation'])
            self.transform = Compose([Resize(size, mode), PILToTensor()])

    def extra_repr(self) -> str:
        """SHA-256 of the file, and of what lies beside it: there are no weights to tell two of these apart by."""
        parts = parts_of(self.exported.path)
        return ' '.join(sha256_of(part) if part.is_file() else f'{part} (gone)' for part in parts)

    def forward(self, images: torch.Tensor, cameras: Cameras = None) -> torch.Tensor:
        return self.exported(images, cameras)
