import pytest
import torch
import torch.nn.functional as F

from msinet_timm.errors import InputError
from msinet_timm.hub.load import load_model
from msinet_timm.person_search import create_search_network

NAME = 'msinet_x0_25.rendered_128x64'


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return create_search_network(NAME, min_size=128, max_size=256)


def frames(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, height, width, generator=generator) for height, width in sizes]


@torch.inference_mode()
def test_embeds_a_crop_as_the_reid_network_does():
    """A box of the size that the network knows, in a larger frame: what is cut out is the crop."""
    frame = F.avg_pool2d(frames((160, 120))[0][None], 5, 1, 2)[0]  # smooth, as it is sampled between pixels
    network = create_search_network(NAME, min_size=120, max_size=160)
    reid = load_model(NAME)
    mean, std = (torch.tensor(reid.pretrained_cfg[name])[:, None, None] for name in ('mean', 'std'))
    box = torch.tensor([[30.0, 20.0, 94.0, 148.0]])
    expected = reid(((frame - mean) / std)[None, :, 20:148, 30:94])
    found = network.embed([frame], [box])
    assert F.cosine_similarity(found, expected).item() > 0.98
    other = network.embed([frame], [box + torch.tensor([20.0, 8, 20, 8])])
    assert F.cosine_similarity(found, expected) > F.cosine_similarity(other, expected)


@torch.inference_mode()
def test_embeds_what_it_finds(network):
    images = frames((120, 160), (96, 200))
    found = network(images)
    assert [set(one) for one in found] == [{'boxes', 'scores', 'embeddings'}] * 2
    for image in images:
        (one,) = network([image])
        assert len(one['boxes']) and one['embeddings'].shape == (len(one['boxes']), network.embedding_size)
        torch.testing.assert_close(one['embeddings'].norm(dim=1), torch.ones(len(one['boxes'])))
        again = F.normalize(network.embed([image], [one['boxes']]))
        torch.testing.assert_close(again, one['embeddings'], rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_boxes_grow_with_the_frame(network):
    """Boxes are in pixels of the frame, and not of what it is resized to."""
    (frame,) = frames((128, 256))
    small = F.interpolate(frame[None], scale_factor=0.5, mode='nearest')[0]
    box = torch.tensor([[20.0, 10.0, 60.0, 90.0]])
    large = F.interpolate(small[None], scale_factor=2, mode='bilinear', align_corners=False)[0]
    torch.testing.assert_close(network.embed([small], [box / 2]), network.embed([large], [box]), rtol=1e-3, atol=1e-4)


def test_training_gives_losses_and_embeddings():
    torch.manual_seed(0)
    network = create_search_network(NAME, min_size=128, max_size=256).train()
    boxes = [torch.tensor([[10.0, 10, 40, 90], [60, 20, 90, 100]]), torch.zeros(0, 4)]  # nobody in the second one
    targets = [{'boxes': b, 'labels': torch.ones(len(b), dtype=torch.long)} for b in boxes]
    losses, embeddings = network(frames((120, 160), (120, 160)), targets, boxes)
    assert set(losses) == {'loss_objectness', 'loss_rpn_box_reg', 'loss_classifier', 'loss_box_reg'}
    assert embeddings.shape == (2, network.embedding_size)
    (sum(losses.values()) + embeddings.square().mean()).backward()
    learns = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name, p in network.named_parameters() if p.grad is not None} == learns
    assert not any(name.startswith(('backbone.body.stem', 'backbone.body.stages_0')) for name in learns)
    assert any(name.startswith('embedder.stem') for name in learns)
    assert network(frames((120, 160)), targets[:1])[1] is None


@torch.inference_mode()
def test_nobody_is_found(network):
    threshold, network.roi_heads.score_thresh = network.roi_heads.score_thresh, 1.1
    try:
        (found,) = network(frames((120, 160)))
    finally:
        network.roi_heads.score_thresh = threshold
    assert found['boxes'].shape == (0, 4) and found['embeddings'].shape == (0, network.embedding_size)


def test_other_networks_are_refused():
    with pytest.raises(InputError, match='resnet18 is a ResNet: person search needs an MSINet'):
        create_search_network('resnet18', pretrained=False)
