"""What a tracker costs beside its embeddings."""

import pytest

import msinet_timm.benchmark.__main__ as benchmark
from msinet_timm.benchmark.tracking import measure_embedding, measure_tracking
from msinet_timm.embedder import Embedder


def test_a_tracker_is_faster_than_a_film():
    """Far below what it does on a machine that does nothing else: more than 500 frames per second."""
    found = measure_tracking(frames=60, rounds=2)
    assert [*found] == ['motion alone', 'with appearance'] and all(len(speeds) == 2 for speeds in found.values())
    assert min(map(max, found.values())) > 100


def test_embedding_takes_most_of_the_time():
    found = measure_embedding(Embedder('msinet_x0_25', 'cpu'), frames=2, rounds=2)
    assert len(found) == 2 and 0.1 < max(found) < 500


def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, 'measure_tracking', lambda: {'motion alone': [900.0, 1000.0, 1100.0]})
    asked = []
    monkeypatch.setattr(
        benchmark, 'measure_embedding', lambda embedder, rounds: asked.append(embedder._form) or [6.0] * rounds
    )
    assert benchmark.main(['--track']) == 0
    assert 'motion alone' in (text := capsys.readouterr().out) and '1,000' in text and '900' in text
    assert asked == [('fused', 'float32'), ('fused', 'bf16')] and 'msinet_x1_0.rendered_128x64, fused, bf16' in text
    assert benchmark.main(['--track', '--precisions', 'int8']) == 2
    assert benchmark.main(['--track', '--output', str(tmp_path)]) == 2
    with pytest.raises(SystemExit):
        benchmark.main(['--tracking-of-what'])
