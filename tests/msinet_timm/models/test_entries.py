import json
import re
from dataclasses import replace

import pytest

from msinet_timm.errors import InputError
from msinet_timm.hub.calibration import find_calibration
from msinet_timm.models.entries import Entry, entries_folder, find_entry, load_entries, read_entry, write_entry
from msinet_timm.models.genotype import named_genotypes
from msinet_timm.models.weights import load_default_cfgs

NAME = 'msinet_x1_0.rendered'


def entry(**changes):
    fields = load_entries()[NAME].as_fields()
    for field in ('file', 'revision'):
        fields.pop(field, None)
    return {**fields, 'sha256': None, 'size': None, **changes}


def check(fields, folder, name=NAME):
    """The entry of a file that somebody has written."""
    path = folder / f'{name}.json'
    path.write_text(json.dumps(fields))
    found = read_entry(path)
    found.check()
    return found


@pytest.mark.parametrize('name', load_entries())
def test_each_entry_of_the_package_is_right(name):
    load_entries()[name].check()


def test_entries_of_the_package():
    entries = load_entries()
    tags = {
        'in1k',
        'market1501',
        'msmt17',
        'veri776',
        'vehicleid',
        'msmt17_to_market1501',
        'sample',
        'rendered',
        'rendered_128x64',
        'rendered_vehicles',
    }
    assert {e.tag for e in entries.values() if e.architecture == 'msinet_x1_0'} == tags
    assert {e.architecture for e in entries.values() if e.default} == {
        f'msinet_{width}' for width in ('x0_25', 'x0_5', 'x0_75', 'x1_0', 'street_x0_5')
    }
    for name, found in entries.items():
        assert found.hf_hub_id == f'msinet-timm/{name}' and found.genotype in named_genotypes()
        assert found.available == (found.sha256 is not None)
    assert find_entry('msinet_x1_0').name == NAME and find_entry(f'hf-hub:msinet-timm/{NAME}').name == NAME
    assert find_entry('resnet50') is None


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'sise': 3}, "unexpected keyword argument 'sise'"),
        ({'genotype': 'none'}, 'genotype none is not that of msinet_x1_0'),
        ({'default': 1}, "default: Field 'default' expected bool, got int"),
        ({'hf_hub_id': 'people'}, "hf_hub_id: must be OWNER/NAME, got 'people'"),
        ({'sha256': 'ab', 'size': 1}, 'sha256: must be 64 hexadecimal digits, lower case, or null'),
        ({'sha256': 'a' * 64}, 'sha256 and size belong together'),
        ({'file': f'weights/{NAME}.safetensors'}, 'file needs the sha256'),
        ({'file': '../model.safetensors'}, 'file: must be weights/NAME.safetensors'),
        ({'num_classes': -1}, 'num_classes: must be a whole number, 0 or more'),
        ({'preprocessing': []}, "preprocessing: Field 'preprocessing' expected dict"),
        ({'preprocessing': {'input_size': [3, 8, 8]}}, 'preprocessing: fields are missing: crop_mode, crop_pct, '),
        ({'training_data': 'market'}, 'training_data: .* expected a list, got str'),
        (
            {'training_data': [{'name': 'x', 'license': ' ', 'url': None}]},
            r"training_data: \[0\] license: must be a text, got ' '",
        ),
        (
            {'training_data': [{'name': 'x', 'license': 'y', 'url': 'z'}]},
            r"training_data: \[0\] url: must be a URL, got 'z'",
        ),
        (
            {'results': [{'dataset': 'x', 'protocol': 'y', 'mAP': 50, 'rank1': 0.1, 'mINP': None}]},
            r'results: \[0\] mAP: must be a number from 0 to 1, got 50',
        ),
        ({'threshold': 0.5}, "threshold: Field 'threshold' with value 0.5 doesn't match"),
        ({'license': None}, "license: Field 'license' expected str, got NoneType"),
    ],
)
def test_malformed_entries_are_named(tmp_path, change, message):
    fields = entry(**change)
    with pytest.raises(InputError, match=message) as error:
        check(fields, tmp_path)
    assert str(error.value).startswith(f'hub_configs/{NAME}.json: ')


def test_missing_fields_and_other_files(tmp_path):
    fields = entry()
    del fields['recipe'], fields['license']
    with pytest.raises(InputError, match="missing 2 required .* 'recipe' and 'license'"):
        check(fields, tmp_path)
    with pytest.raises(InputError, match='architecture and tag are those of msinet_x1_0.rendered.json'):
        check(entry(), tmp_path, 'other')
    with pytest.raises(InputError, match="architecture: must be the name of one of this package's .* got 'resnet50'"):
        Entry(**entry(architecture='resnet50')).check()
    (tmp_path / 'a.json').write_text('{')
    with pytest.raises(InputError, match='hub_configs/a.json: no JSON'):
        read_entry(tmp_path / 'a.json')
    (tmp_path / 'a.json').write_text('[]')
    with pytest.raises(InputError, match='hub_configs/a.json: .* must be a mapping, not list'):
        read_entry(tmp_path / 'a.json')


def test_damage_is_named_when_timm_needs_the_entry(tmp_path, monkeypatch):
    """Fields are not checked at every import, but no damage ends in a traceback of something else."""
    fields = entry()
    del fields['preprocessing']['input_size']
    (tmp_path / f'{NAME}.json').write_text(json.dumps(fields))
    monkeypatch.setattr('msinet_timm.models.entries.entries_folder', lambda: tmp_path)
    with pytest.raises(InputError, match=f'hub_configs/{NAME}.json: preprocessing: fields are missing: input_size'):
        load_default_cfgs()


def test_places_count_only_with_a_hash(tmp_path):
    """timm's cfg names weights where a sum is recorded, at the recorded commit, and nothing but timm's own fields."""
    empty, known = (check(fields, tmp_path) for fields in (entry(), entry(sha256='a' * 64, size=5)))
    assert {'hf_hub_id', 'file'} & empty.cfg().keys() == set() and not empty.available
    assert known.cfg()['hf_hub_id'] == f'msinet-timm/{NAME}'
    pinned = replace(known, revision='b' * 40)
    assert pinned.cfg()['hf_hub_id'] == f'msinet-timm/{NAME}@{"b" * 40}'
    assert not replace(known, file='weights/nowhere.safetensors').available
    assert pinned.cfg()['pool_size'] == (16, 8) and not {'sha256', 'results', 'threshold'} & pinned.cfg().keys()


def test_one_default(tmp_path):
    for tag in ('a', 'b'):
        write_entry(Entry(**entry(tag=tag)), tmp_path / f'msinet_x1_0.{tag}.json')
    with pytest.raises(InputError, match='msinet_x1_0.b.json: default is true in msinet_x1_0.a.json as well'):
        load_entries(tmp_path)


def test_written_entries_are_read_back(tmp_path, monkeypatch):
    threshold = dict(threshold=0.7, false_positive_rate=1e-3, true_positive_rate=0.5, dataset='sample')
    path = tmp_path / f'{NAME}.json'
    written = Entry(**dict(reversed(entry(threshold=threshold).items())))
    write_entry(written, path)
    assert load_entries(tmp_path)[NAME] == written
    packaged = json.loads((entries_folder() / f'{NAME}.json').read_text())
    assert list(json.loads(path.read_text())) == [name for name in packaged if name != 'file']
    assert re.search(r'^  "threshold": \{.*\},$', path.read_text(), re.MULTILINE)
    monkeypatch.setattr('msinet_timm.models.entries.entries_folder', lambda: tmp_path)
    assert find_calibration('msinet_x1_0').threshold == 0.7
    with pytest.raises(InputError, match='license: must be'):
        write_entry(replace(written, license=''), path)
    assert load_entries(tmp_path)[NAME] == written
