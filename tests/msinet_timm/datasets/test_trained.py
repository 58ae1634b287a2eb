"""Who was trained on, and whether a data set asks for them."""

import json

import pytest

from msinet_timm.datasets import Protocol, Record, ReIDDataset, Remote
from msinet_timm.datasets.trained import TRAINED_ON, Learnt, TrainedOn, find_trained
from msinet_timm.errors import InputError

SEEN = 'SEEN IN TRAINING: {} of {} query identities are among those that this model was trained on'


@pytest.fixture
def image(tmp_path):
    """A record of a file that holds some text."""

    def write(identity, name='1.jpg', content='', folder='data'):
        path = tmp_path / folder / identity / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content or f'{identity} {name}')
        return Record(str(path), identity)

    return write


def dataset(root, train='', query='', gallery='', name='folder', **about):
    parts = (
        [Record(f'/none/{root}/{i}.jpg', i) if isinstance(i, str) else i for i in p] for p in (train, query, gallery)
    )
    return ReIDDataset(name, root, *map(tuple, parts), **about)


def remarks(trained, dataset):
    return [note for note in trained.tell(dataset).remarks if 'SEEN' in note]


def test_names_count_within_their_data_set_only():
    trained = TrainedOn((Learnt.of(dataset('a', train='xyz')),))
    (told,) = remarks(trained, dataset('a', train='z', query='wwxyy', gallery='wxy'))
    assert told.startswith(SEEN.format(2, 3))
    for other in (
        dataset('b', query='x', gallery='x'),
        dataset('a', query='x', gallery='x', name='market1501'),
        dataset('a', query='w', gallery='wx'),  # a distractor
        dataset('a', train='x'),
    ):
        assert not remarks(trained, other)


def test_drawn_queries():
    """Where galleries are drawn, all may ask, unless there are queries."""
    trained, drawn = TrainedOn((Learnt.of(dataset('a', train='x')),)), Protocol(draws=3)
    assert remarks(trained, dataset('a', gallery='xxyy', protocol=drawn))[0].startswith(SEEN.format(1, 2))
    assert not remarks(trained, dataset('a', query='y', gallery='xxyy', protocol=drawn))


def test_a_copy_elsewhere_is_the_same_data_set(image):
    """By one of the images that were trained on; names of people and files alone tell nothing."""
    people = [str(i) for i in range(40)]
    learnt = Learnt.of(dataset('a', train=[image(name) for name in people]))
    assert len(learnt.samples) <= 16
    trained, sampled = TrainedOn((learnt,)), next(iter(learnt.samples))
    kept = [
        image(sampled, folder='b'),
        *(image(name, content='other', folder='b') for name in people if name != sampled),
    ]
    (told,) = remarks(trained, dataset('b', query=kept, gallery=kept))
    assert told.startswith(SEEN.format(40, 40))
    others = [image(name, content='other', folder='c') for name in people]
    assert not remarks(trained, dataset('c', query=others, gallery=others))
    renamed = [image(sampled, name='2.jpg', content=f'{sampled} 1.jpg', folder='d')]
    assert not remarks(trained, dataset('d', query=renamed, gallery=renamed))


def test_links_and_remote_places(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'a')
    trained = TrainedOn((Learnt.of(dataset(str(tmp_path / 'a'), train='x')),))
    assert remarks(trained, dataset(str(tmp_path / 'link'), query='x', gallery='x'))
    place = Remote('pipe:cat {}')
    trained = TrainedOn((Learnt.of(dataset(place, train='x')),))
    assert trained.sources[0].root == 'pipe:cat {}' and trained.sources[0].samples == {}
    assert remarks(trained, dataset(place, query='x', gallery='x'))


def test_what_the_weights_were_trained_on_before():
    trained = TrainedOn((Learnt.of(dataset('a', train='x')),), (Learnt.of(dataset('a', train='y')),))
    assert remarks(trained, dataset('a', query='xyz', gallery='xyz'))[0].startswith(SEEN.format(2, 3))
    (merged,) = trained.everything
    assert merged.identities == ('x', 'y')


def test_written_and_read(tmp_path, image):
    strange = ['Zoë', 'a\udce9', '"', '007', '7']
    sources = (
        Learnt.of(dataset('a', train=[image('anna'), *strange])),
        Learnt.of(dataset('b', train='x', name='sample')),
    )
    trained = TrainedOn(sources, (Learnt.of(dataset('c', train='y')),))
    file = tmp_path / TRAINED_ON
    file.write_text(trained.to_json())
    assert TrainedOn.load(file) == trained
    assert trained.sources[0].identities == tuple(sorted(['anna', *strange]))
    told = json.loads(file.read_text())
    told['sources'][0]['identities'][0] = 'somebody'
    file.write_text(json.dumps(told))
    with pytest.raises(InputError, match=f'{TRAINED_ON}: not a list of identities .* its names are not those'):
        TrainedOn.load(file)


def test_digest_is_of_names_alone():
    one, other = Learnt.of(dataset('a', train='xyz')), Learnt.of(dataset('b', train='zyxx'))
    assert one.digest == other.digest
    assert len({Learnt('a', '', names, {}).digest for names in (('ab', 'c'), ('a', 'bc'), ('abc',), ())}) == 4


def test_where_it_is_found(tmp_path):
    run = tmp_path / 'run'
    (run / 'best').mkdir(parents=True)
    for file in ('model_best.pth.tar', 'best/model.safetensors'):
        (run / file).touch()
    trained = TrainedOn((Learnt.of(dataset('a', train='x')),))
    (run / TRAINED_ON).write_text(trained.to_json())
    for name in ('', 'best', 'model_best.pth.tar', 'best/model.safetensors'):
        assert find_trained(run / name) == find_trained(f'local-dir:{run / name}') == trained
    (tmp_path / 'link').symlink_to(run / 'best')
    assert find_trained(tmp_path / 'link') == trained
    for name in (tmp_path, run / 'none', run / 'best' / 'none', 'resnet18', 'hf-hub:a/b', None, ''):
        assert find_trained(name) == TrainedOn()


def test_a_run_of_the_version_before(tmp_path):
    (tmp_path / 'args.yaml').write_text('dataset: [folder]')
    trained, split = find_trained(tmp_path), ('split by identity: 1 of 2',)
    (told,) = remarks(trained, dataset('a', query='xy', gallery='xy', notes=split))
    assert told.startswith('MAY HAVE BEEN SEEN IN TRAINING: some of 2 query identities')
    assert not remarks(trained, dataset('a', query='x', gallery='x'))
    assert not remarks(trained, dataset('a', query='x', gallery='x', notes=split, name='other'))
    for other in ('no', 'dataset: folder', 'dataset: 2024-99-99', '[', '{}'):  # timm and others have such a file, too
        (tmp_path / 'args.yaml').write_text(other)
        assert find_trained(tmp_path) == TrainedOn()


def test_a_data_set_says_that_train_and_test_share_identities():
    mixed = dataset('a', train='xxyz', query='wxxy', gallery='wxyz')
    assert mixed.shared == {'x', 'y'}
    assert mixed.remarks[0].startswith('TRAIN AND TEST SHARE IDENTITIES: 2 of 3 query identities have training images')
    assert not any('SHARE' in remark for remark in dataset('a', train='z', query='x', gallery='xz').remarks)
    drawn = dataset('a', train='x', gallery='xxyy', protocol=Protocol(draws=2))
    assert '1 of 2 query identities' in drawn.remarks[0]
