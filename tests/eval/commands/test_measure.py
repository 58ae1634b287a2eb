"""Options of `msinet-eval`: each changes what is measured, and by how much it should."""

import csv
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import msinet_timm  # noqa: F401 - registers the models
from msinet_eval import cli
from msinet_eval.breakdown import by_camera_pair, by_domain
from msinet_eval.cli import main
from msinet_eval.commands.compare import compare
from msinet_eval.commands.outputs import Outputs, describe, write_outputs
from msinet_eval.evaluation import measure
from msinet_eval.features.extract import extract, reid_data_config
from msinet_eval.features.forward import embed
from msinet_eval.features.refine import augment_database, average_tracklets, expand_queries, subtract_camera_means
from msinet_eval.features.types import Embedded, Features
from msinet_eval.metrics.bootstrap import bootstrap
from msinet_eval.metrics.ranking import evaluate_distances
from msinet_eval.metrics.rerank import k_reciprocal
from msinet_eval.metrics.verification import evaluate_verification
from msinet_eval.protocol import parse_protocol
from msinet_timm.datasets import Protocol, create_dataset
from msinet_timm.errors import InputError


@pytest.fixture(scope='module')
def msinet():
    torch.manual_seed(0)
    model = timm.create_model('msinet_x0_25', num_classes=0)
    for name, buffer in model.named_buffers():  # necks that change something
        if 'neck' in name and 'running_mean' in name:
            buffer.normal_()
    return model.eval()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """People of six colours that are hard to tell apart, as features and as a table with tracklets and clothes."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp('options')
    lines = ['path,identity,split,camera,clothes,tracklet,domain']
    for number in range(60):
        identity, camera = number % 6, number // 6 % 3
        color = 90 + 15 * identity + rng.normal(0, 40, 3)
        name = f'{number}.png'
        noise = rng.normal(0, 25, (32, 16, 3))
        Image.fromarray((color + noise).clip(0, 255).astype(np.uint8)).save(root / name)
        split = 'query' if number < 18 else 'gallery'
        lines.append(f'{name},{identity},{split},{camera},{number // 9 % 2},{identity * 2 + number // 30},d{camera}')
    (root / 'table.csv').write_text('\n'.join(lines) + '\n')
    data = ['-ds', 'table', '--data-dir', str(root / 'table.csv'), '--workers', '0']
    assert main(['color_histogram_stripes', *data, '--features', str(root)]) == 0
    return root


@pytest.fixture
def run(folder, tmp_path, capsys):
    """Measures the features of the folder; gives the metrics as JSON."""

    def call(*flags):
        files = [str(folder / f'{part}.safetensors') for part in ('query', 'gallery')]
        capsys.readouterr()
        code = main(['--embeddings', *files, '--json', str(tmp_path / 'metrics.json'), *map(str, flags)])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads((tmp_path / 'metrics.json').read_text()) | {'out': out}

    return call


@pytest.fixture
def embedded(folder):
    return Embedded(*[Features.load(folder / f'{part}.safetensors') for part in ('query', 'gallery')])


def same(metrics, ranking):
    assert metrics['mAP'] == pytest.approx(ranking.mAP, abs=1e-9)
    assert metrics['cmc'] == pytest.approx(ranking.cmc.tolist())


def test_flip_is_the_mean_before_the_norm(msinet):
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        expected = (msinet(images) + msinet(images.flip(3))) / 2
        assert torch.equal(embed(msinet, images, flip=True), expected)
        assert not torch.allclose(msinet(images), expected)


def test_parts_and_necks(msinet):
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        branches = msinet.forward_branches(images, neck_features=True)
        whole = embed(msinet, images)
        assert torch.equal(embed(msinet, images, part='global'), branches.global_feature)
        assert torch.equal(embed(msinet, images, part='local'), branches.local_feature)
        assert torch.equal(torch.cat([embed(msinet, images, part=part) for part in ('global', 'local')], 1), whole)
        neck = embed(msinet, images, neck=True)
        assert torch.equal(neck, branches.neck_features) and not torch.allclose(neck, whole)
        width = branches.global_feature.shape[1]
        assert torch.equal(embed(msinet, images, part='local', neck=True), neck[:, width:])


def test_models_without_branches_say_so():
    model = timm.create_model('test_resnet', num_classes=0)
    for options in ({'part': 'global'}, {'neck': True}):
        with pytest.raises(InputError, match='ResNet has no branches and necks .* leave out --part and --neck'):
            embed(model, torch.zeros(1, 3, 64, 64), **options)
    with pytest.raises(InputError, match="part 'upper' of the embedding must be one of all, global, local"):
        embed(model, torch.zeros(1, 3, 64, 64), part='upper')


@pytest.mark.parametrize('amp', ['bf16', 'bfloat16', 'float16'])
def test_half_precision_is_near_and_float32(market, msinet, amp):
    records = create_dataset('market1501', str(market)).gallery[:3]
    options = {'data_config': reid_data_config(msinet, 64, 32), 'workers': 0}
    full, half = (extract(msinet, records, amp=kind, **options).embeddings for kind in (None, amp))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, rtol=0, atol=0.02)
    with pytest.raises(InputError, match="amp 'int8' must be one of bf16, float16, or None"):
        extract(msinet, records, amp='int8', **options)


def test_flags_of_the_model_reach_it(market, msinet, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save(msinet.state_dict(), weights)
    records = create_dataset('market1501', str(market)).query
    flags = ['-ds', 'market1501', '--data-dir', str(market), '--workers', '0', '--height', '64', '--width', '32']
    chosen = ['--flip', '--part', 'local', '--neck', '--amp', '--amp-dtype', 'bfloat16']
    assert main([str(weights), '--model', 'msinet_x0_25', *flags, *chosen, '--features', str(tmp_path)]) == 0
    expected = extract(
        msinet,
        records,
        data_config=reid_data_config(msinet, 64, 32),
        workers=0,
        flip=True,
        part='local',
        neck=True,
        amp='bf16',
    )
    assert torch.equal(Features.load(tmp_path / 'query.safetensors').embeddings, expected.embeddings)


def test_refinements(run, embedded):
    query, gallery, _ = embedded
    plain = run()
    same(plain, measure(embedded, Protocol()).ranking)
    pairs = {
        ('--camera-mean',): subtract_camera_means(query, gallery),
        ('--query-expansion', 3): (expand_queries(query, gallery, 3), gallery),
        ('--database-augmentation', 2): (query, augment_database(gallery, 2)),
    }
    for flags, pair in pairs.items():
        metrics = run(*flags)
        same(metrics, measure(Embedded(*pair), Protocol()).ranking)
        assert metrics['mAP'] != plain['mAP']
        assert metrics['test_time'][flags[0][2:].replace('-', '_')] == (flags[1] if len(flags) > 1 else True)
    both = run('--camera-mean', '--query-expansion', 3)
    centred = subtract_camera_means(query, gallery)
    same(both, measure(Embedded(expand_queries(*centred, 3), centred[1]), Protocol()).ranking)


def test_multi_shot_ranks_tracklets(run, embedded):
    metrics = run('--multi-shot')
    series = [set(zip(f.tracklets, f.cameras, strict=True)) for f in embedded[:2]]
    assert metrics['images'] == {'query': len(series[0]), 'gallery': len(series[1])}
    assert len(series[1]) < len(embedded.gallery)
    same(metrics, measure(Embedded(*map(average_tracklets, embedded[:2])), Protocol()).ranking)


def test_reranking(run, embedded):
    query, gallery, _ = embedded
    for flags, values in (
        ([], (20, 6, 0.3)),
        (['--k1', 5, '--k2', 2, '--lambda-value', 0.5], (5, 2, 0.5)),
    ):
        distances = k_reciprocal(query.embeddings, gallery.embeddings, *values)
        expected = evaluate_distances(distances, query.labels(), gallery.labels())
        metrics = run('--rerank', *flags)
        same(metrics, expected)
        assert metrics['rerank'] == dict(zip(('k1', 'k2', 'lambda_value'), values, strict=True))
    assert metrics['mAP'] != run()['mAP']


def test_protocols(run, embedded):
    query, gallery, _ = embedded
    found = {}
    for rules, protocol in {
        ('standard',): Protocol(),
        ('clothes-changing',): Protocol(same_clothes_removed=True),
        ('all-cameras',): Protocol(same_camera_removed=False),
        ('draws=4',): Protocol(draws=4),
        ('clothes-changing', 'draws=2'): Protocol(same_clothes_removed=True, draws=2),
    }.items():
        assert parse_protocol(rules) == protocol
        metrics = run('--protocol', *rules)
        same(metrics, measure(embedded, protocol).ranking)
        assert f'forced protocol: {", ".join(rules)}' in metrics['out']
        found[rules] = metrics
    assert len({metrics['mAP'] for metrics in found.values()}) == 5
    assert found['all-cameras',]['same_camera_removed'] is False
    by_hand = measure(
        Embedded(*[Features(f.embeddings, f.identities, None, f.paths) for f in (query, gallery)]), Protocol()
    )
    same(found['all-cameras',], by_hand.ranking)
    for rules in (['standard', 'draws=2'], ['draws=0'], ['nothing']):
        with pytest.raises(InputError, match='give standard alone, or some of clothes-changing'):
            parse_protocol(rules)


def test_intervals_thresholds_and_ranks(run, embedded):
    query, gallery, _ = embedded
    metrics = run('--ranks', 1, 20, '--thresholds')
    ranking = measure(embedded, Protocol()).ranking
    expected = bootstrap(ranking, query.identities, ranks=[1, 20])
    assert metrics['intervals'] == {name: pytest.approx(list(ends)) for name, ends in expected.items()}
    header, row, interval, *_ = metrics['out'].splitlines()
    assert header.split() == ['mAP', 'Rank-1', 'Rank-20', 'mINP']
    assert f'{100 * ranking.cmc[19]:.1f}' in row
    low, high = expected['mAP']
    assert f'{100 * low:.1f}-{100 * high:.1f}' in interval
    v = evaluate_verification(query.embeddings, gallery.embeddings, query.labels(), gallery.labels())
    assert metrics['verification']['auc'] == v.auc
    assert f'AUC {100 * v.auc:.2f} %, EER {100 * v.eer:.1f} % at distance {v.eer_threshold:.4f}' in metrics['out']
    assert f'TPR {100 * v.at(0.01).true_positive_rate:.1f} % at FPR 1 %' in metrics['out']
    without = run('--no-intervals')
    assert without['intervals'] is None and '95 %' not in without['out'] and 'AUC' not in without['out']


def test_breakdown(run, embedded):
    metrics = run('--breakdown')
    pairs, domains = by_camera_pair(*embedded[:2]), by_domain(*embedded[:2])
    found = metrics['breakdowns']
    assert found['camera']['rows'] == ['0', '1', '2'] and found['domain']['columns'] == ['d0', 'd1', 'd2', 'all']
    assert found['camera']['mAP'][0][0] is None and found['camera']['mAP'][0][1] == pairs.mAP[0, 1]
    assert found['domain']['mAP'][2][3] == domains.mAP[2, 3]
    line = next(line.split() for line in metrics['out'].splitlines() if line.startswith('d2 '))
    assert line == ['d2', *(f'{100 * v:.1f}' if v == v else '-' for v in domains.mAP[2])]
    assert run()['breakdowns'] == {}


def test_html_report(run, tmp_path):
    pytest.importorskip('matplotlib')
    run('--html', tmp_path / 'report.html', '--png', '--rerank', '--k1', 5, '--k2', 2)
    page = (tmp_path / 'report.html').read_text()
    assert 'before re-ranking' in page
    assert (tmp_path / 'report.html').stat().st_size < 5e6
    assert {file.name for file in tmp_path.glob('report_*.png')} >= {'report_cmc.png', 'report_distances.png'}


def test_summary_grows_and_keeps_its_columns(run, tmp_path, capsys):
    path = tmp_path / 'new' / 'summary.csv'
    first = run('--summary', path)
    run('--summary', path, '--query-expansion', 2)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row['options'] for row in rows] == ['', 'query_expansion=2']
    assert float(rows[0]['mAP']) == pytest.approx(100 * first['mAP'], abs=0.006)
    assert (rows[0]['queries'], rows[0]['skipped'], rows[0]['dataset']) == ('18', '0', 'embeddings')
    flags = ['--embeddings', 'a.npy', 'b.npy', '--summary', str(path), '--ranks', '1']
    assert main(flags) == 2
    assert 'summary.csv: has the columns time, model, dataset, ' in capsys.readouterr().err
    assert len(path.read_text().splitlines()) == 3


def test_several_models_and_data_sets(market, folder, tmp_path, capsys):
    models = ['color_histogram', 'color_histogram_stripes']
    data = ['-ds', 'market1501', 'table', '--data-dir', str(market), str(folder / 'table.csv'), '--workers', '0']
    files = ['--json', str(tmp_path / 'f.json')]
    assert main([*models, *data, '--no-intervals', *files, '--features', str(tmp_path / 'f')]) == 0
    names = [f'{model} on {dataset}' for model in models for dataset in ('market1501', 'table')]
    lines = capsys.readouterr().out.splitlines()
    assert [line[: len(name)] for line, name in zip(lines[1:5], names, strict=True)] == names
    metrics = json.loads((tmp_path / 'f.json').read_text())
    assert [f['model'] for f in metrics] == [models[0], models[0], models[1], models[1]]
    assert [f['dataset'] for f in metrics] == ['market1501', 'table'] * 2
    single = tmp_path / 's.json'
    assert main([models[1], '-ds', 'table', '--data-dir', data[-3], '--workers', '0', '--json', str(single)]) == 0
    assert json.loads(single.read_text())['mAP'] == metrics[3]['mAP']
    assert len(Features.load(tmp_path / 'f' / 'color_histogram-on-table' / 'query.safetensors')) == 18
    assert main([*models, '-ds', 'market1501', 'table', 'sample', '--data-dir', 'a', 'b']) == 2
    assert '--data-dir: 2 folders for 3 data sets: give one for all, or one for each' in capsys.readouterr().err


def test_options_go_to_the_data_sets_that_have_them(market, folder, tmp_path, capsys):
    base = ['color_histogram', '-ds', 'market1501', 'table', '--workers', '0']
    base += ['--data-dir', str(market), str(folder / 'table.csv')]
    lists = ['--ranked-lists', str(tmp_path / 'lists.png')]
    assert main([*base, '--data-option', 'protocol=clothes-changing', *lists]) == 0
    names = [f'lists-color_histogram-on-{name}.png' for name in ('market1501', 'table')]
    assert sorted(p.name for p in tmp_path.glob('*.png')) == names
    out = capsys.readouterr().out
    assert 'color_histogram on table protocol=' not in out and 'clothes-changing protocol' in out
    assert main([*base, '--data-option', 'size=800']) == 2
    assert "--data-option: unknown option 'size': none of market1501, table has it" in capsys.readouterr().err


def test_all_choices_of_an_option(tmp_path, capsys):
    root = tmp_path / 'VehicleID'
    (root / 'image').mkdir(parents=True)
    (root / 'train_test_split').mkdir()
    for number in range(12):
        Image.new('RGB', (8, 8), (20 * number, 90, 200 - 10 * number)).save(root / 'image' / f'{number}.jpg')
    for name, count in (('train_list', 12), ('test_list_800', 4), ('test_list_1600', 8), ('test_list_2400', 12)):
        lines = [f'{number} {number // 2}' for number in range(count)]
        (root / 'train_test_split' / f'{name}.txt').write_text('\n'.join(lines) + '\n')
    json_file = tmp_path / 'f.json'
    data = ['-ds', 'vehicleid', '--data-dir', str(root), '--workers', '0', '--json', str(json_file)]
    assert main(['color_histogram', *data, '--data-option', 'size=all']) == 0
    metrics = json.loads(json_file.read_text())
    assert [f['data_options']['size'] for f in metrics] == ['800', '1600', '2400']
    assert [f['images'] for f in metrics] == [{'query': n, 'gallery': n} for n in (2, 4, 6)]
    assert all(len(f['draws']) == 10 for f in metrics)
    assert 'color_histogram on vehicleid size=1600' in capsys.readouterr().out
    assert main([str(tmp_path), *data, '--data-option', 'size=all', '--calibrate']) == 2
    assert '--calibrate needs one data set: choose one of vehicleid size=800, ' in capsys.readouterr().err


def test_identities_that_are_not_in_the_gallery(market, capsys, tmp_path):
    for path in (market / 'bounding_box_test').glob('0002_*'):
        path.unlink()
    data = ['-ds', 'market1501', '--data-dir', str(market), '--workers', '0']
    assert main(['color_histogram', *data, '--json', str(tmp_path / 'f.json')]) == 0
    said = '1 of 3 query identities are not in the gallery (2): 1 queries skipped'
    assert said in capsys.readouterr().out
    assert json.loads((tmp_path / 'f.json').read_text())['remarks'] == [said]
    for path in (market / 'bounding_box_test').glob('0001_c[23]*'):
        path.unlink()
    assert main(['color_histogram', *data]) == 0
    assert '1 queries skipped: all their matches are removed by the protocol' in capsys.readouterr().out
    for path in (market / 'bounding_box_test').glob('0003_*'):
        path.unlink()
    assert main(['color_histogram', *data]) == 2
    assert 'error: no query has a match in the gallery' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--ranks', '99'], '--ranks 99: the gallery of color_histogram on market1501 has only 10 images'),
        (['--rerank'], 'k1 is 20, but the gallery has only 10 images'),
        (['--query-expansion', '11'], 'gallery'),
        (['--k1', '5'], '--k1 is a setting of --rerank: give that, too'),
        (['--labels', 'x.csv'], '--labels tell who --embeddings are of'),
        (['--multi-shot'], 'tracklets of these images are not known'),
        (['--part', 'global'], 'ColorHistogram has no branches and necks'),
        (['--png'], 'give --html FILE, too'),
        (['--html', 'report.txt'], 'report.txt: the file name must end in .html'),
        (['--breakdown', '--protocol', 'all-cameras'], '--breakdown: neither cameras nor domains of color_histogram'),
        (['--calibrate'], "but 'color_histogram' is no folder and no file"),
        (['--protocol', 'clothes-changing'], 'needs the clothes of all images'),
        (['--protocol', 'nonsense'], '--protocol nonsense: give standard alone'),
    ],
)
def test_bad_input_is_one_line(market, capsys, flags, message):
    assert main(['color_histogram', '-ds', 'market1501', '--data-dir', str(market), '--workers', '0', *flags]) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and message in errors[0]
    assert out == ''


def test_calibration_is_kept_beside_the_model(msinet, tmp_path, capsys):
    from timm.models import save_for_hf

    from msinet_timm.hub.calibration import find_calibration

    save_for_hf(msinet, tmp_path / 'run' / 'best', safe_serialization=True)
    small = ['--height', '64', '--width', '32', '--workers', '0']
    argv = [str(tmp_path / 'run'), '-ds', 'sample', *small, '--calibrate']
    assert main(argv) == 0
    calibration = find_calibration(str(tmp_path / 'run'))
    assert f'threshold {calibration.threshold:.4f}: {tmp_path / "run" / "best"}' in capsys.readouterr().out
    assert calibration.dataset == 'sample' and calibration.false_positive_rate <= 1e-3
    assert main([*argv, '--flip']) == 2
    assert '--calibrate is for plain embeddings' in capsys.readouterr().err


def points(identities, gallery_identities, **about):
    """A result on a line, without cameras."""
    query, gallery = (
        Features(torch.arange(len(names), dtype=torch.float32)[:, None], names, None, ('',) * len(names))
        for names in (identities, gallery_identities)
    )
    return measure(Embedded(query, gallery), name='points', **about)


def test_what_cannot_be_told_shows_before_the_table(capsys):
    result = points(('a', 'b'), ('b', 'a'))
    for results, message in (
        ([result], "calibrate writes beside a model's weights: points was not read from a folder"),
        ([result, result], 'calibrate needs one model and one data set: these are 2 results'),
    ):
        with pytest.raises(InputError, match=message):
            write_outputs(results, Outputs(calibrate=True))
    with pytest.raises(InputError, match='no pair of query and gallery is of different identities'):
        write_outputs([points(('a',), ('a', 'a'))], Outputs(thresholds=True))
    assert capsys.readouterr().out == ''


def test_json_knows_no_nan(tmp_path):
    one = points(('a',), ('a', 'b'))
    assert any(np.isnan(one.intervals['mAP']))
    told = describe(one, Outputs(thresholds=True))
    assert told['intervals']['mAP'] == [None, None] and json.dumps(told, allow_nan=False)
    compare(one, one).save(tmp_path / 'c.json')
    json.loads((tmp_path / 'c.json').read_text(), parse_constant=pytest.fail)


def test_other_commands_are_called_by_the_first_word(monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        main(['compare', '--help'])
    assert caught.value.code == 0
    assert 'usage: msinet-eval compare' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(['--help'])
    text = ' '.join(capsys.readouterr().out.split())
    assert 'rectangular' in text
    assert all(f'msinet-eval {word}' in text for word in cli.COMMANDS)
