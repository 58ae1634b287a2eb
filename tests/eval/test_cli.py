import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from msinet_eval import evaluation
from msinet_eval.cli import main
from msinet_eval.features.extract import reid_data_config
from msinet_eval.features.types import Features
from msinet_eval.protocol import embed_dataset, rank
from msinet_timm.export import export


@pytest.fixture
def run(market, capsys):
    """Runs the command on the small folder; gives exit code, standard output and standard error."""

    def call(model, *flags, dataset='market1501'):
        code = main([str(model), '-ds', dataset, '--data-dir', str(market), '--workers', '0', *map(str, flags)])
        return code, *capsys.readouterr()

    return call


def test_prints_one_table(run):
    code, out, _ = run('color_histogram')
    assert code == 0
    assert out.splitlines() == [
        '                                       mAP       Rank-1       Rank-5      Rank-10         mINP',
        'color_histogram on market1501        100.0        100.0        100.0        100.0        100.0',
        '  95 % interval                100.0-100.0  100.0-100.0  100.0-100.0  100.0-100.0  100.0-100.0',
    ]
    assert run('color_histogram', '--no-intervals')[1].splitlines() == [
        '                                 mAP  Rank-1  Rank-5  Rank-10   mINP',
        'color_histogram on market1501  100.0   100.0   100.0    100.0  100.0',
    ]


def test_network_from_checkpoint_to_all_outputs(run, tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model('test_resnet', num_classes=0).state_dict(), tmp_path / 'weights.safetensors')
    out = tmp_path / 'new' / 'folder'
    flags = ('--json', out / 'metrics.json', '--ranked-lists', out / 'lists.png', '--features', out / 'features')
    code, printed, _ = run(
        tmp_path / 'weights.safetensors', '--model', 'test_resnet', '--height', 64, '--width', 32, *flags
    )
    assert code == 0

    metrics = json.loads((out / 'metrics.json').read_text())
    assert metrics['model'] == 'test_resnet'
    assert metrics['checkpoint'] == str(tmp_path / 'weights.safetensors')
    assert metrics['dataset'] == 'market1501'
    assert metrics['images'] == {'query': 3, 'gallery': 10}
    assert metrics['identities'] == {'query': 3, 'gallery': 4}
    assert metrics['same_camera_removed'] is True
    assert metrics['queries_skipped'] == 0
    assert metrics['preprocessing']['input_size'] == [3, 64, 32]
    assert metrics['preprocessing']['crop_mode'] == 'squash'
    assert metrics['images_per_second'] > 0
    assert metrics['versions']['timm'] == timm.__version__

    query, gallery = (Features.load(out / 'features' / f'{part}.safetensors') for part in ('query', 'gallery'))
    result = rank(query, gallery)
    assert metrics['mAP'] == result.mAP
    assert metrics['mINP'] == result.mINP
    assert metrics['cmc'] == result.cmc.tolist()
    assert metrics['embedding_dim'] == query.embeddings.shape[1]
    assert f'{100 * result.mAP:.1f}' in printed
    with Image.open(out / 'lists.png') as image:
        assert image.width > 11 * 88


def test_input_size_and_batch_size_reach_the_model(run, tmp_path):
    shapes = []

    def record(model, args):
        if isinstance(model, timm.models.VisionTransformer):
            shapes.append(tuple(args[0].shape))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(record)
    try:
        assert run('test_vit4', '--height', 64, '--width', 32, '--batch-size', 4)[0] == 0
    finally:
        hook.remove()
    assert shapes == [(n, 3, 64, 32) for n in (1, 3, 4, 4, 2)]  # first a trial of the input size


def test_untrained_network_is_said_to_be_so(run, caplog):
    assert run('test_vit4', '--height', 64, '--width', 32)[0] == 0
    assert 'UNTRAINED' in caplog.text


def test_registers_the_models_of_this_package(run):
    code, _, err = run('msinet_x1_O')
    assert code == 2
    assert 'did you mean' in err
    assert 'msinet_x1_0' in err


def test_flags_reach_the_evaluation(run, monkeypatch):
    given = {}

    def spy(model, dataset, **options):
        given.update(options)
        return embed_dataset(model, dataset, **options)

    monkeypatch.setattr(evaluation, 'embed_dataset', spy)
    assert run('color_histogram', '--device', 'cpu:0', '--workers', 1, '--batch-size', 5)[0] == 0
    assert (given['device'], given['workers'], given['batch_size']) == (torch.device('cpu:0'), 1, 5)


def test_too_large_batch_is_explained(run, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError('2 GiB')

    monkeypatch.setattr(evaluation, 'embed_dataset', full)
    code, _, err = run('color_histogram', '--device', 'cpu', '--batch-size', 512)
    assert code == 2
    assert 'error: cpu has not enough memory: give a --batch-size below 512' in err


def test_workers_read_the_same(run, tmp_path):
    for workers in (0, 1):
        assert run('color_histogram', '--workers', workers, '--features', tmp_path / str(workers))[0] == 0
    zero, one = (Features.load(tmp_path / str(n) / 'gallery.safetensors') for n in (0, 1))
    assert torch.equal(zero.embeddings, one.embeddings)


@pytest.mark.parametrize(
    ('model', 'flags', 'message'),
    [
        ('no_such_model', [], "unknown model 'no_such_model'"),
        ('color_histogram', ['--data-dir', 'nowhere'], 'but nowhere is no folder'),
        ('color_histogram', ['-ds', 'nothing'], "unknown data set 'nothing', choose from: clonedperson, "),
        ('color_histogram', ['--device', 'toaster'], '--device toaster cannot be used: '),
        ('weights.pth', ['--model', 'color_histogram'], "'color_histogram' has no weights to load from weights.pth"),
        ('weights.pth', [], 'weights.pth: no such checkpoint'),
        ('color_histogram', ['--model', 'test_vit4'], "but 'color_histogram' is none"),
        ('color_histogram_stripes', ['--height', '4'], '6 stripes need an input height of at least 6, got 4'),
        (
            'color_histogram',
            ['--ranked-lists', 'lists.jpg'],
            'lists.jpg: the file name must end in .png',
        ),
        ('nowhere.pth', ['--model', 'test_vit4'], 'nowhere.pth: no such checkpoint'),
        ('color_histogram', ['--cache', '/dev/null'], '--cache /dev/null: cannot be used as a folder (File exists)'),
    ],
)
def test_wrong_input_ends_with_one_line_and_code_2(run, model, flags, message):
    code, out, err = run(model, *flags)
    assert code == 2
    assert out == ''
    errors = [line for line in err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1
    assert message in errors[0]
    assert 'Traceback' not in err


@pytest.mark.parametrize('workers', [0, 1])
def test_broken_image(run, market, workers):
    path = market / 'query' / '0002_c1s1_000001_00.jpg'
    path.write_bytes(path.read_bytes()[:300])
    code, _, err = run('color_histogram', '--workers', workers)
    assert code == 2
    assert f'error: {path}: cannot read this image (' in err
    assert 'Traceback' not in err


def test_bomb_gives_one_line(run, market, monkeypatch, recwarn):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 48 * 24 - 1)
    code, out, err = run('color_histogram')
    assert (code, out, len(recwarn)) == (2, '', 0)
    path = market / 'query' / '0001_c1s1_000000_00.jpg'
    assert [line for line in err.splitlines() if 'embed' not in line] == [
        f'error: {path}: cannot read this image (24x48 pixels, more than the 1,151 that are safe to decode); '
        'replace or remove it'
    ]


def test_skip_broken_is_said_wherever_figures_are(run, market, tmp_path):
    path = market / 'query' / '0002_c1s1_000001_00.jpg'
    path.write_bytes(path.read_bytes()[:300])
    (market / 'bounding_box_train' / '0004_c1s1_000000_00.jpg').write_bytes(b'not looked at')
    code, out, err = run('color_histogram', '--skip-broken', '--json', tmp_path / 'metrics.json')
    assert code == 0
    remark = 'broken images skipped: 1 query, 0 gallery'
    assert out.splitlines()[-1] == f'  {remark}'
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['images'] == {'query': 2, 'gallery': 10} and metrics['remarks'] == [remark]


def test_cache_stays_and_gives_the_same(run, tmp_path):
    for name, place in (('a', 'none'), ('b', tmp_path / 'cache'), ('c', tmp_path / 'cache'), ('d', 'memory')):
        assert run('color_histogram', '--cache', place, '--features', tmp_path / name)[0] == 0
    assert len(list((tmp_path / 'cache').glob('128x64-*.cache'))) == 2
    for part in ('query', 'gallery'):
        features = [Features.load(tmp_path / name / f'{part}.safetensors') for name in 'abcd']
        assert all(torch.equal(f.embeddings, features[0].embeddings) for f in features)


@pytest.mark.parametrize('flag', ['--json', '--ranked-lists', '--features'])
def test_output_below_a_file_is_refused_before_the_work(run, tmp_path, flag):
    (tmp_path / 'file').touch()
    code, out, err = run('color_histogram', flag, tmp_path / 'file' / 'below' / 'out.png')
    assert code == 2
    assert f'{flag}: cannot create the folder {tmp_path / "file" / "below"}' in err
    assert out == ''


def test_json_that_is_a_folder(run, tmp_path):
    code, _, err = run('color_histogram', '--json', tmp_path)
    assert code == 2
    assert f'--json {tmp_path}: cannot write' in err


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ([], 'required: -ds/--dataset (or --embeddings)'),
        (['-ds', 'sample', '--batch-size', '0'], 'argument --batch-size: must be at least 1, got 0'),
        (['-ds', 'sample', '--workers', '-1'], 'argument --workers: must be at least 0, got -1'),
        (['-ds', 'sample', '--height', 'tall'], 'argument --height: invalid'),
    ],
)
def test_wrong_arguments_end_with_code_2(capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        main(['color_histogram', *flags])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('preprocessing', [False, True])
def test_exported_file_is_a_model_like_others(run, tmp_path, preprocessing):
    pytest.importorskip('onnxruntime')
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=0).eval()
    config = reid_data_config(model, 64, 32)
    export(model, 'onnx', tmp_path / 'm.onnx', data_config=config, preprocessing=preprocessing)
    assert run(tmp_path / 'm.onnx', '--json', tmp_path / 'f.json')[0] == 0
    metrics = json.loads((tmp_path / 'f.json').read_text())
    assert metrics['model'] == str(tmp_path / 'm.onnx') and metrics['preprocessing']['input_size'] == [3, 64, 32]
    save_file(model.state_dict(), tmp_path / 'w.safetensors')
    flags = ('--model', 'test_resnet', '--height', 64, '--width', 32, '--json', tmp_path / 'g.json')
    assert run(tmp_path / 'w.safetensors', *flags)[0] == 0
    assert metrics['mAP'] == pytest.approx(json.loads((tmp_path / 'g.json').read_text())['mAP'], abs=1e-3)
    assert 'of one network and input size' in run(tmp_path / 'm.onnx', '--height', 32)[2]
    assert 'leave out --amp' in run(tmp_path / 'm.onnx', '--amp')[2]
    for flags in (('--features', tmp_path / 'f'), ('--cache', 'memory')):
        code, _, err = run(tmp_path / 'm.onnx', *flags)
        assert code == (2 if preprocessing else 0), err
        assert ('m.onnx prepares images itself: leave out --features and --cache' in err) == preprocessing
    if preprocessing:
        return
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    export(model, 'onnx', tmp_path / 'n.onnx', data_config=config)
    assert 'holds features of other weights' in run(tmp_path / 'n.onnx', '--features', tmp_path / 'f')[2]
