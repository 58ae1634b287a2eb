from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from msinet_eval.features import Features
from msinet_eval.metrics import RankingResult
from msinet_eval.protocol import rank
from msinet_eval.report import RIGHT, WRONG, draw_ranked_lists, pick_queries, table, write_ranked_lists
from msinet_timm.commands import InputError

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
        return Features(embeddings, torch.tensor(identities), torch.tensor(cameras), tuple(paths))

    query = create('query', [0.0, 10.0, 20.0], [1, 2, 3], [1, 1, 1])
    # the first picture is of query 0's camera, and is taken out
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
    image, layout = draw_ranked_lists(query, gallery, rank(query, gallery), queries=8, top=4)
    white = (255, 255, 255)
    # worst first: query 1 (its match comes second), then query 0
    expected = [[WRONG, RIGHT, WRONG, WRONG], [RIGHT, WRONG, RIGHT, WRONG]]
    # the last of query 0's list is of query 1's identity, the third and fourth of query 1's of others
    for row, colors in enumerate(expected):
        for column, color in enumerate(colors, start=1):
            # wrong ones are dashed, for those who cannot tell the colours apart
            assert frame_pixels(image, layout, row, column) == ({RIGHT} if color == RIGHT else {WRONG, white})
    assert image.size == layout.size(2, 5)


def test_boxes_and_clothes_are_those_of_the_ranking(features):
    query, gallery = features
    for path in gallery.paths:
        with Image.open(path) as picture:
            sheet = Image.new('RGB', (90, 60), (1, 2, 3))
            sheet.paste(picture, (60, 0))
        sheet.save(path)
    boxes = torch.tensor([[60, 0, 90, 60]] * 6)
    query = replace(query, clothes=torch.tensor([7, 7, 7]))
    gallery = replace(gallery, clothes=torch.tensor([1, 7, 7, 2, 2, 2]), boxes=boxes)
    result = rank(query, gallery, same_clothes_removed=True)
    assert result.average_precision[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    options = dict(queries=8, top=3, same_clothes_removed=True)
    image, layout = draw_ranked_lists(query, gallery, result, **options)
    # query 0 sees neither picture 0, of its camera, nor 1, of its clothes
    left, top, right, bottom = layout.cell(0, 1)
    assert image.getpixel(((left + right) // 2, (top + bottom) // 2)) == (0, 80, 180)


def test_table_of_several_draws():
    def result(mAP):
        return RankingResult(mAP, np.array([mAP, 1.0]), 0.5, np.array([mAP]))

    assert table([('drawn', RankingResult.mean([result(0.5), result(0.7)])), ('fixed', result(0.5))]).splitlines() == [
        '              mAP      Rank-1      Rank-5     Rank-10       mINP',
        'drawn  60.0 ±14.1  60.0 ±14.1  100.0 ±0.0  100.0 ±0.0  50.0 ±0.0',
        'fixed        50.0        50.0       100.0       100.0       50.0',
    ]


def test_pictures_are_in_their_places(features):
    query, gallery = features
    image, layout = draw_ranked_lists(query, gallery, rank(query, gallery), queries=8, top=3)

    def middle(row, column):
        left, top, right, bottom = layout.cell(row, column)
        return image.getpixel(((left + right) // 2, (top + bottom) // 2))

    def shade(number):
        return Image.open(gallery.paths[number]).getpixel((0, 0))

    assert middle(0, 0) == middle(1, 0) == SHADES['query']
    assert [middle(0, column) for column in (1, 2, 3)] == [shade(n) for n in (4, 5, 3)]
    assert [middle(1, column) for column in (1, 2, 3)] == [shade(n) for n in (1, 2, 3)]


def test_short_lists_leave_room_empty(features):
    query, gallery = features
    image, layout = draw_ranked_lists(query, gallery, rank(query, gallery), queries=1, top=6)
    assert frame_pixels(image, layout, 0, 6) != {(255, 255, 255)}
    image, layout = draw_ranked_lists(query, gallery, rank(query, gallery), queries=8, top=7)
    assert frame_pixels(image, layout, 1, 6) == {(255, 255, 255)}  # query 0 has lost one to its own camera


def test_without_cameras_nothing_is_taken_out(features):
    query, gallery = (Features(f.embeddings, f.identities, None, f.paths) for f in features)
    image, layout = draw_ranked_lists(query, gallery, rank(query, gallery), queries=8, top=3)
    assert frame_pixels(image, layout, 1, 1) == frame_pixels(image, layout, 1, 2) == {RIGHT}


def test_number_of_queries_and_title_show(features):
    query, gallery = features
    result = rank(query, gallery)
    one, layout = draw_ranked_lists(query, gallery, result, queries=1, top=3, title='A title')
    two, _ = draw_ranked_lists(query, gallery, result, queries=2, top=3, title='Another title')
    assert one.height < two.height
    header = (0, 0, one.width, 40)
    assert one.crop(header).tobytes() != two.crop(header).tobytes()


def test_writes_a_png(features, tmp_path):
    query, gallery = features
    write_ranked_lists(tmp_path / 'lists.png', query, gallery, rank(query, gallery), queries=2, top=3)
    with Image.open(tmp_path / 'lists.png') as image:
        assert image.format == 'PNG'
    with pytest.raises(InputError, match='cannot write the ranked lists'):
        write_ranked_lists(tmp_path / 'nowhere' / 'lists.png', query, gallery, rank(query, gallery))


def test_queries_from_worst_to_best():
    precision = np.array([0.5, np.nan, 0.1, 0.9, 0.3, 0.7])
    assert pick_queries(precision, 3).tolist() == [2, 0, 3]
    assert pick_queries(precision, 5).tolist() == [2, 4, 0, 5, 3]
    assert pick_queries(precision, 50).tolist() == [2, 4, 0, 5, 3]
    assert pick_queries(precision, 1).tolist() == [2]


def test_table():
    long = RankingResult(0.8123, np.linspace(0.5, 1, 50), 0.25, np.array([0.8123]))
    short = RankingResult(1.0, np.array([0.96, 0.98]), 0.0, np.array([1.0]))
    assert table([('a model', long), ('b', short)]).splitlines() == [
        '           mAP  Rank-1  Rank-5  Rank-10  mINP',
        'a model   81.2    50.0    54.1     59.2  25.0',
        'b        100.0    96.0    98.0     98.0   0.0',
    ]
