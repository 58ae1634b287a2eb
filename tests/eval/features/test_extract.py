import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import create_transform
from torch import nn

from msinet_eval.evaluation import evaluate
from msinet_eval.features.extract import embed, extract, reid_data_config
from msinet_eval.features.forward import inference_form
from msinet_eval.features.types import Features
from msinet_timm.datasets import create_dataset
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.datasets.images import load_image
from msinet_timm.errors import InputError


@pytest.fixture
def gallery(market):
    return create_dataset('market1501', str(market)).gallery


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=0).eval()


@pytest.fixture(scope='module')
def small(model):
    """Options that make a network fast."""
    return {'transform': create_transform(**reid_data_config(model, 64, 32)), 'workers': 0}


class Corner(nn.Module):
    """The colour of the upper left pixel: an embedding that tells which image it is of."""

    pretrained_cfg = {'input_size': (3, 8, 4), 'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0)}

    def forward(self, x):
        return x[:, :, 0, 0]


def test_embeds_in_order_with_length_1(gallery):
    features = extract(Corner(), gallery, batch_size=3, workers=0)
    transform = create_transform(**reid_data_config(Corner()))
    expected = torch.stack([transform(load_image(r.path))[:, 0, 0] for r in gallery])
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(features.embeddings, expected)
    assert features.embeddings.dtype == torch.float32
    assert list(features.identities) == [r.identity for r in gallery]
    assert list(features.cameras) == [r.camera for r in gallery]
    assert features.paths == tuple(r.path for r in gallery)
    assert len(features) == len(gallery)


def test_batches_and_workers_change_nothing(gallery, model, small):
    one = extract(model, gallery[:5], batch_size=1, **small)
    many = extract(model, gallery[:5], batch_size=4, **{**small, 'workers': 1})
    torch.testing.assert_close(one.embeddings, many.embeddings, rtol=1e-4, atol=1e-6)


def test_transform_is_used(gallery):
    features = extract(
        Corner(), gallery, transform=lambda image: torch.tensor([3.0, 4.0, 0.0]).view(3, 1, 1), workers=0
    )
    assert features.embeddings.unique(dim=0).tolist() == pytest.approx([pytest.approx([0.6, 0.8, 0.0])])


def test_whole_image_is_resized_whatever_the_model_says(model):
    assert model.pretrained_cfg['crop_pct'] < 1
    config = reid_data_config(model, height=64)
    assert (config['crop_pct'], config['crop_mode']) == (1.0, 'squash')
    assert config['input_size'] == (3, 64, model.pretrained_cfg['input_size'][2])
    assert config['mean'] == model.pretrained_cfg['mean']


def test_model_keeps_its_modes(gallery, small):
    model = timm.create_model('test_resnet', num_classes=0).train()
    model.layer1.eval()
    modes = [m.training for m in model.modules()]
    statistics = model.bn1.running_mean.clone()
    extract(model, gallery, **small)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model.bn1.running_mean, statistics)


def test_modes_come_back_after_an_error(gallery):
    class Broken(Corner):
        def forward(self, x):
            raise RuntimeError('broken')

    model = Broken().train()
    with pytest.raises(RuntimeError, match='broken'):
        extract(model, gallery, workers=0)
    assert model.training


def test_model_in_training_needs_no_change(gallery, model, small):
    trained = timm.create_model('test_resnet', num_classes=10)
    trained.load_state_dict(model.state_dict(), strict=False)
    expected = extract(model, gallery, **small).embeddings
    assert torch.equal(extract(trained, gallery, **small).embeddings, expected)


def test_embeddings_can_be_trained_on(gallery):
    embeddings = extract(Corner(), gallery, workers=0).embeddings
    layer = nn.Linear(3, 2)
    layer(embeddings).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_output_that_is_no_embedding():
    class Map(nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(InputError, match=r'Map gives \[2, 3, 4, 4\] instead of one vector for each of 2 images'):
        embed(Map(), torch.zeros(2, 3, 4, 4))


def test_cameras_all_or_none(gallery):
    without = [r._replace(camera=None) for r in gallery]
    assert extract(Corner(), without, workers=0).cameras is None
    with pytest.raises(InputError, match=r'0000_c1.* has no camera but other images have'):
        extract(Corner(), [without[0], *gallery[1:]], workers=0)


def test_no_images():
    with pytest.raises(InputError, match='no images to embed'):
        extract(Corner(), [])


def test_broken_weights_are_named_with_a_image(gallery, small):
    model = timm.create_model('test_resnet', num_classes=0)
    nn.init.constant_(model.conv1[0].weight, float('nan'))
    with pytest.raises(InputError, match=r'NaN or infinity for .*0000_c1s1.*: its weights are broken'):
        extract(model, gallery, **small)


def test_broken_image_in_a_worker_gives_one_line(gallery):
    with open(gallery[3].path, 'wb') as file:
        file.write(b'no image')
    with pytest.raises(InputError, match=f'^{gallery[3].path}: cannot read this image [^\n]*$'):
        extract(Corner(), gallery, workers=1)


def test_save_and_load(gallery, tmp_path):
    for records in (gallery, [r._replace(camera=None) for r in gallery]):
        features = extract(Corner(), records, workers=0)
        features.save(tmp_path / 'features.safetensors')
        loaded = Features.load(tmp_path / 'features.safetensors')
        assert torch.equal(loaded.embeddings, features.embeddings)
        assert loaded.identities == features.identities
        assert loaded.paths == features.paths
        if features.cameras is None:
            assert loaded.cameras is None
        else:
            assert loaded.cameras == features.cameras


def test_clothes_and_boxes_are_kept(market, tmp_path):
    records = create_dataset('market1501', str(market)).gallery[:3]
    boxes = [None, (0, 0, 10, 20), (2, 3, 24, 48)]
    records = [r._replace(clothes=c, box=box) for c, r, box in zip('red', records, boxes, strict=True)]
    features = extract(Corner(), records, workers=0)
    features.save(tmp_path / 'f.safetensors')
    for found in (features, Features.load(tmp_path / 'f.safetensors')):
        assert found.clothes == ('r', 'e', 'd')
        assert found.boxes.tolist() == [[0, 0, 0, 0], [0, 0, 10, 20], [2, 3, 24, 48]]
    part = features.subset(torch.tensor([2, 0]))
    assert part.paths == (records[2].path, records[0].path)
    assert part.clothes == ('d', 'r')
    assert torch.equal(part.embeddings, features.embeddings[[2, 0]])
    assert extract(Corner(), [records[0]._replace(clothes=None)], workers=0).clothes is None


def test_files_that_are_no_features(gallery, tmp_path):
    (tmp_path / 'text.safetensors').write_text('nothing')
    save_file({'weight': torch.zeros(1)}, tmp_path / 'weights.safetensors')
    for name in ('text', 'weights', 'missing'):
        with pytest.raises(InputError, match=f'{name}.safetensors: not a features file'):
            Features.load(tmp_path / f'{name}.safetensors')
    with pytest.raises(InputError, match='cannot write features'):
        extract(Corner(), gallery, workers=0).save(tmp_path / 'nowhere' / 'features.safetensors')


def test_files_of_numbers_are_read_as_names(tmp_path):
    """As older versions wrote them: labels are tensors, domains a list."""
    labels = {'identities': torch.tensor([7, 0, 7]), 'cameras': torch.tensor([1, 2, 3])}
    texts = {'paths': json.dumps(['a', 'b', 'c']), 'domains': json.dumps(['day', 'day', 'night'])}
    save_file({'embeddings': torch.ones(3, 2), **labels}, tmp_path / 'old.safetensors', texts)
    found = Features.load(tmp_path / 'old.safetensors')
    assert (found.identities, found.cameras, found.clothes) == (('7', '0', '7'), ('1', '2', '3'), None)
    assert (found.paths, found.domains) == (('a', 'b', 'c'), ('day', 'day', 'night'))
    found.save(tmp_path / 'new.safetensors')
    again = Features.load(tmp_path / 'new.safetensors')
    assert (again.identities, again.cameras, again.domains) == (found.identities, found.cameras, found.domains)


def test_evaluate_removes_the_same_camera_where_cameras_are_known(market):
    dataset = create_dataset('market1501', str(market))
    evaluation = evaluate(Corner(), dataset, workers=0)
    assert evaluation.ranking.mAP == 1
    assert (len(evaluation.query), len(evaluation.gallery)) == (3, 10)
    assert evaluation.images_per_second > 0
    # one camera each: with cameras nothing is left to find, without all is
    same = [r._replace(camera='1') for r in dataset.gallery]
    with pytest.raises(InputError, match='no query has a match'):
        evaluate(Corner(), replace(dataset, gallery=tuple(same)), workers=0)
    unknown = {part: tuple(r._replace(camera=None) for r in getattr(dataset, part)) for part in ('query', 'gallery')}
    assert evaluate(Corner(), replace(dataset, **unknown), workers=0).ranking.mAP == 1


@pytest.mark.parametrize('workers', [0, 1])
def test_cache_changes_no_embedding(market, model, tmp_path, workers):
    dataset = create_dataset('market1501', str(market))
    config = reid_data_config(model, 64, 32)
    plain = evaluate(model, dataset, data_config=config, workers=0)
    for place in ('memory', str(tmp_path / 'cache')):
        cached = evaluate(model, dataset, data_config=config, workers=workers, cache=ImageCache(place, workers))
        assert torch.equal(cached.query.embeddings, plain.query.embeddings)
        assert torch.equal(cached.gallery.embeddings, plain.gallery.embeddings)
    assert len(list((tmp_path / 'cache').glob('64x32-*.cache'))) == 2


def test_transform_and_cache_exclude_each_other(gallery, small):
    with pytest.raises(InputError, match='leave out the transform, or the cache and the file'):
        extract(Corner(), gallery, cache=ImageCache('memory'), **small)


@pytest.mark.parametrize('options', [{}, {'part': 'local', 'flip': True}, {'neck': True}])
def test_msinet_without_norms(gallery, options):
    """Extraction folds an MSINet's norms, which changes neither the embeddings nor the model."""
    torch.manual_seed(0)
    model = timm.create_model('msinet_x0_25', num_classes=3)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
    found = extract(model, gallery, data_config=reid_data_config(model, 64, 32), workers=0, **options)
    assert model.training and isinstance(model.stem.bn, nn.BatchNorm2d)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in inference_form(model).modules())
    transform = create_transform(**reid_data_config(model, 64, 32))
    images = torch.stack([transform(load_image(record.path)) for record in gallery])
    with torch.no_grad():
        expected = nn.functional.normalize(embed(model.eval(), images, **options))
    torch.testing.assert_close(found.embeddings, expected, rtol=0, atol=1e-5)
