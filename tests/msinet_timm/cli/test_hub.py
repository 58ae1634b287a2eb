"""Publishing to a Hub, and loading from it, by the real clients."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

import msinet_timm
from msinet_timm.cli.hub import main
from msinet_timm.hub.card import Result, write_card
from msinet_timm.hub.folder import save_folder
from msinet_timm.hub.verify import verify
from msinet_timm.models.entries import entries_folder, load_entries, sha256_of

NAME = 'msinet_x0_25.market1501'
REPO = f'msinet-timm/{NAME}'
CALIBRATION = dict(threshold=0.75, false_positive_rate=1e-3, true_positive_rate=0.6, dataset='market1501', model='mine')
SMALL = {'input_size': (3, 64, 32)}


def make_folder(folder, seed=0, card=True, **kwargs):
    """A run's folder with a small model in `best`."""
    torch.manual_seed(seed)
    model = timm.create_model('msinet_x0_25', pretrained=False, **kwargs).eval()
    save_folder(model, folder / 'best', SMALL)
    (folder / 'best' / 'calibration.json').write_text(json.dumps(CALIBRATION))
    if card:
        results = [Result('market1501', 0.5, 0.75, 0.25, query=3, gallery=9)]
        text = write_card('mine', 'A model.', (64, 32), results, ['market1501'], settings='lr: 0.1\n')
        (folder / 'best' / 'README.md').write_text(text)
    return model


@pytest.fixture
def folder(tmp_path):
    make_folder(tmp_path / 'run')
    return tmp_path / 'run'


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package as in a checkout: what is published or shipped changes it and not the real one."""
    root = tmp_path / 'site'
    ignored = shutil.ignore_patterns('__pycache__', 'sample', 'render', '*.safetensors')
    shutil.copytree(Path(msinet_timm.__file__).parent, root / 'msinet_timm', ignore=ignored)
    configs = root / 'msinet_timm' / 'hub_configs'
    shutil.copytree(entries_folder(), configs, ignore=ignored)
    (root / 'msinet_timm' / 'setup.cfg').touch()
    for module in ('models.entries', 'hub.publish', 'hub.convert'):
        monkeypatch.setattr(f'msinet_timm.{module}.entries_folder', lambda: configs)
    return configs


def output(model, channels=3):
    with torch.no_grad():
        return model.eval()(torch.linspace(-1, 1, channels * 64 * 32).view(1, channels, 64, 32))


def fresh(package, script, readonly=False, **environment):
    """Runs a script in a process of its own with the package's copy; what it prints last, as JSON."""

    def forbid():
        # root writes where it may not, unless it gives that up: CAP_DAC_OVERRIDE
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)

    script = f'import json, timm, torch, msinet_timm\n{script}'
    result = subprocess.run(
        [sys.executable, '-c', script],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(package.parent.parent), 'OMP_NUM_THREADS': '1', **environment},
        cwd=package,
        preexec_fn=forbid if readonly else None,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


PROBE = 'torch.linspace(-1, 1, 3 * 64 * 32).view(1, 3, 64, 32)'


def entry_of(package):
    return ['--entry', str(package / f'{NAME}.json')]


def test_publish(hub, folder, package, capsys):
    assert main(['publish', str(folder), '--repo', REPO, '--license', 'apache-2.0', *entry_of(package)]) == 0
    printed = capsys.readouterr().out
    files = hub.files(REPO)
    expected = {'config.json', 'model.safetensors', 'README.md', 'preview.png', 'example.safetensors'}
    assert files.keys() == {*expected, 'calibration.json'}
    assert 'num_classes' not in json.loads(files['config.json'])['model_args']
    card = ModelCard(files['README.md'].decode())
    assert card.data.license == 'apache-2.0' and len(card.data.eval_results) == 3
    for part in (f"'hf-hub:{REPO}'", '(preview.png)', 'distance up to 0.7500', '0.1 % of', '60.0 % of', 'lr: 0.1'):
        assert part in card.text
    assert 'THIS_FOLDER' not in card.text and 'OWNER/NAME' not in card.text
    with Image.open(folder / 'best' / 'preview.png') as image:
        assert image.width > 4 * 96 and len(image.getcolors(1 << 20)) > 1000

    entry = load_entries(package)[NAME]
    assert entry.sha256 == sha256_of(folder / 'best' / 'model.safetensors') and entry.size == len(
        files['model.safetensors']
    )
    commit = hub.repositories[REPO]['branches']['main']
    assert entry.revision == commit and not entry.default and entry.recipe == 'scratch'
    assert entry.results == [
        dict(dataset='market1501', protocol='standard', mAP=0.5, rank1=0.75, mINP=0.25)
    ] and entry.preprocessing['input_size'] == [3, 64, 32]
    assert entry.threshold == {k: v for k, v in CALIBRATION.items() if k != 'model'}
    assert str(package / f'{NAME}.json') in printed and commit in printed
    line = printed.splitlines()[-1]
    assert line == f"timm.create_model('hf-hub:{REPO}', pretrained=True)"
    assert torch.equal(output(eval(line)), output(timm.create_model(f'local-dir:{folder}/best', pretrained=True)))


def test_publish_again(hub, folder, package, tmp_path, capsys):
    """A second upload is a new commit; the first stays what its revision names, and neither passes for the other."""
    first = make_folder(folder)
    main(['publish', str(folder), '--repo', REPO, *entry_of(package)])
    (old,) = hub.repositories[REPO]['commits']
    card = (folder / 'best' / 'README.md').read_text()
    second = make_folder(tmp_path / 'other', seed=1)
    main(['publish', str(tmp_path / 'other'), '--repo', REPO, *entry_of(package)])
    commits = list(hub.repositories[REPO]['commits'])
    assert commits[0] == old and len(commits) == 2
    assert torch.equal(output(timm.create_model(f'hf-hub:{REPO}', pretrained=True)), output(second))
    assert torch.equal(output(timm.create_model(f'hf-hub:{REPO}@{old}', pretrained=True)), output(first))
    assert load_entries(package)[NAME].revision == commits[1]
    main(['publish', str(folder), '--repo', REPO])
    assert (folder / 'best' / 'README.md').read_text() == card  # nothing is said twice


@pytest.mark.slow
def test_fresh_process(hub, folder, package, tmp_path):
    """By Hub name and by registered name, adapted in every way, into caches of their own."""
    model = make_folder(folder)
    main(['publish', str(folder), '--repo', REPO, *entry_of(package)])
    script = f"""
name, entry = 'hf-hub:{REPO}', '{NAME}'
def create(name, channels=3, **kwargs):
    return timm.create_model(name, pretrained=True, in_chans=channels, **kwargs).eval()
with torch.no_grad():
    models = [create(name), create(entry), create(entry, cache_dir='{tmp_path}/own')]
    outputs = [model({PROBE}) for model in models]
    result = {{
        'outputs': [o.flatten().tolist() for o in outputs],
        'grey': create(entry, 1).stem.conv.weight.flatten().tolist(),
        'classes': list(create(entry, num_classes=5)({PROBE}).shape),
        'maps': [list(m.shape) for m in create(entry, features_only=True)({PROBE})],
        'listed': timm.list_pretrained('msinet*'),
    }}
print(json.dumps(result))
"""
    found = fresh(package, script, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / 'home'))
    expected = output(model).flatten().tolist()
    for values in found['outputs']:
        assert values == pytest.approx(expected, abs=1e-6)
    assert found['grey'] == pytest.approx(model.stem.conv.weight.sum(1, keepdim=True).flatten().tolist(), abs=1e-6)
    assert found['classes'] == [1, 5] and [m[1] for m in found['maps']] == [16, 64, 96, 128, 128]
    assert found['listed'] == [NAME]
    stored = 'models--' + REPO.replace('/', '--')
    assert (tmp_path / 'home' / 'hub' / stored).is_dir() and (tmp_path / 'own' / stored).is_dir()


@pytest.mark.slow
def test_warm_cache_offline_and_read_only(hub, folder, package, tmp_path):
    model = make_folder(folder)
    main(['publish', str(folder), '--repo', REPO, *entry_of(package)])
    cache = tmp_path / 'home' / 'hub'
    # the entry's name asks for the commit, which is what this leaves in the cache
    timm.create_model(f'hf-hub:{REPO}', pretrained=True, cache_dir=cache)
    script = f"""
import os, tempfile
assert not os.access('{cache}', os.W_OK)
with torch.no_grad():
    models = [timm.create_model(name, pretrained=True).eval() for name in ('hf-hub:{REPO}', '{NAME}')]
    print(json.dumps([model({PROBE}).flatten().tolist() for model in models]))
"""
    places = [path for path in [cache, *cache.rglob('*')] if path.is_dir()]
    for path in places:
        path.chmod(0o555)
    hub.requests.clear()
    try:
        for offline in ('0', '1'):
            environment = dict(HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / 'home'), HF_HUB_OFFLINE=offline)
            found = fresh(package, script, readonly=True, **environment)
            for values in found:
                assert values == pytest.approx(output(model).flatten().tolist(), abs=1e-6)
            assert bool(hub.requests) == (offline == '0')
            hub.requests.clear()
    finally:
        for path in places:
            path.chmod(0o755)


@pytest.mark.parametrize('name', [f'hf-hub:{REPO}', NAME])
@pytest.mark.parametrize('kwargs', [{}, {'num_classes': 5}, {'in_chans': 1}, {'features_only': True}])
def test_wrong_hash(hub, folder, package, name, kwargs):
    """Other weights in the repository than the recorded ones never reach a model."""
    main(['publish', str(folder), '--repo', REPO, *entry_of(package)])
    recorded = load_entries(package)[NAME].sha256
    other = folder.parent / 'other'
    make_folder(other, seed=1)
    entry = json.loads((package / f'{NAME}.json').read_text())
    entry['revision'] = hub.commit(REPO, {'model.safetensors': (other / 'best' / 'model.safetensors').read_bytes()})
    (package / f'{NAME}.json').write_text(json.dumps(entry))
    overlay = {} if ':' in name else dict(pretrained_cfg_overlay=dict(hf_hub_id=load_entries(package)[NAME].hub_id))
    wrong = sha256_of(other / 'best' / 'model.safetensors')
    with pytest.raises(RuntimeError, match=f'{wrong}, but hub_configs/{NAME}.json records {recorded}'):
        timm.create_model(name, pretrained=True, **overlay, **kwargs)


def test_missing_repository_and_private_one(hub, folder, package, monkeypatch, capsys):
    assert main(['verify', 'hf-hub:nobody/nothing']) == 2
    assert 'hf-hub:nobody/nothing: cannot be downloaded' in capsys.readouterr().err
    with pytest.raises(Exception, match='nobody/nothing'):
        timm.create_model('hf-hub:nobody/nothing', pretrained=True)
    assert main(['publish', str(folder), '--repo', 'me/hidden', '--private']) == 0
    assert 'entry:' not in capsys.readouterr().out and not list(package.glob('*hidden*'))
    assert hub.repositories['me/hidden']['private']
    timm.create_model('hf-hub:me/hidden', pretrained=True)
    monkeypatch.setenv('HF_TOKEN', 'hf_of_somebody_else')
    with pytest.raises(Exception, match='401|hidden'):
        timm.create_model('hf-hub:me/hidden', pretrained=True, cache_dir=folder / 'cold')
    assert main(['publish', str(folder), '--repo', 'me/hidden']) == 2
    assert 'log in by: hf auth login' in capsys.readouterr().err


def test_private_does_not_hide_a_public_repository(hub, folder, package, capsys):
    main(['publish', str(folder), '--repo', REPO, *entry_of(package)])
    assert main(['publish', str(folder), '--repo', REPO, '--private']) == 2
    assert 'exists and is public' in capsys.readouterr().err


def test_interrupted_download(hub, folder, package, monkeypatch):
    model = make_folder(folder)
    main(['publish', str(folder), '--repo', REPO, *entry_of(package)])
    monkeypatch.setattr('huggingface_hub.file_download.time.sleep', lambda seconds: None)
    hub.broken.add('model.safetensors')
    with pytest.raises(Exception):  # noqa: B017  whatever the client raises, it is no model
        timm.create_model(f'hf-hub:{REPO}', pretrained=True)
    hub.broken.clear()
    assert torch.equal(output(timm.create_model(f'hf-hub:{REPO}', pretrained=True)), output(model))


def test_hub_out_of_reach(hub, folder, package, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, 'ENDPOINT', 'http://127.0.0.1:9')
    assert main(['publish', str(folder), '--repo', REPO]) == 2
    assert f'--repo {REPO}: the Hub cannot be reached' in capsys.readouterr().err


def test_entry_only_where_it_is_asked_for(hub, folder, package, tmp_path, capsys):
    """A publication leaves a clone as it is, whose later runs would list weights that are elsewhere or nowhere."""
    before = {path: path.read_bytes() for path in package.rglob('*.json')}
    assert main(['publish', str(folder), '--repo', 'me/people', '--license', 'mit']) == 0
    assert 'entry:' not in capsys.readouterr().out and not list(folder.rglob('msinet_*.json'))
    assert {path: path.read_bytes() for path in package.rglob('*.json')} == before

    path = tmp_path / 'new' / 'given.json'
    assert main(['publish', str(folder), '--repo', 'me/people', '--entry', str(path)]) == 0
    assert f'entry: {path}' in capsys.readouterr().out
    entry = json.loads(path.read_text())
    assert entry['license'] == 'mit' and entry['hf_hub_id'] == 'me/people' and entry['genotype'] == 'msmt'
    assert entry['training_data'] == [dict(name='market1501', license='not stated', url=None)]
    assert entry['sha256'] == sha256_of(folder / 'best' / 'model.safetensors')
    shutil.copy(path, package / 'msinet_x0_25.people.json')
    assert 'msinet_x0_25.people' in load_entries(package)


def test_models_without_an_entry(hub, tmp_path, package, capsys):
    """Any timm model can be published, and any genotype; only named networks can have an entry."""
    for number, model in enumerate(
        (
            timm.create_model('test_resnet', num_classes=0),
            timm.create_model('msinet_x0_25', genotype=['none'] * 12, num_classes=0),
        )
    ):
        save_folder(model.eval(), tmp_path / 'm', SMALL)
        assert main(['publish', str(tmp_path / 'm'), '--repo', f'me/m{number}']) == 0
        assert 'entry:' not in capsys.readouterr().out
        loaded = timm.create_model(f'hf-hub:me/m{number}', pretrained=True)
        assert torch.equal(output(loaded), output(model))
        assert main(['publish', str(tmp_path / 'm'), '--repo', f'me/m{number}', '--entry', 'e.json']) == 2
        assert '--entry e.json' in capsys.readouterr().err


def test_unsound_folders(hub, folder, package, tmp_path, capsys):
    best = folder / 'best'

    def refused(message, repo=REPO):
        assert main(['publish', str(folder), '--repo', repo]) == 2
        assert re.search(message, capsys.readouterr().err) and not hub.repositories

    refused('--repo people: give OWNER/NAME', 'people')
    (best / 'calibration.json').write_text('{}')
    refused('calibration.json: cannot read the calibration: KeyError')
    model = make_folder(folder)
    model.lateral.bias.data[3] = float('nan')
    save_folder(model, best, SMALL)
    refused('best/model.safetensors: lateral.bias holds values that are not finite')
    save_folder(timm.create_model('msinet_x0_5', num_classes=0), best, SMALL)
    refused('is for the network of hub_configs/msinet_x0_25.market1501.json, and this is another')
    (best / 'model.safetensors').rename(best / 'pytorch_model.bin')
    refused('model.safetensors is missing; msinet-hub convert')
    (best / 'config.json').write_text('{"architecture": "nothing"}')
    refused('model.safetensors is missing')
    (best / 'model.safetensors').touch()
    refused('architecture nothing is no model that timm knows')
    (best / 'config.json').unlink()
    refused('neither a model folder')


def test_verify(hub, folder, package, capsys):
    main(['publish', str(folder), '--repo', REPO, *entry_of(package)])
    capsys.readouterr()
    for name in (str(folder), f'hf-hub:{REPO}', NAME):
        assert main(['verify', name]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ['hash', 'shapes', 'preprocessing', 'example']
        known = name != str(folder)  # a folder alone says nothing of its hash and preprocessing
        assert [line.split()[1] for line in lines] == (['ok'] * 4 if known else ['-', 'ok', '-', 'ok'])

    best = folder / 'best'
    config = json.loads((best / 'config.json').read_text())
    config['pretrained_cfg']['mean'] = [0.5, 0.5, 0.5]
    hub.commit(REPO, {'config.json': json.dumps(config).encode()})
    assert main(['verify', f'hf-hub:{REPO}']) == 1
    wrong = {c.name: c.found for c in verify(f'hf-hub:{REPO}') if c.passed is False}
    assert wrong.keys() == {'preprocessing', 'example'} and 'mean [0.5, 0.5, 0.5] instead of' in wrong['preprocessing']

    make_folder(folder, seed=1)
    hub.commit(REPO, {'model.safetensors': (best / 'model.safetensors').read_bytes()})
    assert {c.name for c in verify(f'hf-hub:{REPO}') if c.passed is False} == {'hash', 'preprocessing', 'example'}
    save_folder(timm.create_model('msinet_x0_5', num_classes=0), folder, SMALL)
    hub.commit(REPO, {'model.safetensors': (folder / 'model.safetensors').read_bytes()})
    assert [c.name for c in verify(f'hf-hub:{REPO}') if c.passed is False] == ['hash', 'shapes']

    assert main(['verify', 'msinet_x1_0.in1k']) == 2
    assert 'no weights yet' in capsys.readouterr().err
    assert main(['verify', 'resnet50']) == 2
    assert 'give a folder' in capsys.readouterr().err


def test_list(hub, folder, package, capsys):
    main(['publish', str(folder), '--repo', REPO, *entry_of(package)])
    capsys.readouterr()
    assert main(['list']) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines[NAME][1] == 'Hub' and lines[NAME][-3:] == ['market1501', '50.0', '75.0']
    assert lines['msinet_x0_25.rendered_128x64'][1] == lines['msinet_x1_0.rendered'][1] == '*'
    assert lines['msinet_x1_0.in1k'][1:] == ['none', 'yet']


def test_card(tmp_path, package, capsys):
    make_folder(tmp_path / 'bare', card=False)
    flags = ['card', str(tmp_path / 'bare'), '--repo', REPO]
    assert main(flags) == 0
    path = tmp_path / 'bare' / 'best' / 'README.md'
    assert capsys.readouterr().out.strip() == str(path)
    text = path.read_text()
    card = ModelCard(text)
    assert card.data.license == 'apache-2.0' and 'Market-1501 (for research only' in card.text
    assert 'Not measured.' in card.text and '64x32 (height x width)' in card.text and '## Same or not' in card.text
    main([*flags, '--license', 'mit'])
    assert path.read_text() == text  # a licence that the card names stays


def test_command_of_the_guide(hub, folder, package, monkeypatch, capsys):
    """The last command of docs/fine-tuning.md, as printed there."""
    guide = (Path(__file__).parents[3] / 'docs' / 'fine-tuning.md').read_text(encoding='utf-8')
    (command,) = re.findall(r'^msinet-hub (publish .*)$', guide, re.MULTILINE)
    (folder.parent / 'runs').mkdir()
    folder.rename(folder.parent / 'runs' / 'mine')
    monkeypatch.chdir(folder.parent)
    assert main(command.split()) == 0
    assert timm.create_model('hf-hub:OWNER/NAME', pretrained=True).num_classes == 0


def test_transformers(hub, folder, package, tmp_path):
    transformers = pytest.importorskip('transformers')
    for name, model in (('a', make_folder(folder)), ('b', make_folder(tmp_path / 'b', num_classes=7))):
        place = folder if name == 'a' else tmp_path / 'b'
        loaded = transformers.AutoModel.from_pretrained(place / 'best').eval()
        images = torch.linspace(-1, 1, 3 * 64 * 32).view(1, 3, 64, 32)
        with torch.no_grad():
            found = loaded(images)
            expected = model.forward_features(images)
            assert torch.equal(found.last_hidden_state, expected)
            assert torch.equal(found.pooler_output, model.forward_head(expected, pre_logits=True))
