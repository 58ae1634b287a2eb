"""People who come, go, or are asked for after a training has learnt them: said in words, wherever metrics are shown."""

import json
import shutil

import numpy as np
import pytest
from hostile import refused, run
from PIL import Image

import msinet_eval.cli
import msinet_train.cli
from msinet_timm.datasets import create_dataset
from msinet_timm.files import read_json

SMALL = (
    '--model test_resnet --height 32 --width 16 --batch-size 4 --num-instance 2 --lr 0.01 --workers 0 --device cpu'
).split()
NAMES = ('anna', 'ben', 'cleo', 'dora', 'emil', 'fred', 'gina', 'hugo')
LOUD = 'SEEN IN TRAINING: '


def add(root, *names):
    """Four images of each, under two cameras."""
    for name in names:
        rng = np.random.default_rng(list(name.encode()))
        color = rng.integers(20, 235, 3)
        for k in range(4):
            file = root / name / ('door', 'yard')[k % 2] / f'{k}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = color + rng.normal(0, 10, (32, 16, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    return root


@pytest.fixture(scope='module')
def _trained(tmp_path_factory):
    root = tmp_path_factory.mktemp('site')
    add(root / 'people', *NAMES)
    flags = ['-ds', 'folder', '--data-dir', root / 'people', '--output', root / 'run', '--epochs', '1', *SMALL]
    assert msinet_train.cli.main([str(word) for word in flags]) == 0
    return root


@pytest.fixture
def site(_trained, tmp_path):
    """A folder of people, and a run on it; both may be changed."""
    for name in ('people', 'run'):
        shutil.copytree(_trained / name, tmp_path / name)
    known = read_json(tmp_path / 'run' / 'trained_on.json')
    known['sources'][0]['root'] = str((tmp_path / 'people').resolve())
    (tmp_path / 'run' / 'trained_on.json').write_text(json.dumps(known))
    return tmp_path


def halves(people):
    dataset = create_dataset('folder', str(people))
    return ({r.identity for r in part} for part in (dataset.train, dataset.query))


def resume(site, *flags):
    return ['--resume', site / 'run', '--data-dir', site / 'people', '--epochs', '2', *flags]


def test_a_run_goes_on_with_the_same_people(site, capsys):
    train, _ = halves(site / 'people')
    add(site / 'people', next(iter(train)))  # the same images once more
    code, text = run(capsys, msinet_train.cli.main, *resume(site))
    assert code == 0, text


@pytest.mark.parametrize('kind', ['added', 'removed', 'renamed', 'swapped'])
def test_a_run_does_not_go_on_with_other_people(site, capsys, kind):
    people = site / 'people'
    train, tested = (sorted(half) for half in halves(people))
    spare = [f'new {i}' for i in range(20)]
    told = []
    if kind == 'added':
        add(people, *spare)
        new = next(halves(people)) - set(train)
        assert 0 < len(new) < 20 and not new & set(tested)
        told = [f'{len(new)} added ({sorted(new)[0]}']
    if kind in ('removed', 'swapped'):
        shutil.rmtree(people / train[0])
        told += [f'1 gone ({train[0]})']
    name = min(next(halves(add(site / 'others', *spare))))  # somebody to train on
    if kind == 'renamed':
        (people / train[0]).rename(people / name)
        told = [f'1 gone ({train[0]})', f'1 added ({name})']
    if kind == 'swapped':  # as many as before
        add(people, name)
        told += [f'1 added ({name})']
    before = (site / 'run' / 'trained_on.json').read_bytes()
    for flags in ((), ('--evaluate',))[: 1 + (kind == 'added')]:
        text = refused(capsys, msinet_train.cli.main, *resume(site, *flags), names=[f'--resume {site / "run"}', *told])
        assert '--recipe' in text and '--output' in text and f'--model {site / "run" / "last"}' in text
    assert (site / 'run' / 'trained_on.json').read_bytes() == before


def test_a_run_does_not_go_on_with_another_data_set(site, capsys):
    flags = ('-ds', 'folder', 'sample', '--data-dir', site / 'people')
    names = ['--resume', 'from folder', 'and not from folder, sample']
    refused(capsys, msinet_train.cli.main, *resume(site, *flags), names=names)


def test_a_run_of_the_version_before(site, capsys):
    """It split otherwise, and kept no list."""
    (site / 'run' / 'trained_on.json').unlink()
    refused(capsys, msinet_train.cli.main, *resume(site), names=['--resume', 'an earlier version', '--output'])
    command = [site / 'run', '-ds', 'folder', '--data-dir', site / 'people', '--workers', '0']
    code, text = run(capsys, msinet_eval.cli.main, *command)
    assert code == 0 and 'MAY HAVE BEEN SEEN IN TRAINING: some of 4' in text, text


@pytest.mark.parametrize(
    'content', ['', '[]', '{"sources": 3}', '{"sources": [{"dataset": 1}], "before": []}', 'edited']
)
def test_a_list_that_cannot_be_read(site, capsys, content):
    file = site / 'run' / 'trained_on.json'
    file.write_text(file.read_text().replace('"anna"', '"anne"') if content == 'edited' else content)
    if content == 'edited':
        file.write_text(file.read_text().replace('"dora"', '"dorothea"'))
    refused(capsys, msinet_train.cli.main, *resume(site), names=str(file))
    refused(
        capsys, msinet_eval.cli.main, site / 'run', '-ds', 'folder', '--data-dir', site / 'people', '--workers', '0',
        names=str(file),
    )  # fmt: skip


ALL = ['-ds', 'folder', '--data-dir', 'people', '--workers', '0', '--data-option', 'test_share=1']


def test_an_evaluation_says_who_was_trained_on(site, capsys, monkeypatch):
    monkeypatch.chdir(site)
    code, text = run(capsys, msinet_eval.cli.main, 'run', *ALL[:6])
    assert code == 0 and LOUD not in text, text
    train, _ = halves('people')
    code, text = run(capsys, msinet_eval.cli.main, 'run', *ALL, '--json', 'out.json', '--html', 'out.html')
    told = f'{LOUD}{len(train)} of 8 query identities'
    assert code == 0 and told in text, text
    assert any(told in remark for remark in read_json('out.json')['remarks'])
    assert told in (site / 'out.html').read_text()


@pytest.mark.parametrize('model', ['run/best', 'run/last', 'local-dir:run/best', 'run/last/model.safetensors'])
def test_any_model_of_a_run_knows(site, capsys, monkeypatch, model):
    monkeypatch.chdir(site)
    flags = ['--model', 'test_resnet'] if model.endswith('.safetensors') else []
    code, text = run(capsys, msinet_eval.cli.main, model, *ALL, *flags)
    assert code == 0 and LOUD in text, text


def test_other_ways_to_measure(site, capsys, monkeypatch):
    """A comparison tells it of the side that it is true of."""
    monkeypatch.chdir(site)
    command = ['compare', 'color_histogram', 'run', *ALL, '--json', 'out.json', '--html', 'out.html']
    code, text = run(capsys, msinet_eval.cli.main, *command)
    assert code == 0, text
    assert f'B: {LOUD}' in text and f'A: {LOUD}' not in text
    assert any(remark.startswith(f'B: {LOUD}') for remark in read_json('out.json')['remarks'])
    assert f'B: {LOUD}' in (site / 'out.html').read_text()


def test_people_are_known_where_the_data_set_is(site, capsys, monkeypatch):
    """The same folder in another place is the same data set; other images of the same names are other people."""
    monkeypatch.chdir(site)
    options = ['--workers', '0', '--data-option', 'test_share=1']
    (site / 'people').rename(site / 'moved')
    train, _ = halves('moved')
    add(site / 'moved', 'zoe')
    shutil.rmtree(site / 'moved' / sorted(train)[0])
    code, text = run(capsys, msinet_eval.cli.main, 'run', '-ds', 'folder', '--data-dir', 'moved', *options)
    assert code == 0 and f'{LOUD}{len(train) - 1} of 8' in text, text
    others = add(site / 'others', *(f'other {name}' for name in NAMES))
    for name in NAMES:
        (others / f'other {name}').rename(others / name)
    code, text = run(capsys, msinet_eval.cli.main, 'run', '-ds', 'folder', '--data-dir', 'others', *options)
    assert code == 0 and LOUD not in text, text


def test_a_run_from_the_weights_of_another(site, capsys, monkeypatch):
    """Who the first one was trained on, the second one knows, too: also in its own metrics and in its card."""
    monkeypatch.chdir(site)
    flags = ['-ds', 'folder', '--data-dir', 'people', '--data-option', 'seed=1', '--epochs', '1', *SMALL]
    flags[flags.index('test_resnet')] = 'run/best'
    first = next(halves('people'))
    dataset = create_dataset('folder', 'people', seed=1)
    asked = {r.identity for r in dataset.query}
    assert first & asked
    code, text = run(capsys, msinet_train.cli.main, *flags, '--output', 'second')
    assert code == 0, text
    told = f'{LOUD}{len(first & asked)} of {len(asked)} query identities'
    assert told in (site / 'second' / 'log.txt').read_text()
    (site / 'run' / 'trained_on.json').unlink()
    code, text = run(capsys, msinet_train.cli.main, '--resume', 'second', '--epochs', '2')
    assert code == 0, text
    assert (site / 'second' / 'log.txt').read_text().count(told) == 2
    assert told in (site / 'second' / 'last' / 'README.md').read_text()
    command = ['second', '-ds', 'folder', '--data-dir', 'people', '--data-option', 'seed=1', '--workers', '0']
    code, text = run(capsys, msinet_eval.cli.main, *command)
    assert code == 0 and told in text, text


def test_train_and_test_that_share_people(site, capsys, monkeypatch):
    """Whatever the model: the data set itself says so, also in the card of a run."""
    monkeypatch.chdir(site)
    for part in ('train', 'query', 'gallery'):
        shutil.copytree('people', f'shared/{part}')
    shutil.rmtree('shared/train/anna')
    told = 'TRAIN AND TEST SHARE IDENTITIES: 7 of 8 query identities'
    command = ['color_histogram', '-ds', 'folder', '--data-dir', 'shared', '--workers', '0']
    code, text = run(capsys, msinet_eval.cli.main, *command)
    assert code == 0 and told in text, text
    flags = ['-ds', 'folder', '--data-dir', 'shared', '--output', 'new', '--epochs', '1', *SMALL]
    code, text = run(capsys, msinet_train.cli.main, *flags)
    assert code == 0, text
    assert told in (site / 'new' / 'log.txt').read_text()
    assert told in (site / 'new' / 'best' / 'README.md').read_text()
    code, text = run(capsys, msinet_train.cli.main, '--resume', 'new', '--evaluate')
    assert code == 0 and told in text, text


def test_no_names_leave_the_run(site):
    """What is published is `best`: it tells a digest of the names, none of them."""
    for folder in ('best', 'last'):
        for file in (site / 'run' / folder).iterdir():
            assert not any(name.encode() in file.read_bytes() for name in NAMES), file
    known = read_json(site / 'run' / 'trained_on.json')['sources'][0]
    assert known['identities'] == sorted(next(halves(site / 'people')))
    assert known['digest'][:16] in (site / 'run' / 'best' / 'README.md').read_text()
