import pytest
import yaml

from msinet_timm.errors import InputError
from msinet_train.cli import main, parse_args
from msinet_train.recipe import list_recipes, load_recipe


@pytest.mark.parametrize('name', list_recipes())
def test_recipes_are_complete(name):
    args = parse_args(['--recipe', name])
    assert {k: getattr(args, k) for k in load_recipe(name)} == load_recipe(name)


def test_published_recipe_is_the_default():
    args = parse_args([])
    assert (args.dataset, args.height, args.width, args.batch_size, args.num_instance) == (
        ['market1501'],
        256,
        128,
        64,
        4,
    )
    assert (args.opt, args.lr, args.momentum, args.weight_decay, args.epochs) == ('momentum', 0.065, 0.9, 5e-4, 350)
    assert str(args.folder) == 'runs/market1501_msinet_x1_0'


def test_flags_beat_the_recipe(tmp_path):
    file = tmp_path / 'own.yaml'
    file.write_text(yaml.safe_dump({**load_recipe('scratch'), 'lr': 0.5, 'epochs': 7}))
    args = parse_args(['--recipe', str(file), '--epochs', '9', '--milestones', '3', '4'])
    assert (args.lr, args.epochs, args.milestones) == (0.5, 9, [3, 4])


@pytest.mark.parametrize(
    'change, message',
    [
        ({'lerning_rate': 1}, "unknown setting 'lerning_rate'"),
        ({'epochs': 0}, 'epochs: 0 is not allowed'),
        ({'lr': 'fast'}, "lr: 'fast' is not allowed"),
        ({'milestones': 5}, 'milestones: 5 must be a list'),
        ({'sched': 'linear'}, "sched: 'linear' is not one of multistep, cosine"),
    ],
)
def test_wrong_recipe(tmp_path, change, message):
    file = tmp_path / 'own.yaml'
    file.write_text(yaml.safe_dump({**load_recipe('scratch'), **change}))
    with pytest.raises(InputError, match=f'own.yaml: {message}'):
        parse_args(['--recipe', str(file)])


@pytest.mark.parametrize('options', [None, 3, ['a'], 'sep'])
def test_flags_extend_what_is_right_only(tmp_path, options):
    file = tmp_path / 'own.yaml'
    file.write_text(yaml.safe_dump({**load_recipe('scratch'), 'data_option': options}))
    with pytest.raises(InputError, match=r'own.yaml: data_option: '):
        parse_args(['--recipe', str(file), '--data-option', 'b=2'])


def test_flags_extend_a_single_text(tmp_path):
    file = tmp_path / 'own.yaml'
    file.write_text(yaml.safe_dump({**load_recipe('scratch'), 'data_option': 'a=1'}))
    assert parse_args(['--recipe', str(file), '--data-option', 'b=2']).data_option == ['a=1', 'b=2']


def test_incomplete_recipe(tmp_path):
    file = tmp_path / 'own.yaml'
    file.write_text('epochs: 3')
    with pytest.raises(InputError, match=r'own.yaml: lacks .*lr'):
        parse_args(['--recipe', str(file)])


@pytest.mark.parametrize(
    'text, message',
    [
        ('a: [', 'own.yaml: not valid YAML: '),
        ('a: é'.encode('latin-1'), 'own.yaml: not valid YAML: unacceptable character'),
        ('a: 2024-13-45', 'own.yaml: not valid YAML: month must be in 1..12'),
        ('- 3', 'expected settings'),
        (None, 'no such recipe or file'),
    ],
)
def test_unreadable_recipe(tmp_path, text, message):
    file = tmp_path / 'own.yaml'
    if text:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        parse_args(['--recipe', str(file)])


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--recipe', 'scrath'], '--recipe scrath: no such recipe or file .*scratch'),
        (['--resume', '/nowhere'], '--resume /nowhere: no run there'),
        (['--resume', 'x', '--recipe', 'scratch'], 'leave out --recipe'),
        (['-ds', 'market1502'], 'market1502.*market1501.*sample'),
        (['--data-dir', '/nowhere'], '/nowhere'),
        (['--lr', '-1'], 'must be greater than 0'),
        (['--erasing', '2'], 'must be between 0 and 1'),
        (
            ['-ds', 'sample', '--batch-size', '7', '--workers', '0'],
            'error: --batch-size 7 is not a multiple of --num-instance 4\n',
        ),
        (['--epochs', 'many'], "invalid number value: 'many'"),
    ],
)
def test_wrong_input_ends_with_2(capsys, tmp_path, argv, message):
    try:
        code = main([*argv, '--output', str(tmp_path / 'run')] if '--resume' not in argv else argv)
    except SystemExit as e:  # argparse ends by itself
        code = e.code
    assert code == 2
    captured = capsys.readouterr().err
    assert 'Traceback' not in captured
    import re

    assert re.search(message, captured)
    assert not (tmp_path / 'run').exists()
