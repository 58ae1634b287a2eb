import dataclasses

import pytest
import torch
from crowds import write_crowds
from PIL import Image

from msinet_eval.scenes import evaluate_scenes
from msinet_timm.datasets import create_scenes
from msinet_timm.person_search import PersonSearch, create_search_network, save_search
from msinet_timm.person_search.folder import load_search
from msinet_timm.processes import start_processes
from msinet_train.cli import main, parse_args
from msinet_train.person_search.data import create_loader, load_scenes
from msinet_train.person_search.engine import PersonSearchTraining, evaluate_only, prepare, train_person_search
from msinet_train.person_search.settings import PersonSearchSettings
from msinet_train.person_search.task import jitter


@pytest.fixture(scope='module')
def crowds(tmp_path_factory):
    return write_crowds(tmp_path_factory.mktemp('crowds') / 'scenes')


@pytest.fixture
def settings(crowds, tmp_path):
    return PersonSearchSettings(
        data_dir=[crowds], output=tmp_path / 'run', model='msinet_x0_25', min_size=96, max_size=160, epochs=3,
        batch_size=2, workers=0, queue=3, device='cpu', eval_interval=1, grad_accum_steps=2, detector_epochs=1,
    )  # fmt: skip


def weights(folder):
    state = torch.load(folder / 'last.pth.tar', weights_only=True)
    return state['state_dict'] | {f'memory.{k}': v for k, v in state['task_state']['memory'].items()}


def test_resumed_run_ends_as_one_that_was_not_interrupted(settings, tmp_path, monkeypatch):
    result = train_person_search(settings)
    whole = weights(result.folder)
    assert whole['memory.queue'].any() and whole['memory.features'].any(1).all()

    broken = dataclasses.replace(settings, output=str(tmp_path / 'broken'))
    run_epoch = PersonSearchTraining.run_epoch

    def interrupted(self, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return run_epoch(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(PersonSearchTraining, 'run_epoch', interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_person_search(broken)
    assert main(['--resume', broken.output]) == 0
    resumed = weights(tmp_path / 'broken')
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    assert (tmp_path / 'broken' / 'summary.csv').read_text().count('\n') == 4

    # what is measured in the run is what the folder's model gives
    search = PersonSearch(tmp_path / 'broken' / 'last', device='cpu')
    scenes = create_scenes('rendered_scenes', settings.data_dir[0])
    assert evaluate_scenes(search, scenes).metrics == result.measurement.result.metrics
    again = dataclasses.replace(settings, output=None, resume=str(result.folder))
    assert evaluate_only(again).result.metrics == result.measurement.result.metrics


def test_identities_are_learnt(settings):
    settings = dataclasses.replace(
        settings, epochs=8, detector_epochs=0, lr=0.001, lr_pretrained=1.0, flip=0.0, queue=0, box_jitter=0.0
    )
    with start_processes('cpu') as processes:
        training = prepare(settings, processes)
        losses = [training.run_epoch(epoch)['identity'] for epoch in range(8)]
    assert losses[-1] < 0.7 * losses[1]  # in the first one, not all are known yet


def test_detector_learns_alone_first(settings):
    with start_processes('cpu') as processes:
        training = prepare(settings, processes)
        before = {name: p.clone() for name, p in training.network.embedder.named_parameters()}
        training.run_epoch(0)
        assert all(torch.equal(before[name], p) for name, p in training.network.embedder.named_parameters())
        assert not training.task.memory.features.any()
        training.run_epoch(1)
        assert any(not torch.equal(before[name], p) for name, p in training.network.embedder.named_parameters())


def test_mirrored_frames_have_mirrored_boxes(settings):
    data = load_scenes(settings)
    loaders = [create_loader(dataclasses.replace(settings, flip=flip), data) for flip in (0.0, 1.0)]
    for (images, boxes, labels), (mirrored, others, same) in zip(*loaders, strict=True):
        for image, box, label, other, place, also in zip(images, boxes, labels, mirrored, others, same, strict=True):
            assert torch.equal(image.flip(-1), other) and torch.equal(label, also)
            assert torch.equal(box[:, [1, 3]], place[:, [1, 3]])
            assert torch.equal(box[:, [2, 0]], image.shape[-1] - place[:, [0, 2]])
            left, top, right, bottom = box[0].int().tolist()
            crop, (start, _, end, _) = image[:, top:bottom, left:right], place[0].int().tolist()
            assert torch.equal(crop.flip(-1), other[:, top:bottom, start:end])
    assert set(torch.cat(labels).tolist()) <= {-1, 0, 1, 2, 3}


def test_jitter():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 80.0]]).repeat(1000, 1)
    moved = jitter(boxes, 0.1) - boxes
    most = moved.abs().amax(0)
    assert (most <= torch.tensor([2.0, 6, 2, 6]) + 1e-4).all() and (most > torch.tensor([1.9, 5.7, 1.9, 5.7])).all()
    assert torch.equal(jitter(boxes, 0), boxes)


def test_goes_on_from_a_network_of_person_search(settings, tmp_path):
    with start_processes('cpu') as processes:
        first = prepare(settings, processes).network
        save_search(first, tmp_path / 'first')
        settings = dataclasses.replace(settings, model=str(tmp_path / 'first'), min_size=None, max_size=120)
        second = prepare(settings, processes).network
    assert second.config == {**first.config, 'max_size': 120}
    assert (second.transform.min_size, second.transform.max_size) == ((96,), 120)
    for name, tensor in load_search(tmp_path / 'first').state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert {n for n, p in second.named_parameters() if p.requires_grad} == {
        n for n, p in first.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize('flags', ['--genotype msmt', '--no-pretrained'])
def test_a_network_of_person_search_is_taken_whole(crowds, tmp_path, capsys, flags):
    save_search(create_search_network('msinet_x0_25', min_size=64, max_size=128), tmp_path / 'first')
    argv = f'--task search --data-dir {crowds} --output {tmp_path / "run"} --model {tmp_path / "first"} {flags}'
    assert main(argv.split()) == 2
    assert flags.split()[0].replace('--no-', '--') in capsys.readouterr().err


def test_random_weights(settings):
    with start_processes('cpu') as processes:
        training = prepare(dataclasses.replace(settings, pretrained=False, detector_epochs=0), processes)
        assert all(p.requires_grad for p in training.network.parameters())
        training.run_epoch(0)


@pytest.mark.parametrize(
    'flags, told',
    [
        ('--num-instance 4', '--num-instance is for --task reid, and not for --task search: leave it out'),
        ('--sam-mode pos', '--sam-mode is for --task reid'),
        ('--min-size 900 --max-size 800', '--min-size 900 is above --max-size 800'),
        ('--detector-epochs 3', '--detector-epochs 3 leave none of 3 --epochs'),
        ('--recipe scratch', 'unknown setting'),
        ('-ds rendered_scenes prw', 'person search learns from one'),
        ('-ds market1501', "unknown scenes 'market1501'"),
        ('--model resnet18 --no-pretrained', 'model resnet18: resnet18 is a ResNet: person search needs an MSINet'),
        ('--model msinet_x0_75', '--no-pretrained'),
        ('--model msinet_x9', 'model msinet_x9: unknown model'),
        ('--opt nothing', '--opt nothing: timm has no such optimizer'),
        ('--amp --amp-dtype float16', '--amp-dtype float16 needs CUDA'),
        ('--amp-dtype bf16', '--amp-dtype is a setting of --amp'),
    ],
)
def test_wrong_flags(crowds, tmp_path, capsys, flags, told):
    argv = f'--task search --data-dir {crowds} --output {tmp_path / "run"} --device cpu --epochs 3 {flags}'.split()
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert told in error and 'Traceback' not in error
    assert not (tmp_path / 'run').exists()


def test_names_are_looked_at_before_folders(capsys):
    assert main('--task search -ds sample'.split()) == 2
    assert "unknown scenes 'sample', choose from: cuhk_sysu" in capsys.readouterr().err
    assert main('--task search -ds prw'.split()) == 2
    assert '--data-dir: name the folder of prw' in capsys.readouterr().err


def test_flags_of_search_are_refused_for_reid(capsys):
    assert main(['--queue', '5']) == 2
    assert '--queue is for --task search, and not for --task reid' in capsys.readouterr().err


def test_task_of_a_run(settings, capsys, tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    for task, other in (('search', 'reid'), ('reid', 'search')):
        (run / 'args.yaml').write_text('task: search\nepochs: 7\n' if task == 'search' else 'epochs: 7\n')
        assert main(['--resume', str(run), '--task', other]) == 2
        assert f'--task {other}: {run / "args.yaml"} holds the settings of another task, {task}' in (
            capsys.readouterr().err
        )
    (run / 'args.yaml').write_text('task: [search]\n')
    assert main(['--resume', str(run)]) == 2
    assert 'is not one of reid, search' in capsys.readouterr().err
    argv = ['--task', 'search', '--data-dir', settings.data_dir[0], '--epochs', '4']
    assert parse_args(argv) == PersonSearchSettings(data_dir=settings.data_dir, epochs=4)


@pytest.mark.parametrize('task', ['without boxes', 'without identities', 'box outside', 'no image'])
def test_wrong_scenes(tmp_path, capsys, task):
    root = write_crowds(tmp_path / 'scenes', boxes=task != 'without boxes')
    rows = (root / 'train.jsonl').read_text()
    if task == 'without identities':
        lines = [line.partition('"identities"')[0] + '"identities": [-1, -1, -1]}\n' for line in rows.splitlines()]
        (root / 'train.jsonl').write_text(''.join(lines))
    elif task == 'box outside':
        Image.new('RGB', (20, 20)).save(root / 'train' / '3.png')
    elif task == 'no image':
        (root / 'train' / '3.png').unlink()
    argv = (
        f'--task search --data-dir {root} --output {tmp_path / "run"} --model msinet_x0_25 --min-size 64 '
        '--max-size 128 --epochs 1 --workers 0 --device cpu'
    )
    assert main(argv.split()) == 2
    error = capsys.readouterr().err
    told = {
        'without boxes': 'its 6 training scenes have no boxes',
        'without identities': 'nobody in its training scenes has an identity',
        'box outside': '3.png: box',
        'no image': '3.png',
    }
    assert told[task] in error and 'Traceback' not in error
