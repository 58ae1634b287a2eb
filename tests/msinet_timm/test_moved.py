"""Names of modules from before they lay in folders go on working."""

import importlib
import runpy

import pytest

from msinet_timm.models.msinet import register_genotype


@pytest.mark.parametrize(
    'name, holds',
    [
        ('msinet', 'MSINet'),
        ('genotype', 'Genotype'),
        ('interactions', 'create_interaction'),
        ('supernet', 'MSISuperNet'),
        ('exported', 'load_exported'),
    ],
)
def test_old_names(name, holds):
    register_genotype('moved', ['ag'] * 12)  # models that are registered later belong to the module, too
    module = importlib.reload(importlib.import_module(f'msinet_timm.{name}'))
    assert holds in module.__all__ and getattr(module, holds)
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize('name', ['msinet_timm.datasets.benchmark', 'msinet_train.benchmark_search'])
def test_old_commands(name, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['x', '--help'])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name='__main__')
    assert ended.value.code == 0 and 'usage: python -m msinet_train.benchmark.' in capsys.readouterr().out
