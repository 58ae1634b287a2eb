"""What a damaged gallery still holds, in a new one."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msinet_timm.errors import InputError
from msinet_timm.files import refusing

from .sqlite import FILE_NAME, SQLiteStore

__all__ = ['Repair', 'repair']

_TABLES = ('names', 'tracklets', 'crops', 'vectors', 'images', 'log')
_BLOCK = 256  # rows that are read at once
_ZEROS = 512  # bytes in a row that no JPEG of ours has


class Repair(NamedTuple):
    """What has become of a damaged gallery.

    Attributes:
        saved: crops that are in the new one.
        lost: crops of which something was found, but no embedding; there may have been more.
        copy: folder of the damaged one.
    """

    saved: int
    lost: int
    copy: Path


def repair(folder: str | Path) -> Repair:
    """Makes a gallery of all that can be read of another one, and puts it in its place.

    The damaged one stays beside it, as `FOLDER.damaged`: remove it when it is not needed any more, as it still holds
    everybody. No other process may use the gallery meanwhile. If it is broken off, it can be run again.

    Args:
        folder: of the gallery.

    Raises:
        InputError: it is no gallery, there is a damaged copy already, nothing can be read or written.
    """
    folder = Path(os.path.abspath(folder))
    copy, fresh = (folder.with_name(f'{folder.name}.{word}') for word in ('damaged', 'repaired'))
    if not (folder / FILE_NAME).is_file():
        raise InputError(f'{folder} is no gallery: it has no {FILE_NAME}')
    if copy.exists():
        raise InputError(f'{copy} is there already: look at it, and remove or rename it first')
    with refusing(f'{folder}: cannot be repaired', folder.parent):
        shutil.rmtree(fresh, ignore_errors=True)
        source = sqlite3.connect(f'{(folder / FILE_NAME).as_uri()}?mode=ro', isolation_level=None, uri=True)
        source.execute('PRAGMA writable_schema=ON')  # read a file that is shorter than it should be, too
        source.text_factory = lambda text: text.decode('utf-8', 'replace')
        target = SQLiteStore(fresh)
        try:
            saved, lost = _copy(source, target)
            target.settle()
        except sqlite3.DatabaseError as e:
            raise InputError(f'{folder / FILE_NAME}: nothing can be read of it ({e}); restore a backup') from e
        finally:
            source.close()
            target.close()
        os.replace(folder, copy)
        os.replace(fresh, folder)
    return Repair(saved, lost, copy)


def _copy(source: sqlite3.Connection, target: SQLiteStore) -> tuple[int, int]:
    """Numbers of crops that are saved and lost."""
    last = _last(source)
    with target._writing():
        with contextlib.suppress(sqlite3.DatabaseError):
            for row in source.execute('SELECT name, value FROM settings'):
                target._run('INSERT OR REPLACE INTO settings VALUES (?, ?)', row)
        known: set[int] = set()
        erased: set[int] = set()
        for table in _TABLES:
            width = len(source.execute(f'SELECT * FROM {table} LIMIT 0').description)
            statement = f'INSERT OR IGNORE INTO {table} VALUES ({",".join("?" * width)})'
            for rows in _rows(source, table, last):
                if table == 'crops':
                    erased |= {row[0] for row in rows if row[2] == 0}
                if table in ('crops', 'vectors', 'images'):
                    known |= {row[0] for row in rows}
                    rows = [row for row in rows if row[0] not in erased and _is_whole(table, row)]
                target._database.executemany(statement, rows)
        _mend(target)
        saved = target._run('SELECT count(*) FROM crops')[0][0]
    return saved, len(known - erased) - saved


def _is_whole(table: str, row: tuple) -> bool:
    """Whether a row is what was written: of pages that are missing, SQLite reads zeros."""
    if table == 'vectors':
        row = np.frombuffer(row[1][: len(row[1]) // 2 * 2] if isinstance(row[1], bytes) else b'', '<f2')
        return abs(np.linalg.norm(row.astype(np.float32)) - 1) < 0.02
    if table == 'images':
        jpeg = row[1] if isinstance(row[1], bytes) else b''
        return jpeg.startswith(b'\xff\xd8') and jpeg.endswith(b'\xff\xd9') and bytes(_ZEROS) not in jpeg
    return True


def _last(source: sqlite3.Connection) -> int:
    """No row has a higher number."""
    numbers = []
    for text in (
        "SELECT seq FROM sqlite_sequence WHERE name = 'crops'",
        *(f'SELECT max(id) FROM {t}' for t in _TABLES),
    ):
        with contextlib.suppress(sqlite3.DatabaseError):
            numbers += [row[0] for row in source.execute(text) if row[0]]
    source.execute('SELECT count(*) FROM sqlite_master').fetchall()  # if not even this, nothing
    return max(numbers, default=0)


def _rows(source: sqlite3.Connection, table: str, last: int) -> Iterator[list[tuple]]:
    """All rows that can be read: those of a block, or one by one."""
    for start in range(1, last + 1, _BLOCK):
        try:
            yield source.execute(
                f'SELECT * FROM {table} WHERE id BETWEEN ? AND ?', (start, start + _BLOCK - 1)
            ).fetchall()
        except sqlite3.DatabaseError:
            rows = []
            for number in range(start, start + _BLOCK):
                with contextlib.suppress(sqlite3.DatabaseError):
                    rows += source.execute(f'SELECT * FROM {table} WHERE id = ?', (number,)).fetchall()
            yield rows


def _mend(target: SQLiteStore) -> None:
    """Leaves crops that have an embedding of the right length, and tracklets that have a name."""
    run = target._run
    lengths = run('SELECT length(embedding), count(*) FROM vectors GROUP BY 1 ORDER BY 2 DESC LIMIT 1')
    length = lengths[0][0] if lengths else 0
    run('DELETE FROM vectors WHERE typeof(embedding) != ? OR length(embedding) != ?', ('blob', length))
    run('DELETE FROM crops WHERE id NOT IN (SELECT id FROM vectors)')
    for table in ('vectors', 'images'):
        run(f'DELETE FROM {table} WHERE id NOT IN (SELECT id FROM crops)')
    if length:
        run("INSERT OR IGNORE INTO settings VALUES ('size', ?)", (str(length // 2),))
        run("INSERT OR IGNORE INTO settings VALUES ('weights', '')")
    run(
        'INSERT OR IGNORE INTO tracklets SELECT DISTINCT tracklet, NULL, NULL, NULL FROM crops WHERE tracklet > 0 AND '
        'tracklet NOT IN (SELECT id FROM tracklets)'
    )
    for column in ('camera', 'identity'):
        run(
            f'UPDATE tracklets SET {column} = NULL WHERE {column} NOT IN (SELECT id FROM names WHERE typeof(text) = ?)',
            ('text',),
        )
    nameless = run(
        'SELECT id FROM tracklets WHERE id IN (SELECT tracklet FROM crops) AND (name IS NULL OR name NOT IN (SELECT id '
        "FROM names WHERE typeof(text) = 'text'))"
    )
    for (number,) in nameless:
        name = target._database.execute('INSERT INTO names (text) VALUES (?)', (f'repaired-{number}',)).lastrowid
        run('UPDATE tracklets SET name = ? WHERE id = ?', (name, number))
    target._changed()
    target._set({'moved': '1'})  # so that it is written anew once more
