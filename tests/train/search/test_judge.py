import copy
import itertools
from random import Random

import pytest
import torch

from msinet_eval.features.types import Features
from msinet_eval.protocol import rank
from msinet_timm.datasets import Record
from msinet_timm.datasets.cache import ImageCache
from msinet_timm.errors import InputError
from msinet_timm.models.supernet import MSISuperNet
from msinet_train.search.judge import Judge, held_out
from msinet_train.search.paths import fair_turns


def test_held_out_images_ask_and_are_found_by_turns():
    records = [Record(f'{i}_{k}.jpg', i, str(k % 2)) for k in range(4) for i in 'abc'] + [Record('d.jpg', 'd', '0')]
    dataset = held_out(records, identities=2)
    assert [r.path for r in dataset.query] == ['a_0.jpg', 'a_2.jpg', 'b_0.jpg', 'b_2.jpg']
    assert [r.path for r in dataset.gallery] == ['a_1.jpg', 'a_3.jpg', 'b_1.jpg', 'b_3.jpg']


@pytest.mark.parametrize('cameras, message', [('01', 'no identity there has two'), ('000', 'different camera')])
def test_nothing_to_rank(cameras, message):
    alone = len(cameras) == 2
    records = [Record(f'{k}.jpg', str(k) if alone else 'a', camera) for k, camera in enumerate(cameras)]
    with pytest.raises(InputError, match=message):
        held_out(records)


@pytest.fixture
def dataset(market_to_search):
    from msinet_timm.datasets import create_dataset

    return held_out(create_dataset('market1501', market_to_search).train)


def test_a_genotype_is_judged_by_its_own_statistics(dataset):
    """As by hand: norms estimated anew from the batches, the path alone, one ranking."""
    torch.manual_seed(0)
    net = MSISuperNet(3, (8, 16, 24, 32)).train()
    config = {'input_size': (3, 64, 32), 'mean': (0.5,) * 3, 'std': (0.5,) * 3, 'interpolation': 'bilinear'}
    images = ImageCache('memory').images((*dataset.query, *dataset.gallery), config)
    norms = [torch.randn(4, 3, 64, 32) for _ in range(3)]
    judge = Judge(net, norms, dataset, images, batch_size=5)
    one, other = itertools.islice(fair_turns(Random(0)), 2)
    found = judge(one), judge(other), judge(one)
    assert found[0] == found[2] and net.path is None and net.training

    for genotype, value in zip((one, other), found, strict=False):
        alone = copy.deepcopy(net)
        alone.path = genotype
        for module in alone.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
                module.momentum = None
        with torch.no_grad():
            for batch in norms:
                alone(batch)
            alone.eval()
            raw, _ = next(iter(whole(images)))
            features = alone.forward_head(alone.forward_features(images.to_input(raw, torch.device('cpu'))), True)
        features = torch.nn.functional.normalize(features)
        asking = len(dataset.query)
        query = Features.of(dataset.query, features[:asking])
        assert rank(query, Features.of(dataset.gallery, features[asking:])).mAP == pytest.approx(value, abs=5e-3)
    assert abs(found[0] - found[1]) > 0.02, found


def whole(images):
    batches = [range(len(images))]
    return torch.utils.data.DataLoader(images, batch_sampler=batches, collate_fn=images.collate)


def test_a_network_that_has_broken_is_worth_nothing(dataset):
    net = MSISuperNet(3, (8, 16, 24, 32))
    torch.nn.init.constant_(net.stem.conv.weight, float('nan'))
    config = {'input_size': (3, 64, 32), 'mean': (0.5,) * 3, 'std': (0.5,) * 3, 'interpolation': 'bilinear'}
    images = ImageCache('memory').images((*dataset.query, *dataset.gallery), config)
    assert Judge(net, [torch.randn(4, 3, 64, 32)], dataset, images, 8)(next(fair_turns(Random(0)))) == 0
