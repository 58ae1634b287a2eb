import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import named

from msinet_eval.cli import main
from msinet_eval.commands.compare import compare
from msinet_eval.evaluation import measure
from msinet_eval.features.types import Embedded, Features
from msinet_eval.metrics.bootstrap import paired_bootstrap
from msinet_eval.protocol import rank
from msinet_timm.datasets import Protocol, create_dataset


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Features of the sample as a bad and as a better model would give them."""
    dataset, root = create_dataset('sample'), tmp_path_factory.mktemp('features')
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, 16, generator=generator)
    sides = {}
    for name, noise in (('bad', 1.5), ('good', 0.9)):
        (root / name).mkdir()
        sides[name] = []
        for part in ('query', 'gallery'):
            records = getattr(dataset, part)
            identities = tuple(r.identity for r in records)
            raw = centres[[int(i) for i in identities]] + noise * torch.randn(len(records), 16, generator=generator)
            features = Features(
                torch.nn.functional.normalize(raw, dim=1),
                identities,
                tuple(r.camera for r in records),
                tuple(r.path for r in records),
            )
            features.save(root / name / f'{part}.safetensors')
            sides[name].append(features)
    return root, sides


def run(capsys, *flags):
    assert main(['compare', *map(str, flags)]) == 0
    return capsys.readouterr().out


def test_a_better_model(folders, tmp_path, capsys):
    root, sides = folders
    out = run(capsys, root / 'bad', root / 'good', '--json', tmp_path / 'c.json', '--top', 3)
    a, b = (rank(*sides[name]) for name in ('bad', 'good'))
    difference = paired_bootstrap(a, b, sides['bad'][0].identities)['mAP']
    assert 0 < difference.low < b.mAP - a.mAP < difference.high
    row = re.search(r'mAP +([\d.]+) +([\d.]+) +([+\d.]+) +([+\d.]+) \.\.\. ([+\d.]+) +([\d.]+)', out)
    expected = [100 * v for v in (a.mAP, b.mAP, b.mAP - a.mAP, difference.low, difference.high)]
    assert [float(v) for v in row.groups()[:5]] == pytest.approx(expected, abs=0.051)
    assert float(row[6]) == pytest.approx(difference.p_value, abs=6e-4)
    assert 'B is better than A' in out and re.search(r'Rank-1 +\d', out)

    changes = np.abs(b.average_precision - a.average_precision)
    order = np.argsort(-changes, kind='stable')[:3]
    metrics = json.loads((tmp_path / 'c.json').read_text())
    assert [entry['path'] for entry in metrics['changed']] == [sides['bad'][0].paths[i] for i in order]
    assert [entry['b'] for entry in metrics['changed']] == pytest.approx(b.average_precision[order].tolist())
    assert out.rstrip().splitlines()[-3].endswith(sides['bad'][0].paths[order[0]])
    assert metrics['metrics']['mAP']['a'] == pytest.approx(a.mAP) and metrics['queries'] == a.num_valid
    assert metrics['metrics']['mAP']['low'] == pytest.approx(difference.low)


def test_the_other_way_round_and_the_same(folders, capsys):
    root, _ = folders
    assert 'A is better than B' in run(capsys, root / 'good', root / 'bad')
    out = run(capsys, root / 'good', root / 'good')
    assert 'no clear difference in mAP' in out and 'no query changed' in out
    few, many = (run(capsys, root / 'bad', root / 'good', '--samples', n) for n in (20, 1000))
    assert few != many


def test_page_shows_both_rankings(folders, tmp_path, capsys):
    root, sides = folders
    run(capsys, root / 'bad', root / 'good', '--html', tmp_path / 'c.html', '--top', 2)
    page = (tmp_path / 'c.html').read_text(encoding='utf-8')
    changed = compare(*[measure(Embedded(*side)) for side in sides.values()], count=2).changed
    assert 'B is better than A in mAP' in page and "default-src 'none'" in page
    assert page.count('class="list"') == 4 and page.count('<h3>') == 2
    precisions = [f'{side}: AP {100 * v:.1f} %' for c in changed for side, v in (('A', c.before), ('B', c.after))]
    assert re.findall(r'[AB]: AP [\d.]+ %', page) == precisions
    run(capsys, root / 'good', root / 'good', '--html', tmp_path / 'c.html')
    assert 'None changed.' in (tmp_path / 'c.html').read_text(encoding='utf-8')


def test_a_model_and_a_folder(folders, capsys):
    root, sides = folders
    out = run(capsys, 'color_histogram', root / 'good', '-ds', 'sample', '--workers', 0, '--batch-size', 50)
    assert f'{100 * rank(*sides["good"]).mAP:.1f}' in out and 'A  color_histogram\n' in out


def test_clothes_are_removed_where_the_data_set_asks(folders):
    _, sides = folders
    dressed = [
        [
            replace(query, clothes=named(int(i) % 2 for i in query.identities)),
            replace(gallery, clothes=named(i % 2 for i in range(len(gallery)))),
        ]
        for query, gallery in sides.values()
    ]
    kept, removed = (
        compare(*[measure(Embedded(*pair), Protocol(same_clothes_removed=flag)) for pair in dressed])
        for flag in (False, True)
    )
    mAP = removed.metrics['mAP'][0]
    assert mAP == rank(*dressed[0], same_clothes_removed=True).mAP != kept.metrics['mAP'][0]


def test_bad_input(folders, tmp_path, capsys):
    root, sides = folders

    def fail(*flags):
        assert main(['compare', *map(str, flags)]) == 2
        return capsys.readouterr().err

    assert 'give -ds to measure a model' in fail(root / 'bad', 'resnet18')
    query, gallery = sides['good']
    query.save(tmp_path / 'query.safetensors')
    assert 'B: ' in (error := fail(root / 'bad', tmp_path)) and 'only one of' in error
    gallery.subset(torch.arange(100)).save(tmp_path / 'gallery.safetensors')
    assert '360 gallery images' in fail(root / 'bad', tmp_path)
    gallery.subset(torch.arange(359, -1, -1)).save(tmp_path / 'gallery.safetensors')
    assert 'gallery image 0 is' in fail(root / 'bad', tmp_path)
    # images that were moved are still the same
    moved = replace(gallery, paths=tuple(f'/elsewhere/{path.rpartition("/")[2]}' for path in gallery.paths))
    moved.save(tmp_path / 'gallery.safetensors')
    assert main(['compare', str(root / 'bad'), str(tmp_path)]) == 0
    assert '--json: cannot create the folder /proc/no' in fail(root / 'bad', root / 'good', '--json', '/proc/no/c.json')
