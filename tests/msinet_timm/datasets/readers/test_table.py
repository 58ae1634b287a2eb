"""Users' own tables."""

import subprocess
import sys

import pytest

from msinet_timm.datasets import Protocol, Record, create_dataset
from msinet_timm.errors import InputError

HEADER = 'path,identity,split,camera,box,tracklet,domain,time,view,clothes,note\n'
ROWS = (
    'a.jpg,anna,train,door,,,,,,,first\n'
    '\n'
    '"b,c.jpg",ben,query,hall,"(10, 20, 30, 40)",t1,day,-5,left,red,\n'
    'sub/d.JPG,ben,gallery,door,0 0 5 5,t2,night,7,right,blue,\n'
)


@pytest.fixture
def table(plant):
    plant({'.': ['a.jpg', 'b,c.jpg', 'e.jpg'], 'sub': ['d.JPG']})
    return lambda text, name='people.csv': plant({name: text}) / name


def read(path, **options):
    return create_dataset('table', str(path), **options)


@pytest.mark.parametrize('delimiter, bom', [(',', ''), (';', '\ufeff'), ('\t', '')])
def test_every_column(table, delimiter, bom, caplog):
    text = bom + HEADER + ROWS
    if delimiter != ',':
        text = text.replace('"b,c.jpg"', 'b#c.jpg').replace('"(10, 20, 30, 40)"', '10 20 30 40')
        text = text.replace(',', delimiter).replace('#', ',')
    path = table(text)
    root = path.parent
    dataset = read(path)
    assert dataset.train == (Record(f'{root}/a.jpg', 'anna', 'door'),)
    assert dataset.query == (
        Record(f'{root}/b,c.jpg', 'ben', 'hall', 'left', -5, 't1', 'day', 'red', (10, 20, 30, 40)),
    )
    assert dataset.gallery == (
        Record(f'{root}/sub/d.JPG', 'ben', 'door', 'right', 7, 't2', 'night', 'blue', (0, 0, 5, 5)),
    )
    assert (dataset.name, dataset.root) == ('table', str(path))
    assert 'columns note are not used' in caplog.text


def test_paths_from_another_folder(table, tmp_path):
    path = table('path,identity,split\nd.JPG,1,train\n')
    assert read(path, images=str(path.parent / 'sub')).train[0].path == str(path.parent / 'sub' / 'd.JPG')
    absolute = table(f'path,identity,split\n{path.parent}/a.jpg,1,train\n', 'elsewhere/people.csv')
    assert read(absolute).train[0].path == str(path.parent / 'a.jpg')


def test_clothes_changing_protocol(table):
    header = 'path,identity,split,clothes\n'
    path = table(header + 'a.jpg,1,query,red\ne.jpg,1,gallery,blue\n')
    assert read(path).protocol == Protocol()
    dataset = read(path, protocol='clothes-changing')
    assert (dataset.protocol, dataset.notes) == (Protocol(same_clothes_removed=True), ('clothes-changing protocol',))
    path = table(header + 'a.jpg,1,query,red\ne.jpg,1,gallery,\n')
    with pytest.raises(InputError, match='e.jpg: its clothes are not known, which the option protocol=clothes-chang'):
        read(path, protocol='clothes-changing')


def test_parquet(table):
    pyarrow = pytest.importorskip('pyarrow')
    from pyarrow import parquet

    path = table('', 'people.csv').with_suffix('.parquet')
    columns = {
        'path': ['a.jpg', 'b,c.jpg', 'sub/d.JPG'],
        'identity': [3, 5, 5],
        'split': ['train', 'query', 'gallery'],
        'camera': [1.0, 2.0, 1.0],
        'tracklet': [None, 4, float('nan')],
        'box': [None, [1, 2, 3, 4], [5, 6, 7, 8]],
    }
    parquet.write_table(pyarrow.table(columns), path)
    dataset = read(path)
    assert [r[1:] for r in dataset.train + dataset.query + dataset.gallery] == [
        ('3', '1', None, None, None, None, None, None),
        ('5', '2', None, None, '4', None, None, (1, 2, 3, 4)),
        ('5', '1', None, None, None, None, None, (5, 6, 7, 8)),
    ]
    parquet.write_table(pyarrow.table(columns | {'path': ['a.jpg', 'x.jpg', 'sub/d.JPG']}), path)
    with pytest.raises(InputError, match=r'people.parquet: 1 wrong entry\n  row 2, path: no such file: .*/x.jpg$'):
        read(path)
    path.write_text('no')
    with pytest.raises(InputError, match=r'people.parquet: not a Parquet file'):
        read(path)


def test_parquet_needs_a_package(table, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(InputError, match=r'people.parquet: needs pyarrow: pip install "msinet-timm\[parquet\]"'):
        read(table('x', 'people.parquet'))


def test_every_wrong_row_is_listed(table):
    path = table(
        'path,identity,split,camera,time,box\n'
        'a.jpg,1,train,1,,\n'
        ',1,train,1,,\n'
        'x.jpg,1,train,1,,\n'
        'e.jpg,-1,train,1,,\n'
        'e.jpg,,test,1,,\n'
        'e.jpg,1,train,,soon,\n'
        'e.jpg,1,train,1,,1 2 3\n'
        'e.jpg,1,train,1,,5 5 5 9\n'
        'a.jpg,2,train,1,,\n'
        'e.jpg,1,train,1,,,,\n'
        'e.jpg,1\n'
    )
    with pytest.raises(InputError) as caught:
        read(path)
    box = 'must be left, top, right and bottom in pixels, like 10 20 110 220'
    assert str(caught.value).splitlines() == [
        f'{path}: 12 wrong entries',
        '  line 3, path: empty',
        f'  line 4, path: no such file: {path.parent}/x.jpg',
        '  line 5, identity: -1 is below 0; leave out images of nobody',
        '  line 6, identity: empty',
        "  line 6, split: 'test' must be one of train, query, gallery",
        '  line 7, camera: empty, but other rows have one',
        "  line 7, time: 'soon' must be an integer",
        f"  line 8, box: '1 2 3' {box}",
        f"  line 9, box: '5 5 5 9' {box}",
        '  line 10, path: the same image as in 2',
        '  line 11, row: 2 fields too many; quote fields that hold a comma',
        '  line 12, row: 4 fields too few; quote fields that hold a comma',
    ]


def test_no_more_than_twenty_are_listed(table):
    path = table('path,identity,split\n' + 'x.jpg,1,train\n' * 23)
    with pytest.raises(InputError) as caught:
        read(path)
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[0], lines[-2:]) == (
        22,
        f'{path}: 23 wrong entries',
        [f'  line 21, path: no such file: {path.parent}/x.jpg', '  and 3 more'],
    )


def test_one_file_may_hold_several_boxes_and_be_in_two_parts(table):
    text = 'path,identity,split,box\na.jpg,1,query,0 0 5 5\na.jpg,2,query,5 0 9 5\na.jpg,1,gallery,0 0 5 5\n'
    assert len(read(table(text)).query) == 2


@pytest.mark.parametrize(
    'text, message',
    [
        ('', r'lacks the column path, identity, split; it has none. Required are path, .* optional camera, view'),
        ('path,id,split\n', r'lacks the column identity; it has path, id, split'),
        ('path,identity,split,path\n', r'has the column path twice'),
        ('path,identity,split\n', r'people.csv has no rows'),
        ('path,identity,split\na.jpg,1,query\n', r'has only one of the splits query and gallery'),
    ],
)
def test_wrong_tables(table, text, message):
    with pytest.raises(InputError, match=message):
        read(table(text))


def test_table_that_is_no_text(table):
    path = table('')
    path.write_bytes(b'path,identity,split\n\xff\xfe')
    with pytest.raises(InputError, match=r'people.csv: cannot read this table .* it must be UTF-8 text'):
        read(path)


@pytest.mark.slow
def test_memory_of_a_large_table(plant):
    """Beyond that of the packages; a million rows take 290 MB."""
    count = 200_000
    rows = (f'a.jpg,{k // 20},train,{k % 8},{k % 250} {k // 250 % 250} {250 + k // 62500} 250\n' for k in range(count))
    root = plant({'.': ['a.jpg'], 'table.csv': 'path,identity,split,camera,box\n' + ''.join(rows)})
    script = """
import resource, sys
from msinet_timm.datasets import create_dataset

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = create_dataset('table', sys.argv[1])
print(len(found.train), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, '-c', script, str(root / 'table.csv')]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    read, kilobytes = map(int, ended.stdout.split())
    assert read == count and kilobytes < 0.5 * count
