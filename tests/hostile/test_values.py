"""Values that cannot be used, and commands that are stopped: one line, an exit code, never a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import msinet_eval.cli
import msinet_timm.cli.data
import msinet_train.cli
import msinet_train.search.cli
from msinet_eval.commands import hub
from msinet_timm.commands import command
from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError
from msinet_timm.hub.load import load_model
from msinet_train import TrainSettings

MAINS = {
    'msinet-data': msinet_timm.cli.data.main,
    'msinet-hub': hub.main,
    'msinet-eval': msinet_eval.cli.main,
    'msinet-train': msinet_train.cli.main,
    'msinet-search': msinet_train.search.cli.main,
}
#: What each command is given before the value that is tried.
SMALL = '-ds sample --height 32 --width 16 --workers 0 --epochs 1'
BEFORE = {
    'train': f'msinet-train {SMALL} --model test_resnet --batch-size 4 --num-instance 2',
    'finder': 'msinet-train --task search --data-dir nowhere --workers 0 --epochs 2',
    'search': f'msinet-search {SMALL} --variant x0_25 --batch-size 6 --num-instance 2',
    'eval': 'msinet-eval color_histogram -ds sample --workers 0',
    'compare': 'msinet-eval compare a b -ds sample',
    'genotypes': 'msinet-search compare -ds sample',
    'find': 'msinet-eval search gallery.npy query.npy',
    'data': 'msinet-data',
    'hub': 'msinet-hub',
}
FAR = '99999999999999999999'


def run(line, capsys):
    """Exit code and standard error of a command in this process."""
    name, *argv = line.split(' ')
    try:
        code = MAINS[name](argv)
    except SystemExit as e:
        code = e.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    'kind, value, told',
    [
        ('train', '--weight-decay -5', '--weight-decay: must be at least 0, got -5'),
        ('train', '--weight-decay nan', '--weight-decay: must be at least 0, got nan'),
        ('train', '--weight-decay inf', '--weight-decay: must be finite, got inf'),
        ('train', '--min-lr nan', '--min-lr: must be at least 0, got nan'),
        ('train', '--min-lr -1', '--min-lr: must be at least 0'),
        ('train', '--lr inf', '--lr: must be finite'),
        ('train', '--opt adamw --opt-betas 0.9', '--opt-betas 0.9: the optimizer adamw has 2'),
        ('train', '--opt adamw --opt-betas 0.9 0.99 0.999', '--opt-betas 0.9 0.99 0.999: the optimizer adamw has 2'),
        ('train', '--opt adan --opt-betas 0.9 0.99', '--opt-betas 0.9 0.99: the optimizer adan has 3'),
        ('train', '--opt adamw --opt-betas 0.9 1', '--opt-betas: must be at least 0 and below 1, got 1'),
        ('train', '--opt adahessian', '--opt adahessian: it needs second derivatives'),
        ('train', '--color-jitter 0 0 0 1', '--color-jitter 0.0 0.0 0.0 1.0: give brightness, contrast, saturation'),
        ('train', '--color-jitter 0 0 0 0.1 0.2', 'saturation and hue, this up to 0.5'),
        ('train', '--miscrop 1.1', '--miscrop: must be between 0 and 1, got 1.1'),
        ('train', '--camera-tone nan', '--camera-tone: must be between 0 and 1, got nan'),
        ('train', '--camera-quality -0.1', '--camera-quality: must be between 0 and 1, got -0.1'),
        ('train', '--background 1.5', '--background: must be between 0 and 1, got 1.5'),
        ('train', '--background 0.5', 'has no mask: give people rendered by'),
        ('train', '--mixstyle 2', '--mixstyle: must be between 0 and 1, got 2'),
        ('train', '--wake-gates --model test_resnet', '--wake-gates: test_resnet is no MSINet, which alone has'),
        ('train', '--mixstyle 0.5 --camera-norm', '--camera-norm: not with mixstyle'),
        ('train', '--mixstyle 0.5 --model test_vit --height 160 --width 160', '--mixstyle 0.5: VisionTransformer'),
        ('train', '--progressive-resize 128x64', '--progressive-resize: give HEIGHTxWIDTH:SHARE, such as 128x64:0.6'),
        ('train', '--progressive-resize 128x64:x', '--progressive-resize: give HEIGHTxWIDTH:SHARE'),
        ('train', '--progressive-resize 128x64:0.5.5', '--progressive-resize: could not convert'),
        ('train', '--progressive-resize 128x64:0', '--progressive-resize: the share of the epochs must be above 0'),
        ('train', '--progressive-resize 128x64:1', '--progressive-resize: must be at least 0 and below 1, got 1'),
        ('train', '--progressive-resize 1x64:0.5', '--progressive-resize: must be at least 2, got 1'),
        ('train', '--progressive-resize 64x32:0.5 128x64:0.5', '64x32:0.5 128x64:0.5: shares of the'),
        (
            'train',
            '--epochs 2 --progressive-resize 8x8:0.5 --model msinet_x0_25 --height 64 --width 32',
            '--progressive-resize 8x8: does not fit msinet_x0_25',
        ),
        ('finder', '--epochs 0', '--epochs: must be at least 1'),
        ('finder', '--queue -1', '--queue: must be'),
        ('finder', '--box-jitter 2', '--box-jitter: must be between 0 and 1'),
        ('finder', '--trainable-stages 6', '--trainable-stages: must be'),
        ('finder', '--min-size 2', '--min-size: must be'),
        ('finder', '--detector-epochs 2', '--detector-epochs 2 leave none of 2 --epochs'),
        ('finder', '--sam-mode pos', '--sam-mode is for --task reid'),
        ('train', '--min-size 300', '--min-size is for --task search'),
        ('search', '--camera-tone 2', '--camera-tone: must be between 0 and 1'),
        ('train', '--smoothing 1', '--smoothing: must be at least 0 and below 1, got 1'),
        ('train', '--model-ema --model-ema-decay 1', '--model-ema-decay: must be at least 0 and below 1, got 1'),
        ('train', f'--seed {FAR}', f'--seed: must be at most 2,147,483,647, got {FAR}'),
        ('train', '--seed 5000000000', '--seed: must be at most 2,147,483,647'),
        ('train', f'--epochs {FAR}', '--epochs: must be at most 2,147,483,647'),
        ('train', f'--milestones {FAR}', '--milestones: must be at most'),
        ('train', '--height 1', '--height: must be at least 2, got 1'),
        ('train', '--width 100000', '--width: must be at most 4,096, got 100000'),
        ('train', '--model msinet_x0_25 --height 16 --width 16', 'for input 16 x 16: it gives NaN: give a larger one'),
        ('train', '--padding 100000000', '--padding: must be at most 1,024'),
        ('train', '--workers 100000', '--workers: must be at most 256, got 100000'),
        ('train', '--device meta', '--device meta cannot be used'),
        ('train', '--batch-size 1 --num-instance 1', '--batch-size: must be at least 2, got 1'),
        ('train', '--batch-size 4 --num-instance 1', '--num-instance 1: the metric loss compares images of one'),
        ('train', '--batch-size 4 --num-instance 4', '--batch-size 4: 4 images of one identity (--num-instance) leave'),
        ('train', '--batch-size 4 --num-instance 4 --gather-features', 'give 8 or more'),
        ('train', '--amp-dtype bf16', '--amp-dtype is a setting of --amp: give that, too'),
        ('train', '--clip-mode value', '--clip-mode is a setting of --clip-grad: give that, too'),
        ('train', '--model-ema-decay 0.5', '--model-ema-decay is a setting of --model-ema'),
        ('train', '--teacher-weight 1', '--teacher-weight is a setting of --teacher'),
        ('train', '--teacher resnet1', '--teacher resnet1: '),
        ('train', '--teacher msinet_x0_75', '--teacher msinet_x0_75: it has no pretrained weights, and so nothing'),
        ('train', '--sam-ratio 1', '--sam-ratio is a setting of --sam-mode'),
        ('train', '--wandb-project x', '--wandb-project is a setting of --log-wandb'),
        ('train', '--output a\0b', "--output 'a\\x00b' holds a NUL character"),
        ('train', '--cache a\0b', "--cache 'a\\x00b' holds a NUL character"),
        ('train', '--recipe a\0b', "--recipe 'a\\x00b' holds a NUL character"),
        ('search', '--weight-decay -1', '--weight-decay: must be at least 0'),
        ('search', '--arch-weight-decay nan', '--arch-weight-decay: must be at least 0'),
        ('search', '--arch-betas 1 1', '--arch-betas: must be at least 0 and below 1'),
        ('search', '--arch-betas 0.5', '--arch-betas: expected 2 arguments'),
        ('search', f'--seed {FAR}', '--seed: must be at most'),
        ('search', '--height 2', '--height 2, --width 16: cannot be searched at'),
        ('search', '--batch-size 1 --num-instance 1', '--batch-size: must be at least 2'),
        ('search', '--color-jitter 0 0 0 1', '--color-jitter'),
        ('search', '--device meta', '--device meta cannot be used'),
        ('search', '--amp-dtype float16', '--amp-dtype is a setting of --amp: give that, too'),
        ('genotypes', '--random 99999999999', '--random: must be at most 1,000'),
        ('genotypes', f'--seeds {FAR}', '--seeds: must be at most'),
        ('eval', '--protocol draws=999999999999', '--protocol draws=999999999999: give standard alone, or some of'),
        ('eval', f'--protocol draws={"9" * 5000}', 'up to draws=1000'),
        ('eval', '--height 1', '--height: must be at least 2'),
        ('eval', '--workers 100000', '--workers: must be at most 256'),
        ('eval', f'--batch-size {FAR}', '--batch-size: must be at most'),
        ('eval', f'--ranks {FAR}', '--ranks: must be at most'),
        ('eval', f'--rerank --k1 {FAR}', '--k1: must be at most'),
        ('eval', '--device meta', '--device meta cannot be used'),
        ('eval', '--amp-dtype bf16', '--amp-dtype is a setting of --amp: give that, too'),
        ('eval', '--json a\0b', "--json 'a\\x00b' holds a NUL character"),
        ('eval', '--features a\0b', "--features 'a\\x00b' holds a NUL character"),
        ('compare', '--samples 2000000000', '--samples: must be at most 100,000'),
        ('find', f'-k {FAR}', '-k: must be at most'),
        ('find', '--workers 100000', '--workers: must be at most 256'),
        ('find', '--output a\0b', "--output 'a\\x00b' holds a NUL character"),
        ('data', 'check market1501', "ROOT: data set 'market1501' needs its folder: give it after the name"),
        ('data', 'check table a\0b', "table 'a\\x00b' holds a NUL character"),
        ('data', f'check folder . --data-option seed={FAR}', f'seed={FAR} must be one of: an integer from 0 to'),
        ('data', 'check folder . --data-option seed=-1', 'seed=-1 must be one of: an integer from 0 to'),
        ('data', 'convert sample --to shards --output x --shard-size 0', '--shard-size: must be at least 1'),
        ('data', f'render --output x --seed {FAR}', f'--seed {FAR} is out of range: give 0 to 2147483647'),
        ('data', 'render --output x --workers 100000', '--workers 100000 is out of range: give 1 to 1024'),
        ('data', 'render --output x --objects moons', '--objects moons is unknown: choose one of people, vehicles'),
        ('data', 'render --output x --objects vehicles --outfits 2', '--outfits 2 is for people: leave it out'),
        ('data', 'render --output x --objects vehicles --width 0', '--width 0 is out of range: give 16 to 1024'),
        ('data', 'render --output x --video --seconds 0', '--seconds 0.0 is out of range: give 0.1 to 10000'),
        ('data', 'render --output x --video --fps 1000', '--fps 1000 is out of range: give 1 to 60'),
        ('data', 'render --output x --video --cameras 10', '--cameras 10 is out of range: give 1 to 9'),
        ('data', 'render --output x --video --identities 0', '--identities 0 is out of range: give 1 to 500'),
        ('data', 'render --output x --video --clock-error nan', '--clock-error nan is out of range: give 0 to 3600'),
        ('data', 'render --output x --video --width 20', '--width 20 is out of range: give 64 to 1920'),
        ('data', 'render --output x --video --mp4 --width 161', '--mp4: films have an even --width and --height'),
        ('data', 'render --output x --video --domain mixed', '--domain mixed is unknown: a film is of one place'),
        ('data', 'render --output x --video --objects vehicles', '--video draws people: leave out --objects'),
        ('data', 'render --output x --video --images 3', '--images is not for --video: leave it out'),
        ('data', 'render --output x --video --masks', '--masks is not for --video: leave it out'),
        ('data', 'render --output x --seconds 3', '--seconds is for --video: add it'),
        ('data', 'render --output x --mp4', '--mp4 is for --video: add it'),
        ('data', 'render --output x --crowd 9', '--crowd is for --scenes: add it'),
        ('data', 'render --output x --video --crowd 9', '--crowd is not for --video: leave it out'),
        ('data', 'render --output x --scenes --seconds 3', '--seconds is not for --scenes: leave it out'),
        ('data', 'render --output x --scenes --outfits 3', '--outfits is not for --scenes: leave it out'),
        ('data', 'render --output x --scenes --objects vehicles', '--scenes draws people: leave out --objects'),
        ('data', 'render --output x --scenes --video', 'not allowed with argument'),
        ('data', 'render --output x --scenes --crowd 3', '--crowd 3 is out of range: give 4 to 64'),
        ('data', 'render --output x --scenes --places 90', '--places 90 is out of range: give 1 to 50'),
        ('data', 'render --output x --scenes --test-identities 100', '--test-identities 100 is out of range'),
        ('data', 'render --output x --scenes --domain moon', 'unknown: choose one of street, mall, mixed'),
        ('hub', 'export x --format onnx --output a\0b.onnx', "--output 'a\\x00b.onnx' holds a NUL character"),
        ('hub', 'export x --for boxmot --precision bf16', 'boxmot feeds float32 and reads no bf16 file'),
        ('hub', 'export x --for opencv --int8 --calibration-images x', 'opencv reads float32 files: leave out --int8'),
        ('hub', 'export x --for ultralytics -ds sample', 'the file for ultralytics cuts away what that adds'),
        ('hub', 'export x --for roboflow', 'x: give a folder, hf-hub:OWNER/NAME or one of'),
        ('hub', 'convert a\0b', "convert 'a\\x00b' holds a NUL character"),
    ],
)  # fmt: skip
def test_a_value_is_refused_by_name(kind, value, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, error = run(f'{BEFORE[kind]} {value}', capsys)
    assert code == 2 and told in error.splitlines()[-1], error
    assert not list(tmp_path.iterdir())  # nothing is left behind


@pytest.mark.parametrize(
    'wrong, told',
    [
        ({'weight_decay': -5}, r'weight_decay: -5 is not allowed \(must be at least 0'),
        ({'seed': 2**64}, r'seed: .* is not allowed \(must be at most 2,147,483,647'),
        ({'dataset': ['a\0b']}, r'dataset: .* \(it holds a NUL character\)'),
        ({'color_jitter': [0, 0, 0, 0.6]}, 'color_jitter 0.0 0.0 0.0 0.6: give brightness'),
        ({'workers': 100_000}, r'workers: 100000 is not allowed \(must be at most 256'),
    ],
)
def test_recipes_and_python_are_checked_alike(wrong, told, tmp_path):
    with pytest.raises(InputError, match=told):
        TrainSettings(**wrong)
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text(yaml.safe_dump(TrainSettings().to_dict() | wrong))
    with pytest.raises(InputError, match=f'recipe.yaml: {told}'):
        TrainSettings.from_recipe(str(recipe))


def test_what_was_given_with_its_setting_is_taken():
    parse = msinet_train.cli.parse_args
    assert parse(['--amp', '--amp-dtype', 'bf16']).amp and parse(['--clip-grad', '1', '--clip-mode', 'agc']).clip_grad


def test_a_run_from_before_goes_on(tmp_path):
    """Recipes and `args.yaml` hold all settings, also those that have no effect."""
    (tmp_path / 'args.yaml').write_text(yaml.safe_dump(TrainSettings().to_dict() | {'amp_dtype': 'float16'}))
    assert msinet_train.cli.parse_args(['--resume', str(tmp_path), '--epochs', '2']).epochs == 2


def test_a_size_that_a_network_is_too_small_for():
    with pytest.raises(InputError, match='it gives NaN: give a larger one'):
        load_model('msinet_x0_25', pretrained=False, height=16, width=16)


@pytest.mark.parametrize(
    'text, told',
    [
        ('path,identity,split\n"a.jpg,1,train\n' + 'b.jpg,1,train\n' * 10_000, 'is there a quote that is not closed'),
        ('path,identity,split\na\0b.jpg,1,train\n', 'no such file'),
    ],
)
def test_tables_that_cannot_be_parsed(text, told, tmp_path):
    (tmp_path / 'table.csv').write_text(text)
    with pytest.raises(InputError, match=f'table.csv: (?s:.*){told}'):
        create_dataset('table', str(tmp_path / 'table.csv'))


def fails(error):
    @command
    def main(argv=None):
        raise error

    return main


@pytest.mark.parametrize(
    'error, code, told',
    [
        (RuntimeError('DataLoader worker (pid(s) 12) exited unexpectedly'), 2, 'a reading process was killed'),
        (RuntimeError('DataLoader worker (pid 12) is killed by signal: Killed. '), 2, 'lower --workers'),
        (torch.OutOfMemoryError('CUDA out of memory'), 2, 'the memory does not suffice: give smaller batches'),
        (MemoryError(), 2, 'the memory does not suffice'),
        (KeyboardInterrupt(), 130, 'interrupted'),
    ],
)
def test_how_commands_end(error, code, told, capsys):
    assert fails(error)() == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]


@pytest.mark.parametrize('error', [ValueError('a fault of ours'), OSError(28, 'No space left on device')])
def test_faults_of_ours_are_not_hidden(error):
    with pytest.raises(type(error)):
        fails(error)()


def test_a_killed_reading_process(monkeypatch, capsys):
    """By the system, for lack of memory."""
    monkeypatch.setattr('msinet_timm.datasets.images.load_image', lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    code, error = run('msinet-eval color_histogram -ds sample --workers 1', capsys)
    assert code == 2 and 'error: a reading process was killed, probably for lack of memory: lower --workers' in error


# Commands as programs: by the entry points, each in a process of its own, forked off one that has imported all.
SCRIPT = """
import gc, io, json, logging, os, sys
from msinet_timm.commands import command

gc.freeze()  # the forks end the sooner
codes, folder = [], sys.argv[1]
for number, (body, unbuffered, place) in enumerate(json.loads(sys.argv[2])):
    child = os.fork()
    if not child:
        out, (reading, writing) = os.open(os.devnull if place == 'closed' else place, os.O_WRONLY), os.pipe()
        os.close(reading)
        os.dup2(writing if place == 'closed' else out, 1)
        os.close(writing)
        os.dup2(os.open(f'{folder}/{number}', os.O_WRONLY | os.O_CREAT), 2)
        if unbuffered:  # as Python makes it
            sys.stdout = sys.__stdout__ = io.TextIOWrapper(open(1, 'wb', 0, closefd=False), write_through=True)
        sys.exit(command(eval(body))())
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(codes)
"""
MANY = 'lambda argv: [print("x" * 100) for _ in range(10_000)] and 0'
FEW = 'lambda argv: print("x")'
WRONG = '(lambda argv: [print("x"), (_ for _ in ()).throw(__import__("msinet_timm.errors").errors.InputError("told"))])'
LOGS = """lambda argv: [
    (logging.getLogger(name).info(f'{name} informs of https://hub/x?Signature=secret'),
    logging.getLogger(name).warning(f'{name} warns'))
    for name in ('httpx', 'timm', 'msinet_timm.hub')
] and 0"""
FULL = 'error: cannot write to standard output (No space left on device)\n'
TOLD = """httpx warns
timm warns
msinet_timm.hub informs of https://hub/x?Signature=secret
msinet_timm.hub warns
"""
#: A command, whether its output is unbuffered, where that goes, the exit code, and standard error.
PROGRAMS = [
    (MANY, True, 'closed', 141, ''),
    (FEW, False, 'closed', 141, ''),
    (WRONG, False, 'closed', 2, 'error: told\n'),
    (MANY, True, '/dev/full', 2, FULL),
    (FEW, False, '/dev/full', 2, FULL),
    (LOGS, False, '/dev/null', 0, TOLD),  # of other libraries only what is wrong
]


@pytest.fixture(scope='module')
def ended(tmp_path_factory):
    """Exit code and standard error of each of `PROGRAMS`."""
    folder, words = tmp_path_factory.mktemp('programs'), json.dumps([row[:3] for row in PROGRAMS])
    environment = {**os.environ, 'PYTHONUNBUFFERED': ''}
    found = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(folder), words], capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0, found.stderr
    return [(code, (folder / str(number)).read_text()) for number, code in enumerate(json.loads(found.stdout))]


@pytest.mark.parametrize('number, code, told', [(number, *row[3:]) for number, row in enumerate(PROGRAMS)])
def test_programs_whose_output_cannot_be_written_and_logs(ended, number, code, told):
    assert ended[number] == (code, told)


@pytest.mark.slow
@pytest.mark.parametrize('seconds', [0.5, 1.5])
def test_an_interrupt_in_the_first_seconds(seconds):
    """While PyTorch is being imported."""
    script = 'import sys, msinet_commands; print("ready", flush=True); sys.exit(msinet_commands.hub(["list"]))'
    interrupt(seconds, '-c', script)


@pytest.mark.parametrize('module', ['msinet_train.demo', 'msinet_train.cli', 'msinet_eval', 'msinet_timm.benchmark'])
def test_an_interrupt_in_the_first_seconds_of_a_module(module, tmp_path, monkeypatch):
    """As `python -m` runs it, and `torchrun -m`; the packages around it are imported before it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'torch.py').write_text('print("ready", flush=True)\nimport time\ntime.sleep(60)\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
    interrupt(0.1, '-m', module)


def interrupt(seconds, *words):
    """Starts Python, which says when it is ready, and presses Ctrl-C so many seconds later."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip('this shell has its background processes ignore SIGINT')
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'ready\n'
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, 'interrupted\n')


@pytest.fixture
def features(tmp_path):
    np.save(tmp_path / 'gallery.npy', np.eye(4, dtype=np.float32))
    return str(tmp_path / 'gallery.npy')


def test_folders_are_made(features, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        (f'msinet-eval search {features} {features} -k 1 --output new/a/found.csv', 'new/a/found.csv'),
        ('msinet-data check sample --contact-sheet new/b/sheet.png', 'new/b/sheet.png'),
        ('msinet-data convert sample --to csv --output new/c/table.csv', 'new/c/table.csv'),
    ]
    for line, path in lines:
        assert run(line, capsys)[0] == 0 and Path(path).is_file()
    image = create_dataset('sample').query[0].path
    assert run(f'msinet-eval pair {image} {image} --model msinet_x1_0.sample --json new/d/pair.json', capsys)[0] == 0
    assert Path('new/d/pair.json').is_file()


@pytest.mark.slow
def test_the_folder_of_an_export_is_made(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = 'msinet-hub export msinet_x1_0.sample --format torchscript --output new/m.pt'
    assert run(line, capsys)[0] == 0 and Path('new/m.pt').is_file()
