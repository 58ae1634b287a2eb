"""MSINet as the backbone of other libraries' networks, at their defaults: one loss, one step back."""

import pytest
import timm
import torch

import msinet_timm  # noqa: F401  registers the models with timm

NAME = 'msinet_x0_25'
DECODERS = ['Unet', 'UnetPlusPlus', 'MAnet', 'Linknet', 'FPN', 'PSPNet', 'PAN', 'DeepLabV3', 'DeepLabV3Plus', 'UPerNet']
SMALL = dict(
    d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=5,
)  # fmt: skip
SMALL_REAL_TIME = dict(
    encoder_hidden_dim=32, encoder_ffn_dim=32, d_model=32, num_queries=5, decoder_layers=2, decoder_ffn_dim=32,
    decoder_in_channels=[32] * 3, encoder_in_channels=[96, 128, 128], encoder_attention_heads=2,
    decoder_attention_heads=2, num_denoising=0,
)  # fmt: skip
#: Families of transformers, the maps that they name (None: they have a default), and what makes them small.
FAMILIES = {
    'Detr': (None, SMALL),
    'ConditionalDetr': (None, SMALL),
    'DeformableDetr': (None, SMALL),
    'RTDetr': ([2, 3, 4], SMALL_REAL_TIME),
    'RTDetrV2': ([2, 3, 4], SMALL_REAL_TIME),
    'DFine': ([2, 3, 4], SMALL_REAL_TIME),
    'Deimv2': ([2, 3, 4], SMALL_REAL_TIME),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.slow
@pytest.mark.parametrize('decoder', DECODERS)
def test_segmentation_models_pytorch(decoder):
    smp = pytest.importorskip('segmentation_models_pytorch')
    model = getattr(smp, decoder)(f'tu-{NAME}', encoder_weights=None, classes=2)
    masks = model(torch.rand(2, 3, 128, 128))
    assert masks.shape == (2, 2, 128, 128)
    masks.mean().backward()
    assert model.encoder.model.stem.conv.weight.grad.abs().sum() > 0


def backbone(transformers, **options):
    return transformers.TimmBackboneConfig(backbone=NAME, use_pretrained_backbone=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_transformers_detectors(family):
    transformers = pytest.importorskip('transformers')
    if not hasattr(transformers, f'{family}Config'):
        pytest.skip(f'this transformers has no {family}')
    maps, small = FAMILIES[family]
    config = getattr(transformers, f'{family}Config')(
        backbone_config=backbone(transformers, **({} if maps is None else dict(out_indices=maps))), **small
    )
    model = getattr(transformers, f'{family}ForObjectDetection')(config).train()
    label = dict(class_labels=torch.tensor([0]), boxes=torch.tensor([[0.5, 0.5, 0.3, 0.4]]))
    found = model(pixel_values=torch.rand(2, 3, 96, 64), labels=[label] * 2)
    found.loss.backward()
    first = next(p for name, p in model.named_parameters() if name.endswith('stem.conv.weight'))
    assert first.grad is None or first.grad.abs().sum() > 0  # some freeze the stem
    assert sum(p.grad is not None for p in model.parameters()) > 50
    if maps:
        network = next(m for m in model.modules() if hasattr(m, 'feature_info'))
        assert network.feature_info.reduction() == [8, 16, 32]


@pytest.mark.slow
def test_detr_by_name():
    transformers = pytest.importorskip('transformers')
    config = transformers.DetrConfig(use_timm_backbone=True, backbone=NAME, use_pretrained_backbone=False, **SMALL)
    assert transformers.DetrForObjectDetection(config)(torch.rand(1, 3, 64, 64)).logits.shape[:2] == (1, 5)


@pytest.mark.slow
def test_uper_net():
    transformers = pytest.importorskip('transformers')
    config = transformers.UperNetConfig(
        backbone_config=backbone(transformers, out_indices=[1, 2, 3, 4]),
        hidden_size=16, auxiliary_in_channels=128, num_labels=3,
    )  # fmt: skip
    model = transformers.UperNetForSemanticSegmentation(config)
    found = model(torch.rand(2, 3, 64, 64), labels=torch.zeros(2, 64, 64, dtype=torch.long))
    found.loss.backward()
    assert found.logits.shape == (2, 3, 64, 64)


@pytest.mark.slow
def test_effdet():
    effdet = pytest.importorskip('effdet')
    config = effdet.get_efficientdet_config('tf_efficientdet_d0')
    config.update(
        backbone_name=NAME, backbone_args={}, image_size=(128, 128), num_classes=2,
        fpn_channels=16, fpn_cell_repeats=1, box_class_repeats=1,
    )  # fmt: skip
    model = effdet.EfficientDet(config, pretrained_backbone=False)
    assert model.backbone.feature_info.reduction() == [8, 16, 32]
    target = dict(bbox=[torch.tensor([[10.0, 10, 60, 80]])] * 2, cls=[torch.tensor([1.0])] * 2)
    effdet.DetBenchTrain(model)(torch.rand(2, 3, 128, 128), target)['loss'].backward()
    assert model.backbone.stem.conv.weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_ultralytics(tmp_path):
    """As docs/detectors.md does it: a network by its name in torchvision, and its maps by their numbers."""
    ultralytics = pytest.importorskip('ultralytics')
    from torchvision.models._api import BUILTIN_MODELS, register_model
    from ultralytics.cfg import get_cfg

    def msinet(weights=None):
        return timm.create_model(NAME, pretrained=weights is not None, features_only=True)

    maps = '\n'.join(f'  - [0, 1, Index, [{channels}, {number}]]' for number, channels in ((2, 96), (3, 128), (4, 128)))
    recipe = f'nc: 1\nbackbone:\n  - [-1, 1, TorchVision, [128, {NAME}, None, False]]\n{maps}\n'
    (tmp_path / 'yolo.yaml').write_text(f'{recipe}head:\n  - [[1, 2, 3], 1, Detect, [nc]]\n')
    register_model(NAME)(msinet)
    try:
        model = ultralytics.YOLO(tmp_path / 'yolo.yaml', task='detect').model.train()
    finally:
        del BUILTIN_MODELS[NAME]
    assert model.stride.tolist() == [8, 16, 32]
    model.args = get_cfg()
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.4]] * 2)
    batch = dict(img=torch.rand(2, 3, 64, 64), cls=torch.zeros(2, 1), bboxes=boxes, batch_idx=torch.arange(2.0))
    model(batch)[0].sum().backward()
    assert model.model[0].m.stem.conv.weight.grad.abs().sum() > 0
