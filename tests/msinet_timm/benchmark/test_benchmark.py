import builtins
import csv
import re
import sys
import types

import pytest
import torch
from PIL import Image

from msinet_timm.benchmark import __main__ as benchmark
from msinet_timm.benchmark import runs
from msinet_timm.benchmark.__main__ import main
from msinet_timm.benchmark.report import describe_machine, read_map, to_csv, to_markdown, write_image
from msinet_timm.benchmark.runs import Case, Result, combinations, create_model, measure, write_files
from msinet_timm.benchmark.timing import seconds_of
from msinet_timm.errors import InputError

PARAMETERS = {'msinet_x0_25': 230_746, 'resnet18': 11_176_512}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small images, for what is measured in this process."""
    monkeypatch.setattr(runs, 'INPUT', (3, 64, 32))
    monkeypatch.setitem(runs._DATA_CONFIG, 'input_size', (3, 64, 32))


def results():
    """MSINet at 10 images/s for each thread, another twice as fast; memory that is kept makes all 1.5 times as fast."""
    found = []
    for threads in (1, 2):
        for allocator, faster in (('system', 1), ('kept', 1.5)):
            for case, rate in (
                (Case('msinet_x0_25', 'eager', 'float32'), 10),
                (Case('msinet_x0_25', 'fused', 'bf16'), 30),
                (Case('resnet18', 'channels_last', 'float32'), 20),
            ):
                for size in (1, 8):
                    seconds = size / (rate * threads * faster)
                    found.append(Result(case, size, threads, allocator, [2 * seconds, seconds, seconds / 2]))
    return found


def test_which_go_together():
    assert list(combinations(['fused', 'onnx', 'openvino'], ['float32', 'bf16', 'int8'])) == [
        ('fused', 'float32'), ('onnx', 'float32'), ('openvino', 'float32'), ('fused', 'bf16'), ('openvino', 'bf16'),
        ('onnx', 'int8'), ('openvino', 'int8'),
    ]  # fmt: skip


def test_models_are_equal_in_each_process_and_have_attention():
    one, two = (create_model('msinet_x0_25') for _ in range(2))
    assert not one.training
    state = one.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in two.state_dict().items())
    gammas = [p for name, p in one.named_parameters() if name.endswith('gamma')]
    assert gammas and all(p == 0.5 for p in gammas)
    images = torch.randn(4, 3, 64, 32)
    assert 0.1 < one.stem.bn(one.stem.conv(images)).std() < 10  # maps neither fade nor grow
    assert one(images).shape == (4, 384)


@pytest.mark.slow
def test_all_forms_run_in_turns(tmp_path, monkeypatch):
    """Each form in each round, none before the others have had their turn; a form that fails leaves a remark."""
    pytest.importorskip('onnxruntime')
    pairs = list(combinations(['eager', 'fused', 'onnx'], ['float32', 'int8']))
    cases = [Case('test_resnet', *pair) for pair in pairs]
    create = runs.create_form
    turns = []

    def fails(model, form, *args):
        if form == 'fused':
            raise RuntimeError('no\nluck')
        run = create(model, form, *args)
        return lambda images: turns.append((form, len(images))) or run(images)

    monkeypatch.setattr(runs, 'create_form', fails)
    files, remarks = write_files(cases, tmp_path)
    assert not remarks and set(files) == {'test_resnet, onnx, float32', 'test_resnet, onnx, int8'}
    job = dict(cases=cases, files=files, batch_sizes=[1, 3], threads=torch.get_num_threads(), rounds=2, seconds=1e-9)
    found = measure(job)
    assert found['remarks'] == ['test_resnet, fused, float32: no luck']
    assert [(case[1:], size, len(seconds)) for case, size, seconds in found['found']] == [
        (pair, size, 2) for size in (1, 3) for pair in pairs if pair[0] != 'fused'
    ]
    assert all(s > 0 for *_, seconds in found['found'] for s in seconds)
    assert turns == [('eager', 1), ('eager', 3)] * 4  # checked, a round that doesn't count, and two that do


def test_more_seconds_are_more_calls():
    calls = []
    seconds_of(lambda: calls.append(1), budget=1e-12)
    few = len(calls)
    seconds_of(lambda: calls.append(1), budget=0.01)
    assert few == 1 and len(calls) > 10


def test_wrong_embeddings_are_not_timed(monkeypatch):
    monkeypatch.setattr(runs, 'create_form', lambda *args: lambda images: images.flatten(1) * torch.nan)
    job = dict(cases=[Case('msinet_x0_25', 'eager', 'float32')], files={}, batch_sizes=[1], threads=1, rounds=1)
    found = measure({**job, 'seconds': 0.1})
    assert not found['found'] and 'not finite' in found['remarks'][0]


def test_tables():
    text = to_markdown(results(), PARAMETERS, {'resnet18': 81.25})
    tables = text.split('\n\n')
    assert tables[0] == "1 thread, the C library's default allocator; images/s:"
    assert len(tables) == 8 and tables[6] == '2 threads, an allocator that keeps its memory; images/s:'
    assert tables[7].splitlines() == [
        '| model | M parameters | mAP | form | precision | batch 1 | batch 8 |',
        '|---|---|---|---|---|---|---|',
        '| msinet_x0_25 | 0.2 |  | eager | float32 | 30.0 (15.0-60.0), 1.00 x | 30.0 (15.0-60.0), 1.00 x |',
        '| msinet_x0_25 | 0.2 |  | fused | bf16 | 90.0 (45.0-180), 3.00 x | 90.0 (45.0-180), 3.00 x |',
        '| resnet18 | 11.2 | 81.2 | channels_last | float32 | 60.0 (30.0-120), 2.00 x | 60.0 (30.0-120), 2.00 x |',
    ]
    assert ' x |' not in to_markdown([r for r in results() if r.case.form != 'eager'], PARAMETERS, {})


def test_csv():
    rows = list(csv.DictReader(to_csv(results(), PARAMETERS, {'resnet18': 81.25}).splitlines()))
    assert len(rows) == 24
    assert rows[3] == {
        'model': 'msinet_x0_25', 'parameters': '230746', 'form': 'fused', 'precision': 'bf16', 'batch_size': '8',
        'threads': '1', 'allocator': 'system', 'ms': '266.667', 'ms_min': '133.333', 'ms_max': '533.333',
        'images_per_second': '30.00', 'of_baseline': '3.000', 'mAP': '',
    }  # fmt: skip
    assert rows[-1]['mAP'] == '81.25' and float(rows[-1]['ms_max']) > float(rows[-1]['ms'])


def test_image(tmp_path):
    drawn = []
    for number, mAP in enumerate([{}, {'resnet18': 81.25}]):
        write_image(results(), PARAMETERS, mAP, tmp_path / f'{number}.png')
        with Image.open(tmp_path / f'{number}.png') as image:
            assert image.size == (1350, 750)
            drawn.append(image.convert('L').tobytes())
    assert drawn[0] != drawn[1]


def test_no_image_without_matplotlib(tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith('matplotlib'):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(InputError, match=re.escape('pip install "msinet-timm[plot]"')):
        write_image(results(), PARAMETERS, {}, tmp_path / 'a.png')


def test_map_file(tmp_path):
    file = tmp_path / 'map.csv'
    file.write_text('model,mAP\nresnet18,81.25\n')
    assert read_map(file) == {'resnet18': 81.25} and read_map(None) == {}
    with pytest.raises(InputError, match='cannot be read'):
        read_map(tmp_path / 'none.csv')
    for text in ('model\nresnet18\n', 'model,mAP\nresnet18,good\n'):
        file.write_text(text)
        with pytest.raises(InputError, match='columns model and mAP'):
            read_map(file)


def test_machine():
    assert re.search(r'\d+ cores? \(.+\), \w+; torch \d', describe_machine())


def test_flags_choose_what_is_measured(monkeypatch):
    """What becomes of each flag, without measuring."""

    def cases(*flags):
        args = benchmark._parse([*flags])
        return args, benchmark._cases(args)

    args, chosen = cases()
    assert args.allocator == ('system', 'kept') and args.batch_sizes == [1, 8, 32] and 1 in args.threads
    assert len({case.model for case in chosen}) == 7
    assert ('msinet_x1_0', 'onnx', 'int8') in chosen and ('msinet_x1_0', 'eager', 'bf16') in chosen
    assert ('resnet50', 'openvino', 'bf16') in chosen and ('resnet50', 'eager', 'float32') not in chosen
    assert ('msinet_x1_0', 'compiled', 'bf16') in chosen and ('resnet50', 'compiled', 'bf16') not in chosen
    _, chosen = cases('--models', 'resnet18', '--forms', 'compiled', 'eager', '--precisions', 'bf16')
    assert chosen == [('resnet18', 'compiled', 'bf16'), ('resnet18', 'eager', 'bf16')]
    args, chosen = cases('--quick', '--batch-sizes', '4')
    assert len({case.model for case in chosen}) == 3 and args.batch_sizes == [4] and args.allocator == ['kept']
    with pytest.raises(InputError, match='none of these forms'):
        cases('--forms', 'eager', '--precisions', 'int8')


@pytest.mark.slow
def test_command(tmp_path, capfd, monkeypatch):
    """Both allocators, each in a process of its own; what cannot be measured is a remark below the table."""
    monkeypatch.setitem(sys.modules, 'torchreid', None)
    flags = '--models msinet_x0_25 osnet_x0_25 --forms eager fused --precisions float32 --batch-sizes 1 --threads 1'
    flags = [*flags.split(), '--rounds', '2', '--seconds', '0.01', '--output', str(tmp_path / 'out')]
    assert main(flags) == 0
    out = capfd.readouterr().out
    assert describe_machine() in out and 'medians (ranges) of 2 rounds' in out
    assert out.count('| msinet_x0_25 | 0.2 | eager | float32 |') == 2
    assert '- osnet_x0_25: not measured' in out.splitlines()[-1]
    with open(tmp_path / 'out' / 'benchmark.csv') as file:
        rows = list(csv.DictReader(file))
    assert [(row['form'], row['allocator'], row['threads']) for row in rows] == [
        ('eager', 'system', '1'), ('fused', 'system', '1'), ('eager', 'kept', '1'), ('fused', 'kept', '1')
    ]  # fmt: skip
    assert (tmp_path / 'out' / 'benchmark.png').stat().st_size > 10_000


def test_nothing_to_measure(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchreid', None)
    assert main(['--models', 'osnet_x1_0', '--forms', 'eager']) == 1
    assert 'pip install torchreid' in capsys.readouterr().out


def test_what_cannot_end_well_does_not_begin(tmp_path, capsys):
    file = tmp_path / 'file'
    file.touch()
    for flags, message in [
        (['--models', 'resnet18', 'nonsense'], '--models nonsense: timm has no such model'),
        (['--output', str(file)], f'--output: cannot create the folder {file} (File exists)'),
    ]:
        assert main(flags) == 2
        assert message in capsys.readouterr().err


def test_osnet_comes_from_torchreid(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchreid', None)
    with pytest.raises(InputError, match='pip install torchreid'):
        create_model('osnet_x1_0')
    asked = []

    def build_model(name, **settings):
        asked.append((name, settings))
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    models = types.SimpleNamespace(build_model=build_model)
    monkeypatch.setitem(sys.modules, 'torchreid', types.SimpleNamespace(models=models))
    assert create_model('osnet_x1_0')(torch.randn(2, 3, 64, 32)).shape == (2, 3)
    assert asked == [('osnet_x1_0', {'num_classes': 1, 'pretrained': False})]


def test_a_gallery_is_measured_and_by_bits_where_there_are_many(capsys, monkeypatch):
    monkeypatch.setattr('msinet_timm.benchmark.gallery.BITS_FROM', 1000)
    assert main(['--gallery', '1000']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert '1,000 crops' in lines[0]
    names = [re.split(r'\s{2,}', line)[0] for line in lines[3:]]
    assert {'add', 'MB on disk', 'open, and the first search', 'search', 'search by bits', 'recall@10'} <= {*names}
    assert main(['--gallery', '1000', '--output', 'x']) == 2
    assert '--output is not for --gallery' in capsys.readouterr().err
