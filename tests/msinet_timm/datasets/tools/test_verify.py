import logging
import os

import numpy as np
import pytest
from PIL import Image

from msinet_timm.datasets import Record, ReIDDataset
from msinet_timm.datasets.tools.verify import drop_broken
from msinet_timm.errors import InputError


@pytest.fixture
def dataset(tmp_path):
    """Identities 0 to 4 with six images each to train on; 7 asks and is found."""

    def image(identity, number):
        path = tmp_path / f'{identity}_{number}.jpg'
        Image.fromarray(np.full((8, 4, 3), 10 * number, np.uint8)).save(path)
        return Record(str(path), str(identity), str(number))

    train = tuple(image(identity, number) for identity in range(5) for number in range(6))
    return ReIDDataset('own', str(tmp_path), train, (image(7, 0),), (image(7, 1), image(7, 2)), notes=('a note',))


def spoil(*records):
    for record in records:
        with open(record.path, 'r+b') as file:
            file.truncate(100)


def test_sound_data_set_stays_as_it_is(dataset):
    assert drop_broken(dataset) is dataset


def test_broken_images_are_left_out_and_listed(dataset, caplog):
    spoil(dataset.train[3], *dataset.train[6:12])
    os.remove(dataset.gallery[0].path)
    with caplog.at_level(logging.INFO):
        left = drop_broken(dataset)
    assert left.train == tuple(r for n, r in enumerate(dataset.train) if n != 3 and n not in range(6, 12))
    assert (left.query, left.gallery) == (dataset.query, dataset.gallery[1:])
    assert left.notes == ('a note', 'broken images skipped: 7 train, 0 query, 1 gallery')
    for record in (dataset.train[3], *dataset.train[6:12], dataset.gallery[0]):
        assert f'skipped: {record.path}: cannot read this image (' in caplog.text
    assert 'skipped: 1 training identities without a readable image: 1\n' in caplog.text


def test_at_most_20_are_listed(dataset, caplog):
    spoil(*dataset.train[:23])
    drop_broken(dataset)
    lines = caplog.text.splitlines()
    assert sum('cannot read this image' in line for line in lines) == 20
    assert any('skipped: 3 more' in line for line in lines)


def test_boxes_outside_of_the_image_are_broken_too(dataset):
    query = (dataset.query[0], dataset.query[0]._replace(box=(5000, 0, 5005, 5)))
    left = drop_broken(ReIDDataset('own', '', (), query, dataset.gallery))
    assert left.query == query[:1]


def test_parts_that_are_not_asked_for_are_not_opened(dataset):
    spoil(dataset.train[0])
    assert drop_broken(dataset, ('query', 'gallery')) is dataset


def test_nothing_left(dataset):
    spoil(*dataset.gallery)
    with pytest.raises(InputError, match='--skip-broken: all 2 images of the gallery part of .* are broken'):
        drop_broken(dataset)
