"""What a trained model has to beat: descriptors that know nothing but colour."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from msinet_timm.errors import InputError

__all__ = ['BASELINES', 'ColorHistogram', 'rgb_to_hsv']


class ColorHistogram(nn.Module):
    """Histogram of hue, saturation and value in horizontal stripes.

    Each stripe's histogram sums to 1 before its square root is taken, so that Euclidean distances between embeddings
    are Hellinger distances between histograms.

    Args:
        stripes: bands of rows of (nearly) equal height, from top to bottom.
        bins: of hue, saturation and value.
    """

    # images come unnormalised, in their usual size
    pretrained_cfg = {
        'input_size': (3, 128, 64),
        'mean': (0.0, 0.0, 0.0),
        'std': (1.0, 1.0, 1.0),
        'interpolation': 'bilinear',
    }
    num_classes = 0

    def __init__(self, stripes: int = 1, bins: tuple[int, int, int] = (16, 4, 4)):
        super().__init__()
        self.stripes = stripes
        self.bins = bins
        self.num_features = stripes * bins[0] * bins[1] * bins[2]

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] RGB, 0-1 -> [B, stripes * bins].

        Raises:
            InputError: fewer rows than stripes.
        """
        batch, _, height, width = x.shape
        if height < self.stripes:
            raise InputError(f'{self.stripes} stripes need an input height of at least {self.stripes}, got {height}')
        hue, saturation, value = (
            (channel * n).long().clamp(0, n - 1) for channel, n in zip(rgb_to_hsv(x).unbind(1), self.bins, strict=True)
        )
        bin_ = (hue * self.bins[1] + saturation) * self.bins[2] + value
        stripe = torch.arange(height, device=x.device) * self.stripes // height
        index = (bin_ + (stripe * (self.num_features // self.stripes))[:, None]).flatten(1)
        counts = x.new_zeros(batch, self.num_features).scatter_add_(1, index, torch.ones_like(index, dtype=x.dtype))
        pixels = stripe.bincount(minlength=self.stripes) * width
        return (counts.view(batch, self.stripes, -1) / pixels[:, None]).sqrt().flatten(1)


def rgb_to_hsv(x: Tensor) -> Tensor:
    """[B, 3, H, W] RGB, 0-1 -> [B, 3, H, W] hue (0 up to 1; 0 for grays), saturation, value, 0-1."""
    value, strongest = x.max(1)
    spread = value - x.amin(1)
    red, green, blue = x.unbind(1)
    safe = torch.where(spread > 0, spread, 1.0)
    sectors = torch.stack([(green - blue) / safe % 6, (blue - red) / safe + 2, (red - green) / safe + 4], dim=1)
    hue = sectors.gather(1, strongest[:, None])[:, 0] / 6
    saturation = spread / torch.where(value > 0, value, 1.0)
    return torch.stack([hue, saturation, value], dim=1)


# models that msinet-eval knows besides timm's
BASELINES: dict[str, Callable[[], nn.Module]] = {
    'color_histogram': ColorHistogram,
    'color_histogram_stripes': lambda: ColorHistogram(stripes=6),
}
