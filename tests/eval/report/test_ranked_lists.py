from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import named
from PIL import Image, ImageChops, ImageDraw

from msinet_eval.evaluation import measure
from msinet_eval.features.types import Embedded, Features
from msinet_eval.report.ranked_lists import (
    Layout,
    _draw_caption,
    draw_ranked_lists,
    list_found,
    pick_queries,
    write_ranked_lists,
)
from msinet_timm.datasets import Protocol
from msinet_timm.drawing import PAPER, REMOVED, RIGHT, WRONG, shorten
from msinet_timm.errors import InputError

SHADES = {'query': (200, 30, 200), 'gallery': (30, 120, 220)}


@pytest.fixture
def features(tmp_path):
    """One-dimensional embeddings: query 0 finds right, wrong, right; query 1 wrong, right; query 2 has no match."""

    def create(part, values, identities, cameras):
        paths = []
        for number in range(len(values)):
            paths.append(str(tmp_path / f'{part}{number}.png'))
            shade = tuple(v - 20 * number for v in SHADES[part]) if part == 'gallery' else SHADES[part]
            Image.new('RGB', (30, 60), tuple(max(v, 0) for v in shade)).save(paths[-1])
        embeddings = torch.tensor(values)[:, None]
        return Features(embeddings, named(identities), named(cameras), tuple(paths))

    query = create('query', [0.0, 10.0, 20.0], [1, 2, 3], [1, 1, 1])
    # the first image is of query 0's camera, and is taken out
    gallery = create('gallery', [0.05, 0.1, 0.2, 0.3, 9.0, 8.0], [1, 1, 5, 1, 1, 2], [1, 2, 2, 2, 2, 2])
    return query, gallery


def frame_pixels(image, layout, row, column):
    """Colours along the middle of the frame, the same on all four edges."""
    left, top, right, bottom = layout.cell(row, column)
    half = layout.frame // 2
    upper, lower = ({image.getpixel((x, y)) for x in range(left, right)} for y in (top - half - 1, bottom + half))
    before, after = ({image.getpixel((x, y)) for y in range(top, bottom)} for x in (left - half - 1, right + half))
    assert upper == lower == before == after
    return upper


def test_frames_tell_right_from_wrong(features):
    query, gallery = features
    image, layout = draw_ranked_lists(measure(Embedded(query, gallery)), queries=8, top=4)
    white = (255, 255, 255)
    # worst first: query 1 (its match comes second), then query 0
    expected = [[WRONG, RIGHT, WRONG, WRONG], [REMOVED, RIGHT, WRONG, RIGHT, WRONG]]
    # the last of query 0's list is of query 1's identity, the third and fourth of query 1's of others
    for row, colors in enumerate(expected):
        for column, color in enumerate(colors, start=1):
            # all but the right ones are broken, for those who cannot tell the colours apart
            assert frame_pixels(image, layout, row, column) == ({RIGHT} if color == RIGHT else {color, white})
    assert image.size == layout.size(2, 6)


def test_boxes_and_clothes_are_those_of_the_ranking(features):
    query, gallery = features
    for path in gallery.paths:
        with Image.open(path) as shot:
            sheet = Image.new('RGB', (90, 60), (1, 2, 3))
            sheet.paste(shot, (60, 0))
        sheet.save(path)
    boxes = torch.tensor([[60, 0, 90, 60]] * 6)
    query = replace(query, clothes=named([7, 7, 7]))
    gallery = replace(gallery, clothes=named([1, 7, 7, 2, 2, 2]), boxes=boxes)
    result = measure(Embedded(query, gallery), Protocol(same_clothes_removed=True))
    assert result.ranking.average_precision[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    image, layout = draw_ranked_lists(result, queries=8, top=3)
    # image 0, of query 0's camera, and 1, of its clothes, are not ranked
    white = (255, 255, 255)
    assert [frame_pixels(image, layout, 0, column) for column in (1, 2, 3)] == [{REMOVED, white}] * 2 + [{WRONG, white}]
    left, top, right, bottom = layout.cell(0, 3)
    assert image.getpixel(((left + right) // 2, (top + bottom) // 2)) == (0, 80, 180)


def test_images_are_in_their_places(features):
    query, gallery = features
    image, layout = draw_ranked_lists(measure(Embedded(query, gallery)), queries=8, top=3)

    def middle(row, column):
        left, top, right, bottom = layout.cell(row, column)
        return image.getpixel(((left + right) // 2, (top + bottom) // 2))

    def shade(number):
        return Image.open(gallery.paths[number]).getpixel((0, 0))

    assert middle(0, 0) == middle(1, 0) == SHADES['query']
    assert [middle(0, column) for column in (1, 2, 3)] == [shade(n) for n in (4, 5, 3)]
    assert [middle(1, column) for column in (1, 2, 3)] == [shade(n) for n in (0, 1, 2)]


def test_short_lists_leave_room_empty(features):
    query, gallery = features
    image, layout = draw_ranked_lists(measure(Embedded(query, gallery)), queries=1, top=6)
    assert frame_pixels(image, layout, 0, 6) != {(255, 255, 255)}
    image, layout = draw_ranked_lists(measure(Embedded(query, gallery)), queries=8, top=7)
    assert frame_pixels(image, layout, 1, 7) == {(255, 255, 255)}


def test_without_cameras_nothing_is_taken_out(features):
    query, gallery = (Features(f.embeddings, f.identities, None, f.paths) for f in features)
    image, layout = draw_ranked_lists(measure(Embedded(query, gallery)), queries=8, top=3)
    assert frame_pixels(image, layout, 1, 1) == frame_pixels(image, layout, 1, 2) == {RIGHT}


def test_number_of_queries_and_title_show(features):
    query, gallery = features
    result = measure(Embedded(query, gallery))
    one, layout = draw_ranked_lists(result, queries=1, top=3, title='A title')
    two, _ = draw_ranked_lists(result, queries=2, top=3, title='Another title')
    assert one.height < two.height
    header = (0, 0, one.width, 40)
    assert one.crop(header).tobytes() != two.crop(header).tobytes()


def test_writes_a_png(features, tmp_path):
    query, gallery = features
    write_ranked_lists(tmp_path / 'lists.png', measure(Embedded(query, gallery)), queries=2, top=3)
    with Image.open(tmp_path / 'lists.png') as image:
        assert image.format == 'PNG'
    with pytest.raises(InputError, match='cannot write the ranked lists'):
        write_ranked_lists(tmp_path / 'nowhere' / 'lists.png', measure(Embedded(query, gallery)))


def test_queries_from_worst_to_best():
    precision = np.array([0.5, np.nan, 0.1, 0.9, 0.3, 0.7])
    assert pick_queries(precision, 3).tolist() == [2, 0, 3]
    assert pick_queries(precision, 5).tolist() == [2, 4, 0, 5, 3]
    assert pick_queries(precision, 50).tolist() == [2, 4, 0, 5, 3]
    assert pick_queries(precision, 1).tolist() == [2]


def test_lists_against_sorting_everything():
    generator = torch.Generator().manual_seed(0)

    def create(count):
        labels = [named(torch.randint(0, high, (count,), generator=generator)) for high in (3, 2, 2)]
        return Features(torch.randn(count, 4, generator=generator), *labels[:2], ('',) * count, clothes=labels[2])

    query, gallery = create(6), create(40)
    for same_clothes in (False, True):
        lists = list_found(query, gallery, [4, 1], top=8, removed=3, same_clothes_removed=same_clothes)
        for asked, found in zip((4, 1), lists, strict=True):
            distances = (gallery.embeddings - query.embeddings[asked]).norm(dim=1)
            expected, rank_, removed = [], 0, 0
            for index in distances.argsort().tolist():
                same = gallery.identities[index] == query.identities[asked]
                out = same and gallery.cameras[index] == query.cameras[asked]
                out |= same and same_clothes and gallery.clothes[index] == query.clothes[asked]
                rank_, removed = rank_ + (not out), removed + out
                if not out or removed <= 3:
                    expected.append((index, 'removed', 0) if out else (index, 'right' if same else 'wrong', rank_))
                if rank_ == 8:
                    break
            assert [(f.index, f.kind, f.rank) for f in found] == expected
            assert [f.distance for f in found] == pytest.approx(distances[[f.index for f in found]].tolist(), abs=1e-5)
            assert 'removed' in {f.kind for f in found}


def test_a_short_ranking_lists_all_that_was_removed(features):
    query, gallery = features
    (found,) = list_found(query, gallery, [0], top=10)
    assert [f.rank for f in found] == [0, 1, 2, 3, 4, 5] and found[0].index == 0
    (found,) = list_found(query, gallery, [0], top=10, removed=0)
    assert [f.rank for f in found] == [1, 2, 3, 4, 5]


def test_captions_are_no_wider_than_their_cells():
    layout, box = Layout(cell_width=100), (200, 0, 300, 100)
    canvas = Image.new('RGB', (500, 160), PAPER)
    _draw_caption(ImageDraw.Draw(canvas), layout, box, 'AP 50.0 %', 'id ' + 40 * 'W' + '  cam 1')
    left, _, right, _ = ImageChops.invert(canvas).getbbox()
    room = layout.frame + layout.gap / 2
    assert box[0] - room - 1 <= left < right <= box[2] + room + 1
    assert right - left > 80


def test_the_middle_of_long_names_is_left_out():
    assert [shorten('abcdefgh', length) for length in (8, 5, 2, 1)] == ['abcdefgh', 'ab…gh', 'a…', '…']
