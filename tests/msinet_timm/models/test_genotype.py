import json
import pickle
import subprocess
import sys

import pytest
import timm
from golden_figures import load_json

from msinet_timm import Genotype, register_genotype
from msinet_timm.errors import InputError
from msinet_timm.models.genotype import find_genotype, keep_genotype, named_genotypes, own_folder

OWN = ['none', 'exc'] * 6


def test_published_genotype():
    assert list(named_genotypes()['msmt']) == load_json('network.json')['genotype_msmt']


@pytest.mark.parametrize('spec', [OWN, tuple(OWN), Genotype(OWN), iter(OWN)])
def test_find_operations(spec):
    assert find_genotype(spec) == Genotype(OWN)


def test_cells():
    assert Genotype(OWN).cells == (('none', 'exc'),) * 6


def test_survives_json_and_pickle():
    genotype = Genotype(OWN)
    assert json.loads(json.dumps(genotype)) == OWN
    assert pickle.loads(pickle.dumps(genotype)) == genotype


def test_file(tmp_path):
    path = tmp_path / 'genotype.json'
    Genotype(OWN).save(path, seed=3)
    assert find_genotype(path) == find_genotype(str(path)) == Genotype(OWN)
    assert json.loads(path.read_text())['seed'] == 3
    path.write_text(json.dumps(OWN))
    assert find_genotype(path) == Genotype(OWN)
    assert [p.name for p in tmp_path.iterdir()] == ['genotype.json']


@pytest.mark.parametrize(
    'spec, message',
    [
        (OWN[:11], '12 interactions.*not 11'),
        (['gate'] + OWN[1:], "'gate' at place 0.*none, ag, cross_att, exc"),
        ('mmst', "unknown genotype 'mmst'.*msmt"),
        ('missing.json', 'missing.json: cannot read'),
    ],
)
def test_wrong_spec(spec, message):
    with pytest.raises(ValueError, match=message):
        find_genotype(spec)
    with pytest.raises(ValueError, match=message):
        timm.create_model('msinet_x0_25', genotype=spec)


@pytest.mark.parametrize(
    'text, message',
    [('{', 'no JSON'), ('{"seed": 1}', 'under "operations"'), ('["exc"]', 'not 1'), ('3', 'operations')],
)
def test_wrong_file(tmp_path, text, message):
    path = tmp_path / 'genotype.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf'genotype\.json: .*{message}'):
        find_genotype(path)


def test_register(tmp_path):
    names = register_genotype('own_test', OWN)
    assert names == [f'msinet_own_test_{size}' for size in ('x1_0', 'x0_75', 'x0_5', 'x0_25')]
    assert set(names) <= set(timm.list_models('msinet_own_test*'))
    assert register_genotype('own_test', 'own_test') == names
    model = timm.create_model('msinet_own_test_x0_25', num_classes=3)
    assert model.genotype == OWN and model.num_features == 256
    assert timm.create_model('msinet_x0_25', genotype='own_test').genotype == OWN

    # Saved, it needs no registration: the file names the width's own architecture and the interactions.
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['architecture'] == 'msinet_x0_25' and config['model_args']['genotype'] == OWN
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert loaded.genotype == OWN and loaded.num_classes == 3


def test_register_another_under_the_same_name():
    register_genotype('twice_test', OWN)
    with pytest.warns(UserWarning, match='Overwriting'):
        register_genotype('twice_test', ['ag'] * 12)
    assert timm.create_model('msinet_twice_test_x0_25').genotype == ['ag'] * 12


@pytest.mark.parametrize('name', ['', 'Own', '1st', 'a-b', 'a.b'])
def test_register_bad_name(name):
    with pytest.raises(ValueError, match='genotype name'):
        register_genotype(name, OWN)


def test_genotype_file_is_saved_by_content(tmp_path):
    path = tmp_path / 'genotype.json'
    Genotype(OWN).save(path)
    model = timm.create_model('msinet_x0_25', genotype=path)
    timm.models.save_for_hf(model, tmp_path / 'model', safe_serialization=True)
    path.unlink()
    assert timm.create_model(f'local-dir:{tmp_path}/model', pretrained=True).genotype == OWN


KNOWN = """
import timm
import msinet_timm
print(timm.create_model('msinet_kept_test_x0_25').genotype, timm.is_model('msinet_broken_x0_25'))
"""


def test_kept_genotypes_are_models_of_other_programs(tmp_path, monkeypatch):
    """A broken file beside them is told of, and keeps nobody from importing the models."""
    monkeypatch.setenv('MSINET_GENOTYPES', str(tmp_path))
    assert keep_genotype('kept_test', Genotype(OWN), seed=3) == tmp_path / 'kept_test.json'
    assert json.loads((tmp_path / 'kept_test.json').read_text())['seed'] == 3
    (tmp_path / 'broken.json').write_text('{')
    (tmp_path / 'Bad name.json').write_text('[]')
    (tmp_path / 'msmt.json').write_text(json.dumps(['ag'] * 12))  # what everybody has stays as it is
    result = subprocess.run([sys.executable, '-c', KNOWN], capture_output=True, text=True)
    assert result.stdout.split('\n')[0] == f'{list(OWN)} False'
    assert 'broken.json: left out' in result.stderr and 'Bad name.json: left out' in result.stderr


def test_kept_genotypes_have_a_place(monkeypatch, tmp_path):
    monkeypatch.delenv('MSINET_GENOTYPES', raising=False)
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path))
    assert own_folder() == tmp_path / 'msinet_timm' / 'genotypes'
    monkeypatch.delenv('XDG_DATA_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert own_folder() == tmp_path / '.local' / 'share' / 'msinet_timm' / 'genotypes'


def test_keeping_refuses(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('MSINET_GENOTYPES', str(tmp_path / 'file'))
    with pytest.raises(InputError, match='file.*set MSINET_GENOTYPES to another folder'):
        keep_genotype('kept_test', Genotype(OWN))
    with pytest.raises(InputError, match="'msmt': is one of all_ag"):
        keep_genotype('msmt', Genotype(OWN))
