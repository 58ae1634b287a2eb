"""A model and a list of pictures -> `Features`: embeddings, and who and what they are of."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader

from msinet_timm.commands import InputError, progress
from msinet_timm.datasets import Record
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import ReIDImages

__all__ = ['Features', 'device_of', 'embed', 'extract', 'reid_data_config']


@dataclass(frozen=True, eq=False)
class Features:
    """Embeddings of pictures, on the CPU.

    Attributes:
        embeddings: [N, D] float32, each of length 1 (of length 0 if the model gave zeros).
        identities: [N] int64.
        cameras: [N] int64, or None where they are unknown.
        paths: N image files.
        clothes: [N] int64, or None where they are unknown.
        boxes: [N, 4] int64, left, top, right and bottom of the part of the file that was embedded (0, 0, 0, 0 for all
            of it); None where no picture has one.
    """

    embeddings: Tensor
    identities: Tensor
    cameras: Tensor | None
    paths: tuple[str, ...]
    clothes: Tensor | None = None
    boxes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Tensor) -> 'Features':
        """Features of some of the pictures, given by their indices."""
        tensors = {name: value[indices] for name, value in self._tensors().items()}
        return Features(
            **tensors | {'cameras': tensors.get('cameras')}, paths=tuple(self.paths[i] for i in indices.tolist())
        )

    def _tensors(self) -> dict[str, Tensor]:
        """All that is known, by attribute."""
        names = ('embeddings', 'identities', 'cameras', 'clothes', 'boxes')
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file, with the paths as JSON in its metadata.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        try:
            save_file(tensors, path, metadata={'paths': json.dumps(self.paths)})
        except (OSError, safetensors.SafetensorError) as e:
            raise InputError(f'{path}: cannot write features ({e})') from e

    @classmethod
    def load(cls, path: str | Path) -> 'Features':
        """Reads what `save` has written.

        Raises:
            InputError: missing file, or one that `save` has not written.
        """
        try:
            with safetensors.safe_open(path, 'pt') as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                paths = tuple(json.loads(file.metadata()['paths']))
            return cls(**{'cameras': None, **tensors}, paths=paths)
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as e:
            raise InputError(f'{path}: not a features file as msinet-eval --features writes ({e})') from e


def reid_data_config(model: nn.Module, height: int | None = None, width: int | None = None) -> dict:
    """timm's data config of a model, changed so that the whole picture is resized and nothing is cropped away.

    Args:
        model: its `pretrained_cfg`, if any, gives input size, mean, standard deviation and interpolation.
        height: of the input in pixels, instead of the model's own. Likewise `width`.
    """
    config = resolve_data_config(pretrained_cfg=getattr(model, 'pretrained_cfg', None), model=model)
    channels, own_height, own_width = config['input_size']
    size = (channels, height or own_height, width or own_width)
    return {**config, 'input_size': size, 'crop_pct': 1.0, 'crop_mode': 'squash'}


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """Embeddings before any classifier: [B, 3, H, W] -> [B, D], not normalised.

    A model without classes (`num_classes` 0, or no such attribute) is called as it is, another one through timm's
    `forward_features` and `forward_head(pre_logits=True)`, so that a model in training needs no change.

    Raises:
        InputError: what comes out is no tensor of that shape.
    """
    if getattr(model, 'num_classes', 0):
        embeddings = model.forward_head(model.forward_features(images), pre_logits=True)
    else:
        embeddings = model(images)
    if not isinstance(embeddings, Tensor) or embeddings.shape[:-1] != images.shape[:1]:
        shape = list(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise InputError(f'{type(model).__name__} gives {shape} instead of one vector for each of {len(images)} images')
    return embeddings


def extract(
    model: nn.Module,
    records: Sequence[Record],
    *,
    transform: Callable | None = None,
    data_config: dict | None = None,
    cache: ImageCache | None = None,
    batch_size: int = 64,
    workers: int = 2,
    device: str | torch.device | None = None,
    description: str = 'images',
) -> Features:
    """Embeds pictures, in the order of the records.

    The model runs in evaluation mode and is left in the mode it came in; it moves to `device` for good.

    Args:
        model: takes [B, 3, H, W], see `embed`.
        records: pictures, all with a camera or all without.
        transform: PIL image -> [3, H, W]; None for the evaluation transform of `data_config`.
        data_config: for `timm.data.create_transform`; None for `reid_data_config(model)`.
        cache: where resized pictures are kept; only without a `transform`.
        batch_size: images at once.
        workers: processes that read images; 0 reads them in this one.
        device: None for the one that the model is on.
        description: what the progress bar says.

    Raises:
        InputError: no records, some without a camera, an unreadable picture, an embedding that is not finite, or both
            a transform and a cache.
    """
    if not records:
        raise InputError('no pictures to embed')
    cameras = _cameras(records)
    if transform and cache:
        raise InputError('a cache holds pictures as data_config asks for: leave out the transform, or the cache')
    data_config = data_config or reid_data_config(model)
    if cache is None:
        images = ReIDImages(records, transform or create_transform(**data_config))
    else:
        images = cache.images(records, data_config)
    device = torch.device(device) if device is not None else device_of(model)
    loader = DataLoader(
        images, batch_size, num_workers=workers, collate_fn=images.collate, pin_memory=device.type == 'cuda'
    )
    model.to(device)
    try:
        bar = progress(total=len(records), desc=description, unit='img')
        with _evaluation_mode(model), torch.inference_mode(), bar:
            embeddings = _run(model, loader, records, device, bar)
    except InputError as e:
        # a worker's traceback would keep the loader alive until some later collection, which then takes seconds
        raise e.with_traceback(None) from None
    return Features(
        # a copy outside of inference mode is free to be used in autograd
        embeddings=embeddings.clone(),
        identities=torch.tensor([r.identity for r in records]),
        cameras=cameras,
        paths=tuple(r.path for r in records),
        clothes=None if any(r.clothes is None for r in records) else torch.tensor([r.clothes for r in records]),
        boxes=torch.tensor([r.box or (0, 0, 0, 0) for r in records]) if any(r.box for r in records) else None,
    )


def _run(model: nn.Module, loader: DataLoader, records: Sequence[Record], device: torch.device, bar) -> Tensor:
    """[N, D] normalised embeddings on the CPU."""
    embeddings = None
    for raw, indices in loader:
        images = loader.dataset.to_input(raw, device)
        batch = nn.functional.normalize(embed(model, images).float(), dim=1).cpu()
        finite = batch.isfinite().all(1)
        if not finite.all():
            path = records[int(indices[~finite][0])].path
            raise InputError(f'the model gives NaN or infinity for {path}: its weights are broken')
        if embeddings is None:
            embeddings = batch.new_empty(len(records), batch.shape[1])
        embeddings[indices] = batch
        bar.update(len(images))
    return embeddings


def _cameras(records: Sequence[Record]) -> Tensor | None:
    unknown = [r for r in records if r.camera is None]
    if not unknown:
        return torch.tensor([r.camera for r in records])
    if len(unknown) == len(records):
        return None
    raise InputError(f'{unknown[0].path} has no camera but other pictures have: give all of them one, or none')


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer is; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device('cpu')


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Modules keep their modes one by one: a training may have frozen some of them."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
