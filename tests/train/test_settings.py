import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import msinet_train
from msinet_timm.errors import InputError
from msinet_train import TrainSettings
from msinet_train.cli import create_parser, main, parse_args
from msinet_train.person_search.settings import PersonSearchSettings
from msinet_train.search.cli import create_parser as create_search_parser
from msinet_train.search.settings import SearchSettings

SMALL = dict(model='test_resnet', height=32, width=16, batch_size=4, num_instance=2, workers=0, epochs=1)


def test_defaults_are_the_published_training():
    assert TrainSettings() == TrainSettings.from_recipe('scratch') == parse_args([])


def test_a_training_in_python_is_the_command_s(market, tmp_path):
    given = dict(dataset='market1501', data_dir=market, **SMALL)
    result = msinet_train.train(TrainSettings.from_recipe('small', output=tmp_path / 'python', **given))
    assert result.folder == tmp_path / 'python' and 0 < result.last.ranking.mAP <= 1
    flags = [f'--{name.replace("_", "-")}={value}' for name, value in given.items()]
    assert main(['--recipe', 'small', *flags, '--output', str(tmp_path / 'command')]) == 0
    a, b = (load_file(tmp_path / name / 'last' / 'model.safetensors') for name in ('python', 'command'))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (tmp_path / 'python/args.yaml').read_text() == (tmp_path / 'command/args.yaml').read_text()


@pytest.mark.parametrize(
    'wrong, message',
    [
        ({'epochs': 0}, r'epochs: 0 is not allowed \(must be at least 1, got 0\)'),
        ({'lr': 'fast'}, "lr: 'fast' is not allowed"),
        ({'erasing': None}, 'erasing: None is not allowed'),
        ({'milestones': 5}, 'milestones: 5 must be a list'),
        ({'sched': 'linear'}, "sched: 'linear' is not one of multistep, cosine"),
        ({'amp': 'bf16'}, "amp: 'bf16' must be true or false"),
        ({'amp_dtype': 'half'}, "amp_dtype: 'half' is not one of bf16, float16"),
        ({'data_option': 'split'}, 'data_option'),
        ({'dataset': []}, 'dataset: name at least one'),
    ],
)
def test_wrong_values(wrong, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**wrong)
    with pytest.raises(InputError, match=message):
        TrainSettings.from_recipe('small', **wrong)


def test_two_values_are_two():
    with pytest.raises(InputError, match='arch_betas: .* must have 2 values'):
        SearchSettings(arch_betas=[0.5])
    with pytest.raises(InputError, match='order: 3 is not one of 1, 2'):
        SearchSettings(order=3)


def test_texts_paths_and_tuples():
    settings = TrainSettings(dataset='folder', data_dir=Path('a'), milestones=(3, 4), lr='5e-4', amp_dtype='bfloat16')
    assert (settings.dataset, settings.data_dir, settings.milestones) == (['folder'], ['a'], [3, 4])
    assert (settings.lr, settings.amp_dtype) == (5e-4, 'bf16')
    assert str(settings.folder) == 'runs/folder_msinet_x1_0'
    assert str(TrainSettings(resume=Path('b'), output='c').folder) == 'b'
    assert TrainSettings(**yaml.safe_load(yaml.safe_dump(settings.to_dict()))) == settings


OF_REID, OF_SEARCH = ({f.name for f in dataclasses.fields(kind)} for kind in (TrainSettings, PersonSearchSettings))


@pytest.mark.parametrize(
    'settings, create, others',
    [
        (TrainSettings, create_parser, {'task', 'recipe', 'evaluate', *(OF_SEARCH - OF_REID)}),
        (PersonSearchSettings, create_parser, {'recipe', 'evaluate', *(OF_REID - OF_SEARCH)}),
        (SearchSettings, create_search_parser, set()),
    ],
)
def test_each_setting_is_a_flag_with_help(settings, create, others):
    actions = {action.dest: action for action in create()._actions if action.dest != 'help'}
    assert actions.keys() - others == {f.name for f in dataclasses.fields(settings)}
    for field in dataclasses.fields(settings):
        if settings is not PersonSearchSettings or field.name not in {'task', *OF_REID}:  # which have the words of ReID
            assert actions[field.name].help.startswith(field.metadata['about'])
        assert f'{field.name}: {field.metadata["about"]}' in settings.__doc__


def test_settings_of_older_runs(tmp_path):
    """`args.yaml` of a run from before some settings, with what was then the word for bf16."""
    old = TrainSettings(amp=True).to_dict() | {'amp_dtype': 'bfloat16'}
    del old['gather_features'], old['log_wandb']
    (tmp_path / 'args.yaml').write_text(yaml.safe_dump(old))
    settings = TrainSettings.from_run(tmp_path, epochs=400)
    assert (settings.amp_dtype, settings.epochs, settings.folder) == ('bf16', 400, tmp_path)
    assert parse_args(['--resume', str(tmp_path), '--epochs', '400']) == settings
