"""Runs and the people that they began with; the commands are in tests/hostile/test_people.py."""

import pytest

from msinet_timm.datasets.trained import TRAINED_ON, Learnt, TrainedOn
from msinet_timm.errors import InputError
from msinet_train.run.people import check_people

NAMES = ('anna', 'ben', 'cleo', 'dora', 'emil')


def learnt(*names, dataset='folder', root='/data'):
    return Learnt(dataset, root, names, {})


@pytest.fixture
def run(tmp_path):
    (tmp_path / TRAINED_ON).write_text(TrainedOn((learnt(*NAMES), learnt('1', '2', dataset='sample'))).to_json())
    return tmp_path


def check(run, *sources, remarks=(), program='msinet-train'):
    check_people(run, TrainedOn(sources), remarks, program)


def test_the_same_people_elsewhere(run):
    check(run, learnt(*NAMES, root='/moved'), learnt('1', '2', dataset='sample'))


@pytest.mark.parametrize(
    'names, told',
    [
        (NAMES[1:], r'folder in /data: 1 gone \(anna\)\. Bring'),
        ((*NAMES, 'f', '10', '9', 'g'), r'folder in /data: 4 added \(10, 9, f, \.\.\.\)\. Bring'),
        ((*NAMES[1:], 'anne'), r'folder in /data: 1 added \(anne\), 1 gone \(anna\)\. Bring'),
    ],
)
def test_other_people(run, names, told):
    with pytest.raises(InputError, match=f'^resume {run}: .*{told}'):
        check(run, learnt(*names), learnt('1', '2', dataset='sample'))


def test_all_changes_are_told(run):
    with pytest.raises(InputError, match=r'folder in /data: 1 gone \(anna\); sample in /data: 1 added \(3\)\. Bring'):
        check(run, learnt(*NAMES[1:]), learnt('1', '2', '3', dataset='sample'))


@pytest.mark.parametrize('sources', [(learnt(*NAMES),), (learnt('1', '2', dataset='sample'), learnt(*NAMES))])
def test_other_data_sets(run, sources):
    """Also another order, by which classes are numbered."""
    with pytest.raises(InputError, match='it has learnt from folder, sample, and not from '):
        check(run, *sources)


def test_the_way_out(run):
    with pytest.raises(InputError, match=r'or begin another run by another --output$'):
        check(run, learnt('1'), learnt('1', '2', dataset='sample'), program='msinet-search')
    way = f'--recipe {run}/args.yaml --output DIR'
    with pytest.raises(InputError, match=f'{way}$'):
        check(run, learnt('1'), learnt('1', '2', dataset='sample'))
    (run / 'last').mkdir()
    with pytest.raises(InputError, match=f'{way}, with its weights by --model {run}/last$'):
        check(run, learnt('1'), learnt('1', '2', dataset='sample'))


def test_a_run_of_the_version_before(tmp_path):
    """Only where identities were split otherwise, they are others."""
    check(tmp_path, learnt(*NAMES), remarks=('market1501: no cameras known',))
    with pytest.raises(InputError, match='begun by an earlier version'):
        check(tmp_path, learnt(*NAMES), remarks=('folder: split by identity: 2 of 5 to test on',))
