"""Pyramids for torchvision's detectors: their defaults fit, one step trains, and other forms give the same."""

import io

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet

from msinet_timm.detection import fpn_backbone
from msinet_timm.errors import InputError

DETECTORS = {FasterRCNN: 'pool', MaskRCNN: 'pool', RetinaNet: 'p6p7', FCOS: 'p6p7'}
NAME = 'msinet_x0_25'


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize('detector', DETECTORS, ids=lambda d: d.__name__)
def test_detectors_at_their_defaults(detector):
    model = detector(fpn_backbone(NAME, extra=DETECTORS[detector]), num_classes=2, min_size=96, max_size=160)
    image, box = torch.rand(3, 90, 150), torch.tensor([[10.0, 10, 60, 80]])
    target = dict(boxes=box, labels=torch.tensor([1]), masks=torch.ones(1, 90, 150, dtype=torch.uint8))
    sum(model([image], [target]).values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    model.eval()
    with torch.no_grad():
        assert {'boxes', 'scores'} <= model([image])[0].keys()
        scripted, x = torch.jit.script(model), torch.rand(1, 3, 96, 160)
        maps = model.backbone(x)
        for name, found in scripted.backbone(x).items():
            torch.testing.assert_close(found, maps[name])
    assert len(maps) == 5


@pytest.mark.slow
def test_a_detector_as_onnx():
    onnxruntime = pytest.importorskip('onnxruntime')
    model = FCOS(fpn_backbone(NAME, extra='p6p7'), num_classes=2, min_size=96, max_size=160).eval()
    image, file = torch.rand(3, 96, 128), io.BytesIO()
    torch.onnx.export(model, ([image],), file, opset_version=17, dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = model([image])[0]
    for a, b in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('extra, strides', [('pool', [4, 8, 16, 32, 64]), ('p6p7', [8, 16, 32, 64, 128])])
@pytest.mark.parametrize('name', [NAME, 'test_resnet', 'convnext_atto'])
def test_strides_are_those_of_resnets(name, extra, strides):
    with torch.no_grad():
        maps = fpn_backbone(name, extra=extra, out_channels=8).eval()(torch.rand(1, 3, 128, 256))
    assert [tuple(m.shape) for m in maps.values()] == [(1, 8, 128 // s, 256 // s) for s in strides]


@pytest.mark.parametrize('trainable', range(6))
def test_the_last_stages_learn(trainable):
    body = fpn_backbone(NAME, trainable_stages=trainable, stage5=True).body
    learns = {name.split('.')[0] for name, p in body.named_parameters() if p.requires_grad}
    stages = [['stem'], ['stages_0'], ['stages_1', 'stages_2'], ['stages_3', 'stages_4'], ['stages_5', 'stages_6']]
    assert learns == {name for stage in stages[5 - trainable :] for name in stage}


def test_frozen_norms_stay_as_they_are():
    model = fpn_backbone(NAME, frozen_norm=True).train()
    assert not [m for m in model.body.modules() if isinstance(m, nn.BatchNorm2d)]
    before = {name: tensor.clone() for name, tensor in model.body.named_buffers()}
    assert before
    model(3 * torch.rand(2, 3, 64, 64))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.body.named_buffers())
    assert [m for m in fpn_backbone(NAME).modules() if isinstance(m, nn.BatchNorm2d)]


def test_pretrained_weights_are_in_it():
    import timm

    model = fpn_backbone('msinet_x1_0', pretrained=True).eval()
    plain = timm.create_model('msinet_x1_0', pretrained=True).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = plain.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        for found, expected in zip(model.body(x).values(), maps, strict=True):
            torch.testing.assert_close(found, expected)
    assert [n for n, p in model.body.named_parameters() if not p.requires_grad]  # 3 of 5 stages learn


@pytest.mark.parametrize(
    'name, options, message',
    [
        (NAME, dict(extra='p8'), "extra 'p8' is unknown: choose one of 'pool', 'p6p7'"),
        (NAME, dict(trainable_stages=6), 'trainable_stages 6 is out of range: msinet_x0_25 has 5 stages'),
        (NAME, dict(trainable_stages=-1), 'trainable_stages -1 is out of range'),
        (NAME, dict(trainable_stages=2.5), 'trainable_stages 2.5 is out of range'),
        ('test_vit', {}, 'test_vit does not run its stages one after another'),
    ],
)
def test_what_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        fpn_backbone(name, **options)
