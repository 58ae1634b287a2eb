"""A model in the forms that it can run in, from as it is to compiled for this machine.

All forms give what the model gives in evaluation mode; in bf16 (torch.bfloat16) they do so to about three digits.
"""

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn as nn
from timm.data import resolve_data_config
from timm.utils import reparameterize_model

from msinet_timm.models.camera_norm import CameraNorms, Statistics, device_of, switched_form
from msinet_timm.models.msinet import MSINet

__all__ = [
    'AMP',
    'DTYPES',
    'FORMS',
    'PRECISIONS',
    'Form',
    'amp_name',
    'autocast',
    'create_form',
    'in_bf16',
    'in_bfloat16',
]

#: What `create_form` makes, and what each is.
FORMS = {
    'eager': 'the model as it is, in the contiguous layout',
    'channels_last': 'the model as it is, in the layout that convolutions are fastest on',
    'fused': 'norms folded and convolutions merged (reparameterized), in channels_last',
    'torchscript': 'fused, traced and frozen by TorchScript',
    'compiled': 'fused, compiled by torch.compile with its weights as constants',
}
#: Types of numbers, by the names that commands and files have for them.
DTYPES = {'float32': torch.float32, 'bf16': torch.bfloat16, 'float16': torch.float16}
#: What a form may compute in. Whatever it is, images come in and embeddings go out as float32.
PRECISIONS = ('float32', 'bf16')
#: What autocast may compute in: names for `--amp-dtype`.
AMP = ('bf16', 'float16')

# Every batch size is compiled by itself; torch's own limit of 8 would fall back to the uncompiled model in silence.
_COMPILATIONS = 1000


def amp_name(name: str) -> str:
    """One of `AMP`, also for torch's and timm's word `bfloat16`; other names stay as they are."""
    return 'bf16' if name == 'bfloat16' else name


def autocast(device: torch.device, amp: str | None) -> AbstractContextManager:
    """Mixed precision: a context in which models compute in one of `AMP` where that is safe; None changes nothing."""
    return torch.autocast(device.type, DTYPES[amp_name(amp)]) if amp else nullcontext()


class Form:
    """A model ready to run: images [B, 3, H, W] to float32 [B, D].

    Images may be of any float type, layout and device. Batches of any size work, in one thread at a time.

    Attributes:
        name: key of `FORMS`.
        precision: one of `PRECISIONS`.
        device: where it runs.
    """

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], name: str, precision: str, device: torch.device):
        self.name, self.precision, self.device = name, precision, device
        self._run = run
        self._switch: Callable[[Statistics], None] | None = None
        self._offset: torch.Tensor | float = 0.0
        self._to: dict[str, Any] = {'device': device, 'dtype': DTYPES[precision], 'non_blocking': True}
        self._to['memory_format'] = torch.contiguous_format if name == 'eager' else torch.channels_last

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self._run(images.to(**self._to)) - self._offset

    def use(self, statistics: Statistics) -> None:
        """Embeds as a camera asks for from now on; only of a form that was created with `norms`."""
        self._switch(statistics)
        self._offset = statistics.embedding


def create_form(
    model: nn.Module,
    form: str,
    precision: str = 'float32',
    example: torch.Tensor | None = None,
    norms: CameraNorms | None = None,
) -> Form:
    """Makes a copy of a model that runs in a form; the model itself stays as it is.

    Args:
        model: takes [B, 3, H, W] and gives [B, D]; the form runs on its device.
        form: key of `FORMS`. `'torchscript'` takes a while now, `'compiled'` on the first batch of each shape.
        precision: one of `PRECISIONS`. With `'bf16'`, weights are in it as well. Norms that are not folded stay in
            float32, and of an MSINet also the pooling and what follows it.
        example: images [B, 3, H, W] that tracing and compilation go by; None for one of the model's input size.
        norms: of cameras that the model has been adapted to; the form takes their statistics by `use`.

    Raises:
        ValueError: unknown form or precision, or one that this machine has nothing to run with.
    """
    if form not in FORMS:
        raise ValueError(f'unknown form {form!r}: it must be one of {", ".join(FORMS)}')
    if precision not in PRECISIONS:
        raise ValueError(f'unknown precision {precision!r}: it must be one of {", ".join(PRECISIONS)}')
    device = device_of(model)
    _check_machine(form, precision, device)
    fuse, switch = form not in ('eager', 'channels_last'), None
    if norms is not None:
        run, switch = switched_form(norms, fuse)
    else:
        run = reparameterize_model(model) if fuse else copy.deepcopy(model)
    run = run.eval().requires_grad_(False)
    if precision == 'bf16':
        run = in_bf16(run)
    if form != 'eager':
        run = run.to(memory_format=torch.channels_last)
    made = Form(run, form, precision, device)
    made._switch = switch
    if form == 'torchscript':
        made._run = _trace(made, model if example is None else example)
    elif form == 'compiled':
        made._run = _Compiled(run, freeze=switch is None)
        if example is not None:
            made(example)
    return made


def _check_machine(form: str, precision: str, device: torch.device) -> None:
    if precision == 'bf16' and device.type == 'cuda' and not torch.cuda.is_bf16_supported():
        raise ValueError(f'{torch.cuda.get_device_name(device)} does not compute in bf16: use float32')
    if form != 'compiled':
        return
    if device.type == 'cpu':
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as e:  # whatever looking for a program may end with
            raise ValueError(f"the form 'compiled' needs a C++ compiler such as g++ ({e}): use 'torchscript'") from e
    elif device.type == 'cuda' and not torch.utils._triton.has_triton():
        raise ValueError("the form 'compiled' needs Triton on a GPU: use 'fused'")


class _BF16Model(nn.Module):
    """A model that computes in bf16, between float32 images and float32 embeddings."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.bfloat16()
        self.train(model.training)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.to(torch.bfloat16)).float()


class _BF16MSINet(_BF16Model):
    """An MSINet whose trunk is in bf16 and whose head is in float32: means of many pixels would lose digits."""

    def __init__(self, model: MSINet) -> None:
        super().__init__(model)
        for part in (model.global_neck, model.local_neck, *model.get_classifier()):
            part.float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.forward_head(self.model.forward_features(images.to(torch.bfloat16)).float())


def in_bf16(model: nn.Module) -> nn.Module:
    """Turns a model into one that computes in bf16, from images [B, 3, H, W] to float32 [B, D]; changes it.

    Norms stay in float32, and of an MSINet also the pooling and what follows it.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    model = _BF16MSINet(model) if isinstance(model, MSINet) else _BF16Model(model)
    for norm in norms:
        norm.float()
    return model


def _trace(form: Form, example: torch.Tensor | nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    if isinstance(example, nn.Module):
        example = torch.zeros(1, *resolve_data_config(model=example)['input_size'])
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated, and says so at each of these steps
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(form._run, example.to(**form._to), check_trace=False)
        # what is frozen takes no other statistics
        return traced if form._switch else torch.jit.optimize_for_inference(torch.jit.freeze(traced))


class _Compiled:
    """Compiles a model anew for each shape of images."""

    def __init__(self, model: nn.Module, freeze: bool) -> None:
        self.run = torch.compile(model, dynamic=False, options={'freezing': True} if freeze else None)
        self.shapes: set[tuple[torch.Size, int]] = set()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        known = images.shape, torch.get_num_threads()
        if known in self.shapes:
            return self.run(images)
        with torch._dynamo.config.patch(recompile_limit=_COMPILATIONS, accumulated_recompile_limit=_COMPILATIONS):
            out = self.run(images)
        self.shapes.add(known)
        return out


in_bfloat16 = in_bf16  # its name before 0.2
