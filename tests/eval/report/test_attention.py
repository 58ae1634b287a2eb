import pytest
import timm
import torch
from PIL import Image
from torch import nn

from msinet_eval.features.extract import reid_data_config
from msinet_eval.models.baselines import BASELINES
from msinet_eval.report.attention import attend, overlay


def halves(upper, lower, size=(32, 64)):
    image = Image.new('RGB', size, upper)
    image.paste(lower, (0, size[1] // 2, *size))
    return image


class Colors(nn.Module):
    """Its map is the image at a tenth of a place each, its embedding the mean colour."""

    num_features = 3

    def forward_features(self, x):
        return nn.functional.avg_pool2d(x, 8)

    def forward_head(self, x, pre_logits=False):
        assert pre_logits
        return x.mean((2, 3))


CONFIG = {'input_size': (3, 64, 32), 'mean': (0, 0, 0), 'std': (1, 1, 1), 'interpolation': 'bilinear', 'crop_pct': 1.0}


def test_agreement_is_where_the_colours_are_alike():
    query, match = halves((255, 0, 0), (0, 0, 255)), halves((0, 255, 0), (255, 0, 0))
    maps = attend(Colors(), query, match, CONFIG)
    assert maps.energy.shape == maps.agreement.shape == (2, 8, 4)
    torch.testing.assert_close(maps.energy, torch.ones(2, 8, 4))
    # red, which both have, is above in the query and below in the match
    alike = torch.zeros(2, 8, 4)
    alike[0, :4] = alike[1, 4:] = 0.5 / 16
    torch.testing.assert_close(maps.agreement, alike)
    assert maps.similarity == pytest.approx(0.5)


@pytest.mark.parametrize('name', ['msinet_x0_25', 'resnet10t', 'swin_tiny_patch4_window7_224'])
def test_agreement_sums_to_the_similarity_where_places_are_averaged(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **({} if 'swin' not in name else {'depths': (1, 1, 1, 1)})).train()
    config = reid_data_config(model, *(() if 'swin' in name else (64, 32)))
    maps = attend(model, halves((250, 90, 20), (10, 20, 200)), halves((30, 220, 90), (90, 20, 20)), config)
    assert maps.agreement.sum((1, 2)).tolist() == pytest.approx([maps.similarity] * 2, rel=1e-4)
    assert maps.energy.shape[1:] == ((7, 7) if 'swin' in name else (4, 2) if 'msinet' in name else (2, 1))
    # the model is left as it came
    assert model.training and all(p.grad is None for p in model.parameters())


def test_tokens_are_laid_out_as_the_image_is():
    torch.manual_seed(0)
    model = timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=(96, 32), depth=1)
    maps = attend(
        model,
        halves((250, 90, 20), (10, 20, 200)),
        halves((30, 220, 90), (90, 20, 20)),
        CONFIG | {'input_size': (3, 96, 32)},
    )
    assert maps.agreement.shape == (2, 6, 2)
    # the class token alone is read: places are compared by their own vectors
    assert maps.agreement.abs().max() <= 1 and maps.agreement.std() > 0


def test_models_without_places():
    image = halves((250, 90, 20), (10, 20, 200))
    model = BASELINES['color_histogram']()
    assert attend(model, image, image, reid_data_config(model)) is None
    model = timm.create_model('resnet10t', num_classes=0, global_pool='')
    assert attend(model, image, image, CONFIG) is None


def test_overlay_is_brightest_where_the_map_is_highest():
    values = torch.zeros(4, 2)
    values[0, 1] = 3.0
    image = overlay(Image.new('RGB', (40, 80), (128, 128, 128)), values)
    assert image.size == (40, 80)
    high, low = image.getpixel((38, 2)), image.getpixel((2, 78))
    assert sum(high) > sum(low) and high[2] < low[2]  # yellow, and violet
    # a map without any difference has no place to show
    assert len(overlay(Image.new('RGB', (8, 8)), torch.ones(2, 2)).getcolors()) == 1
