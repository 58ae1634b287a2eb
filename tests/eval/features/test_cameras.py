"""Extraction by the norms of cameras, against networks whose norms are set by hand."""

import copy

import pytest
import timm
import torch
from timm.data import create_transform
from torch import nn

from msinet_eval.features import cameras
from msinet_eval.features.cameras import batches_by_camera
from msinet_eval.features.extract import extract, reid_data_config
from msinet_eval.features.types import Features
from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import load_image
from msinet_timm.datasets.tools.convert import convert
from msinet_timm.errors import InputError
from msinet_timm.hub.adapt import adapt
from msinet_timm.models.camera_norm import CameraNorms


@pytest.fixture
def records(market):
    """Of cameras 1, 2, 3 in turn."""
    found = create_dataset('market1501', str(market)).gallery
    return [*found[1:], found[0]]


@pytest.fixture(params=['msinet_x0_25', 'test_resnet'])
def model(request):
    torch.manual_seed(0)
    model = timm.create_model(request.param, num_classes=3)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
    return model


@pytest.fixture
def msinet():
    torch.manual_seed(0)
    return timm.create_model('msinet_x0_25', num_classes=0).eval()


@pytest.fixture
def options(model):
    return {'data_config': reid_data_config(model, 64, 32), 'workers': 0, 'batch_size': 2}


SMALL = {'workers': 0, 'batch_size': 2}


def norms_of(model, records, size=(64, 32)):
    """Of cameras 1 and 2; 3 is not known."""
    known = [record for record in records if record.camera != '3']
    return adapt(model, known, reid_data_config(model, *size), workers=0)


def by_hand(norms, records, config, **options):
    """Each image alone, by a network of its own whose norms are set; then less the mean."""
    transform, found = create_transform(**config), []
    for record in records:
        statistics, network = norms.statistics(record.camera), copy.deepcopy(norms.model).eval()
        start = 0
        for name, count in norms.layout:
            norm = network.get_submodule(name)
            norm.running_mean.copy_(statistics.mean[start : start + count])
            norm.running_var.copy_(statistics.variance[start : start + count])
            start += count
        image = transform(load_image(record.path, record.box))[None]
        with torch.no_grad():
            views = [image, image.flip(-1)] if options.get('flip') else [image]
            mean = sum(network(view)[0] for view in views) / len(views) - statistics.embedding
        width = 128 if hasattr(network, 'forward_branches') else 0
        parts = {'all': mean, 'global': mean[:width], 'local': mean[width:]}
        found.append(nn.functional.normalize(parts[options.get('part', 'all')], dim=0))
    return torch.stack(found)


def test_as_networks_whose_norms_are_set_by_hand(model, records, options):
    """Also for a camera that is not known, whatever the size of batches, and the model stays as it was."""
    norms = norms_of(model, records)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    expected = by_hand(norms, records, options['data_config'])
    plain = extract(model, records, **options)
    for size in (1, 2, 64):
        found = extract(model, records, norms=norms, **{**options, 'batch_size': size})
        torch.testing.assert_close(found.embeddings, expected, rtol=0, atol=1e-5)
        assert found.paths == plain.paths and found.cameras == plain.cameras
    assert (plain.embeddings - expected).norm(dim=1).min() > 0.01
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(extract(model, records, **options).embeddings, plain.embeddings)


@pytest.mark.parametrize('changes', [{'part': 'global', 'flip': True}, {'part': 'local'}])
def test_parts_take_their_part_of_the_mean(msinet, records, changes):
    config = reid_data_config(msinet, 64, 32)
    norms = norms_of(msinet, records)
    assert norms.statistics('1').embedding.abs().min() > 0
    width = msinet.head_hidden_size
    found = extract(msinet, records, norms=norms, data_config=config, **SMALL, **changes).embeddings
    assert 0 < found.shape[1] < width
    expected = by_hand(norms, records, config, **changes)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_images_without_cameras(msinet, records):
    config = reid_data_config(msinet, 64, 32)
    norms = norms_of(msinet, records)
    unknown = [record._replace(camera=None) for record in records]
    found = extract(msinet, unknown, norms=norms, data_config=config, **SMALL)
    torch.testing.assert_close(found.embeddings, by_hand(norms, unknown, config), rtol=0, atol=1e-5)
    assert found.cameras is None


def test_caches_workers_and_low_precision(msinet, records):
    config = reid_data_config(msinet, 64, 32)
    norms = norms_of(msinet, records)
    plain = extract(msinet, records, norms=norms, data_config=config, **SMALL).embeddings
    for changes in ({'cache': ImageCache('memory')}, {'workers': 1}):
        again = extract(msinet, records, norms=norms, data_config=config, **{**SMALL, **changes})
        assert torch.equal(again.embeddings, plain)
    low = extract(msinet, records, norms=norms, data_config=config, amp='bf16', **SMALL).embeddings
    assert not torch.equal(low, plain)
    torch.testing.assert_close(low, plain, rtol=0, atol=0.1)


def test_batches_never_mix_cameras(msinet, records):
    norms = norms_of(msinet, records)
    order, batches = batches_by_camera(records, 2, norms)
    assert sorted(order) == list(range(len(records)))
    assert [place for batch in batches for place in batch] == list(range(len(records)))
    for batch in batches:
        assert len({records[order[place]].camera for place in batch}) == 1 and len(batch) <= 2
    assert batches_by_camera(records, 5, norms)[0] == order


@pytest.mark.parametrize('window', [4, 4096])
def test_shards_are_sorted_piece_by_piece(msinet, market, records, tmp_path, monkeypatch, window):
    monkeypatch.setattr(cameras, '_WINDOW', window)
    config = reid_data_config(msinet, 64, 32)
    norms = norms_of(msinet, records)
    convert(create_dataset('market1501', str(market)), 'shards', tmp_path / 'shards', shard_size=3)
    streamed = create_dataset('shards', str(tmp_path / 'shards')).gallery
    order, _ = batches_by_camera(streamed, 2, norms)
    assert [index // window for index in order] == sorted(index // window for index in order)
    found = extract(msinet, streamed, norms=norms, data_config=config, **SMALL).embeddings
    torch.testing.assert_close(found, by_hand(norms, streamed, config), rtol=0, atol=1e-5)


def test_interrupted_extraction_goes_on(msinet, records, tmp_path, monkeypatch):
    """With another size of batches, too; the file is in the order of the records."""
    config = reid_data_config(msinet, 64, 32)
    norms, file = norms_of(msinet, records), tmp_path / 'f.safetensors'
    plain = extract(msinet, records, norms=norms, data_config=config, **SMALL)
    real, seen = cameras.CameraNetwork.embed, []

    def limited(self, *args, **kwargs):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(args)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(cameras.CameraNetwork, 'embed', limited)
    with pytest.raises(KeyboardInterrupt):
        extract(msinet, records, norms=norms, data_config=config, file=file, **SMALL)
    assert len(list((tmp_path / 'f.shards').glob('0*.safetensors'))) == 1
    monkeypatch.setattr(cameras.CameraNetwork, 'embed', real)
    for size in (3, 64):  # goes on, then reads the file
        found = extract(msinet, records, norms=norms, data_config=config, file=file, workers=0, batch_size=size)
        torch.testing.assert_close(found.embeddings, plain.embeddings, rtol=0, atol=1e-5)
        stored = Features.load(file)
        assert torch.equal(stored.embeddings, found.embeddings) and stored.paths == plain.paths


def test_files_of_other_cameras_are_refused(msinet, records, tmp_path):
    """Those of the model as it is, of other statistics, and of images that are said to be of another camera."""
    config = reid_data_config(msinet, 64, 32)
    norms, other = (norms_of(msinet, part) for part in (records, records[:5]))
    paths = [tmp_path / name for name in ('plain.safetensors', 'adapted.safetensors')]
    for path, of in zip(paths, (None, norms), strict=True):
        extract(msinet, records, norms=of, data_config=config, file=path, **SMALL)
    moved = [records[0]._replace(camera='2'), *records[1:]]
    for path, given, of in (
        (paths[0], records, norms),
        (paths[1], records, None),
        (paths[1], records, other),
        (paths[1], moved, norms),
    ):
        with pytest.raises(InputError, match=f'{path.name}: holds features of other cameras: give another folder'):
            extract(msinet, given, norms=of, data_config=config, file=path, **SMALL)
    extract(msinet, moved, data_config=config, file=paths[0], **SMALL)  # where cameras do not matter


def test_norms_that_cannot_be_used(msinet, records):
    norms = norms_of(msinet, records)
    torch.manual_seed(1)
    other = timm.create_model('msinet_x0_25', num_classes=0)
    for model, given, changes, message in (
        (other, norms, {}, 'norms: they are of another model or other weights than the MSINet given'),
        (timm.create_model('test_resnet'), norms, {}, 'other weights than the ResNet given'),
        (msinet, CameraNorms(msinet), {}, 'norms: no camera has been seen'),
        (msinet, norms, {'neck': True}, '`neck`: the mean that is taken .* leave out `neck`, or the norms'),
    ):
        with pytest.raises(InputError, match=message):
            extract(model, records, norms=given, data_config=reid_data_config(msinet, 64, 32), **SMALL, **changes)
