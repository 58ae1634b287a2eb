"""Protocols: drawn galleries, clothes that do not count, and what reports say of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from msinet_eval import protocol
from msinet_eval.cli import main
from msinet_eval.evaluation import evaluate
from msinet_eval.metrics.ranking import evaluate_ranking
from msinet_eval.protocol import draw_gallery, rank
from msinet_eval.report import ranked_lists
from msinet_timm.datasets import Protocol, Record, ReIDDataset
from msinet_timm.errors import InputError


class Mean(nn.Module):
    """The mean colour, which is all that tells the images of these tests apart."""

    pretrained_cfg = {'input_size': (3, 8, 4), 'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0)}

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture
def vehicles(tmp_path):
    """VehicleID in small: 6 vehicles with 1 to 6 images, each of a colour that is a guess at the vehicle."""
    rng = np.random.default_rng(0)
    root, lines = tmp_path / 'VehicleID', []
    (root / 'image').mkdir(parents=True)
    for vehicle in range(1, 7):
        color = rng.integers(60, 200, 3)
        for _ in range(vehicle):
            name = f'{len(lines):07d}'
            shade = (color + rng.normal(0, 45, 3)).clip(0, 255).astype(np.uint8)
            Image.new('RGB', (8, 16), tuple(map(int, shade))).save(root / 'image' / f'{name}.jpg', quality=95)
            lines.append(f'{name} {vehicle}')
    for name in ('train_list', 'test_list_800'):
        (root / 'train_test_split').mkdir(exist_ok=True)
        (root / 'train_test_split' / f'{name}.txt').write_text('\n'.join(lines) + '\n')
    return root


def read(root):
    from msinet_timm.datasets import create_dataset

    return create_dataset('vehicleid', str(root))


def test_ten_draws_over_features_extracted_once(vehicles, monkeypatch):
    calls = []

    def spy(model, records, **options):
        calls.append(len(records))
        return real(model, records, **options)

    real = protocol.extract
    monkeypatch.setattr(protocol, 'extract', spy)
    evaluation = evaluate(Mean(), read(vehicles), workers=0)
    assert calls == [21]
    assert len(evaluation.ranking.draws) == 10

    features = real(Mean(), read(vehicles).gallery, workers=0)
    metrics = []
    for seed in range(10):
        # by hand: the first image of each vehicle in a random order
        chosen = {}
        for index in np.random.default_rng(seed).permutation(21):
            chosen.setdefault(features.identities[index], int(index))
        drawn = sorted(chosen.values())
        rest = [i for i in range(21) if i not in drawn]
        assert len(rest) == 15
        metrics.append(
            evaluate_ranking(
                features.embeddings[rest],
                features.embeddings[drawn],
                *(features.subset(torch.tensor(part)).labels() for part in (rest, drawn)),
            )
        )
    assert [d.mAP for d in evaluation.ranking.draws] == [f.mAP for f in metrics]
    assert evaluation.ranking.mAP == pytest.approx(np.mean([f.mAP for f in metrics]))
    assert evaluation.ranking.cmc[0] == pytest.approx(np.mean([f.cmc[0] for f in metrics]))
    assert len({f.mAP for f in metrics}) > 5
    # what is kept is the first draw, so that ranked lists fit
    assert rank(evaluation.query, evaluation.gallery).mAP == metrics[0].mAP
    np.testing.assert_array_equal(evaluation.ranking.average_precision, metrics[0].average_precision)


def test_fixed_queries_keep_asking(vehicles):
    dataset = read(vehicles)
    query, gallery = dataset.gallery[10:12], dataset.gallery
    evaluation = evaluate(Mean(), replace(dataset, query=query, protocol=Protocol(draws=3)), workers=0)
    assert evaluation.query.paths == tuple(r.path for r in query)
    assert len(evaluation.gallery) == 6
    assert len(evaluation.ranking.draws) == 3
    assert {len(d.average_precision) for d in evaluation.ranking.draws} == {2}
    drawn = [draw_gallery(evaluation.query, extracted(gallery), seed)[1].paths for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def extracted(records):
    return protocol.extract(Mean(), records, workers=0)


def test_clothes_are_left_out_where_the_protocol_says_so(tmp_path):
    paths = [str(tmp_path / f'{n}.png') for n in range(4)]
    for path, color in zip(paths, [(200, 0, 0), (190, 10, 0), (150, 60, 0), (90, 90, 0)], strict=True):
        Image.new('RGB', (4, 8), color).save(path)
    query = (Record(paths[0], '1', '1', clothes='1'),)
    # nearest first: the same clothes, another identity, other clothes
    gallery = tuple(
        Record(path, identity, '2', clothes=clothes)
        for path, identity, clothes in zip(paths[1:], '121', '112', strict=True)
    )
    dataset = ReIDDataset('set', '/', (), query, gallery)
    assert evaluate(Mean(), dataset, workers=0).ranking.mAP == pytest.approx((1 + 2 / 3) / 2)
    changing = replace(dataset, protocol=Protocol(same_clothes_removed=True))
    assert evaluate(Mean(), changing, workers=0).ranking.mAP == pytest.approx(1 / 2)


def test_data_set_to_train_on_only():
    with pytest.raises(InputError, match="data set 'set' has no query and gallery: it is for training only"):
        evaluate(Mean(), ReIDDataset('set', '/', (Record('x.jpg', '1'),), (), ()))


def test_reports_of_drawn_galleries(vehicles, tmp_path, capsys, monkeypatch):
    titles = []
    monkeypatch.setattr(ranked_lists, '_draw_header', lambda draw, layout, title, width: titles.append(title))
    files = {flag: tmp_path / name for flag, name in (('--json', 'f.json'), ('--ranked-lists', 'l.png'))}
    flags = [text for flag, file in files.items() for text in (flag, str(file))]
    argv = ['color_histogram', '-ds', 'vehicleid', '--data-dir', str(vehicles), '--workers', '0']
    assert main([*argv, '--data-option', 'size=800', *flags, '--features', str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].count('±') == 5
    remarks = [
        'TRAIN AND TEST SHARE IDENTITIES: 6 of 6 query identities have training images, too (msinet-data check names '
        'them): a model that learns from these is measured on what it has seen',
        'test of 800 vehicles: mean of 10 draws of one gallery image for each',
        'no cameras known: images of the same camera count as matches',
    ]
    assert lines[2:] == [f'  {remark}' for remark in remarks]
    metrics = json.loads(files['--json'].read_text())
    assert metrics['data_options'] == {'size': '800'}
    assert metrics['remarks'] == remarks
    assert metrics['same_camera_removed'] is False
    assert len(metrics['draws']) == 10
    assert metrics['mAP'] == pytest.approx(np.mean([draw['mAP'] for draw in metrics['draws']]))
    for name in ('mAP', 'Rank-1', 'mINP'):
        assert metrics['spread'][name] == pytest.approx(np.std([draw[name] for draw in metrics['draws']], ddof=1))
    assert titles[0].endswith('; '.join(['', *remarks]))
    # what the model gave, before any draw
    assert len(protocol.Features.load(tmp_path / 'gallery.safetensors')) == 21
    assert not (tmp_path / 'query.safetensors').exists()


def test_reports_without_draws_have_no_spread(market, tmp_path, capsys):
    argv = ['color_histogram', '-ds', 'market1501', '--data-dir', str(market), '--workers', '0']
    assert main([*argv, '--json', str(tmp_path / 'f.json')]) == 0
    metrics = json.loads((tmp_path / 'f.json').read_text())
    assert (metrics['draws'], metrics['spread'], metrics['remarks']) == ([], None, [])
    assert '±' not in capsys.readouterr().out


def test_options_of_the_data_set_reach_its_reader(market, capsys):
    argv = ['color_histogram', '-ds', 'market1501', '--data-dir', str(market), '--workers', '0', '--data-option']
    assert main([*argv, 'distractors_500k=true']) == 2
    assert 'has no distractors' in capsys.readouterr().err
    assert main([*argv, 'distractors_500k=true', '--data-option', 'distractors_500k=false']) == 0
    with pytest.raises(SystemExit):
        main([*argv, 'distractors'])
    assert "argument --data-option: expected KEY=VALUE, got 'distractors'" in capsys.readouterr().err


def test_a_model_is_fused_once(vehicles, tmp_path, monkeypatch):
    """For query and gallery together, and not at all where features are there already."""
    fused = []
    monkeypatch.setattr(protocol, 'inference_form', lambda model: fused.append(model) or model)
    dataset = read(vehicles)
    dataset = replace(dataset, query=dataset.gallery[:3])
    model = Mean()
    first = protocol.embed_dataset(model, dataset, folder=tmp_path, workers=0)
    assert fused == [model] and len(first.query) == 3
    again = protocol.embed_dataset(model, dataset, folder=tmp_path, workers=0)
    assert len(fused) == 1 and (again.query.embeddings == first.query.embeddings).all()
