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
    """A box that is the whole frame, of the size that the network knows: what is cut out is the map itself."""
    (frame,) = frames((128, 64))
    network = create_search_network(NAME, min_size=64, max_size=128)
    reid = load_model(NAME)
    mean, std = (torch.tensor(reid.pretrained_cfg[name])[:, None, None] for name in ('mean', 'std'))
    stages = {}
    reid.stages[0].register_forward_hook(lambda module, args, out: stages.update(first=out))
    expected = reid(((frame - mean) / std)[None])
    cut = network.cut_out(stages['first'], [torch.tensor([[0.0, 0.0, 64.0, 128.0]])])
    found = network.embed([frame], [torch.tensor([[0.0, 0.0, 64.0, 128.0]])])
    torch.testing.assert_close(found, network.embedder(cut), rtol=1e-4, atol=1e-5)
    # sampled at four points of each place, and so a little smoother
    assert F.cosine_similarity(found, expected).item() > 0.9
    other = network.embed(frames((128, 64), (128, 64))[1:], [torch.tensor([[0.0, 0.0, 64.0, 128.0]])])
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
