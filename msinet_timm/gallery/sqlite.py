"""A gallery in one folder: SQLite keeps it, and faiss searches in memory.

What was erased is to be gone from the disk. SQLite overwrites what is deleted (`secure_delete`), but it also moves rows
from page to page, and leaves old copies where they were. So no row ever moves here: rows come at the end, what is
erased is overwritten by zeros in its place, and the log of changes is emptied after that. Once much is empty, the file
is written anew.
"""

import contextlib
import logging
import secrets
import shutil
import sqlite3
import threading
import time as clock
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from msinet_timm.errors import InputError
from msinet_timm.files import WriteError

from .index import BITS_FROM, VectorIndex
from .store import Crop, LogEntry, NewCrop, Sighting, Where, batches

__all__ = ['FILE_NAME', 'SQLiteStore']

FILE_NAME = 'gallery.sqlite'
#: Seconds to wait for another process that writes, and for readers before the log of changes is emptied.
WAIT = 30.0
#: Share of rows that are empty from which on the file is written anew.
EMPTY = 0.25
_PAGE = 8192  # bytes: five vectors of 768 numbers, without much room between
_ROWS = 2**14  # that are read at once

#: Texts are in one table, in which nothing moves: other rows have their numbers.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY, text);
CREATE TABLE IF NOT EXISTS tracklets (id INTEGER PRIMARY KEY, name INTEGER, camera INTEGER, identity INTEGER);
CREATE TABLE IF NOT EXISTS crops (
  id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB UNIQUE, tracklet INTEGER, time REAL, added REAL, box BLOB, quality REAL
);
CREATE TABLE IF NOT EXISTS vectors (id INTEGER PRIMARY KEY, embedding BLOB);
CREATE TABLE IF NOT EXISTS images (id INTEGER PRIMARY KEY, jpeg BLOB);
CREATE TABLE IF NOT EXISTS fresh (id INTEGER PRIMARY KEY, embedding BLOB);
CREATE TABLE IF NOT EXISTS log (
  id INTEGER PRIMARY KEY, time REAL, action TEXT, crops INTEGER, detail TEXT, settled INTEGER
);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT);
"""
_CROP = np.dtype([('id', 'i8'), ('tracklet', 'i8'), ('time', 'f8'), ('added', 'f8'), ('quality', 'f8')])
_TRACKLET = np.dtype([('id', 'i8'), ('name', 'i8'), ('camera', 'i8'), ('identity', 'i8')])
_logger = logging.getLogger(__name__)


class _Table:
    """Rows of a type, to which others are added."""

    def __init__(self, dtype: np.dtype) -> None:
        self._all, self._count = np.empty(1024, dtype), 0

    @property
    def rows(self) -> np.ndarray:
        return self._all[: self._count]

    def append(self, rows: Sequence[tuple]) -> None:
        count = self._count + len(rows)
        if count > len(self._all):
            self._all = np.resize(self._all, max(count, 2 * len(self._all)))
        self._all[self._count : count] = np.array(rows, self._all.dtype)
        self._count = count

    @property
    def last(self) -> int:
        return int(self._all['id'][self._count - 1]) if self._count else 0


class SQLiteStore:
    """See `msinet_timm.gallery.store.Store`.

    Args:
        folder: of the gallery; made where it is missing.
        create: whether a gallery may be made where there is none.
        bits_from: see `VectorIndex`.

    Raises:
        InputError: there is no gallery, something else, or one that is damaged.
        WriteError: nothing can be written there.
    """

    def __init__(self, folder: str | Path, create: bool = True, bits_from: int = BITS_FROM) -> None:
        self.folder, self._path = Path(folder), Path(folder) / FILE_NAME
        self._lock = threading.RLock()
        self._bits_from = bits_from
        self._check_place(create)
        with self._refusing():
            self._connect(create)
        self._forget()

    # --- the database

    def _check_place(self, create: bool) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f'{self.folder} is a file: a gallery is a folder')
        if self._path.is_file():
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise InputError(f'{self.folder} is no gallery: it holds other files and no {FILE_NAME}')
        if not create:
            raise InputError(f'{self.folder}: there is no gallery')

    def _connect(self, create: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.readonly = False
        try:
            self._open(self._path)
            self._run(f'PRAGMA page_size={_PAGE}')  # of a new file
            self._run('PRAGMA secure_delete=ON')
            self._run('PRAGMA synchronous=FULL')
            self._run('PRAGMA temp_store=MEMORY')
            if not self._run("SELECT count(*) FROM sqlite_master WHERE name = 'settings'")[0][0]:
                self._run('PRAGMA journal_mode=WAL')
                with self._writing():
                    for statement in _SCHEMA.split(';'):
                        self._run(statement)
                    self._run("INSERT OR IGNORE INTO settings VALUES ('secret', ?)", (secrets.token_hex(16),))
            try:
                self._run('BEGIN IMMEDIATE')
                self._run('COMMIT')
            except sqlite3.OperationalError as e:
                # another process shares what is needed for reading, and this one must not write
                self.readonly = _says(e, 'readonly')
        except sqlite3.OperationalError as e:
            # a disk that is only to be read has no room for what processes share; without it, the file is read as is
            rest = self._path.with_name(f'{FILE_NAME}-wal')
            if not self._path.is_file() or not _says(e, 'readonly', 'unable to open') or _size(rest):
                raise
            self.readonly = True
            self._open(f'{self._path.absolute().as_uri()}?mode=ro&immutable=1', uri=True)
            self._run('SELECT count(*) FROM settings')

    def _open(self, path: Path | str, **options: bool) -> None:
        self._database = sqlite3.connect(path, WAIT, isolation_level=None, check_same_thread=False, **options)

    def _run(self, statement: str, values: Sequence = ()) -> list[tuple]:
        return self._database.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turns what goes wrong into what a user can mend."""
        try:
            yield
        except sqlite3.DatabaseError as e:
            if _says(e, 'malformed', 'not a database', 'no such table', 'no such column'):
                raise InputError(
                    f'{self._path}: damaged ({e}): stop what uses it; msinet-gallery repair {self.folder} keeps a copy '
                    'and saves what can be read'
                ) from e
            if _says(e, 'locked'):
                raise InputError(f'{self.folder}: another process has been writing for {WAIT:g} s: try again') from e
            raise WriteError(f'{self.folder}: cannot be written ({e})', str(e)) from e
        except OSError as e:
            raise WriteError(f'{self.folder}: cannot be written ({e.strerror})', e.strerror or '') from e

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """All that is read inside is of one moment, and known in memory."""
        with self._lock, self._refusing():
            self._run('BEGIN')
            try:
                self._refresh()
                yield
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._run('COMMIT')

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """All that is written inside is kept, or nothing where something goes wrong."""
        with self._lock, self._refusing():
            if self.readonly:
                raise sqlite3.OperationalError('it is on a disk that is only to be read')
            self._run('BEGIN IMMEDIATE')
            try:
                yield
                self._run('COMMIT')
            except BaseException:
                self._seen = None  # what was not kept is in memory
                with contextlib.suppress(sqlite3.Error):
                    self._run('ROLLBACK')
                raise

    # --- what is known in memory

    def _forget(self) -> None:
        self._seen: str | None = None  # the changes that are known in memory
        self._clear()
        self._index: VectorIndex | None = None
        self._held: list[np.ndarray] = []  # numbers of what is in it

    def _clear(self) -> None:
        self._names: dict[int, str] = {}
        self._last_name = 0
        self._numbers: dict[str, int] = {}  # of names
        self._tracklets, self._crops = _Table(_TRACKLET), _Table(_CROP)
        self._by_name: dict[int, int] = {}  # of a tracklet's name, its place in the table

    def _setting(self, name: str) -> str:
        found = self._run('SELECT value FROM settings WHERE name = ?', (name,))
        return found[0][0] if found else ''

    def _refresh(self) -> None:
        """Reads what has come, and all again where something has changed or gone."""
        changes = self._setting('changes')
        if changes != self._seen:
            self._clear()
            self._seen = changes
        for number, text in self._run('SELECT id, text FROM names WHERE id > ? ORDER BY id', (self._last_name,)):
            self._last_name = number
            if isinstance(text, str):
                self._names[number], self._numbers[text] = text, number
        table = self._tracklets
        rows = self._run(
            'SELECT id, name, ifnull(camera, 0), ifnull(identity, 0) FROM tracklets WHERE id > ? ORDER BY id',
            (table.last,),
        )
        if rows:
            self._by_name |= {row[1]: len(table.rows) + place for place, row in enumerate(rows) if row[1]}
            table.append(rows)
        cursor = self._database.execute(
            'SELECT id, tracklet, time, added, quality FROM crops WHERE id > ? AND tracklet > 0 ORDER BY id',
            (self._crops.last,),
        )
        while rows := cursor.fetchmany(_ROWS):
            self._crops.append(rows)

    def _load_vectors(self) -> VectorIndex:
        """What the crops in memory look like."""
        embedded = self._setting('embedded')
        if self._index is None or embedded != self._embedded:
            self._index = VectorIndex(int(self._setting('size') or 1), self._bits_from)
            self._embedded, self._indexed, self._held, self._index_seen = embedded, 0, [], self._seen
        ids = self._crops.rows['id']
        if self._index_seen != self._seen:
            held = np.concatenate([np.empty(0, np.int64), *self._held])
            left = _within(held, ids)
            self._index.remove(held[~left])
            self._held, self._index_seen = [held[left]], self._seen
        cursor = self._database.execute('SELECT id, embedding FROM vectors WHERE id > ? ORDER BY id', (self._indexed,))
        while rows := cursor.fetchmany(_ROWS):
            numbers = np.array([row[0] for row in rows], np.int64)
            there = _within(numbers, ids)
            vectors = np.frombuffer(b''.join(row[1] for row in rows), '<f2').reshape(len(rows), -1)
            self._index.add(numbers[there], vectors[there])
            self._held.append(numbers[there])
            self._indexed = int(numbers[-1])
        return self._index

    def _places(self, tracklets: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._tracklets.rows['id'], tracklets)

    def _select(self, where: Where) -> np.ndarray:
        """Which of the crops in memory are meant: [N] of bool."""
        crops, tracklets = self._crops.rows, self._tracklets.rows
        chosen = np.ones(len(crops), bool)
        if where.since is not None:
            chosen &= crops['time'] >= where.since  # NaN is not
        if where.until is not None:
            chosen &= crops['time'] < where.until
        if where.before is not None:
            chosen &= np.where(np.isnan(crops['time']), crops['added'], crops['time']) < where.before
        if where.cameras is not None or where.identity is not None or where.tracklets is not None:
            wanted = np.ones(len(tracklets), bool)
            for column, names in (('camera', where.cameras), ('name', where.tracklets)):
                if names is not None:
                    wanted &= np.isin(tracklets[column], [self._numbers.get(name, -1) for name in names])
            if where.identity is not None:
                wanted &= tracklets['identity'] == self._numbers.get(where.identity, -1)
            chosen &= wanted[self._places(crops['tracklet'])]
        return chosen

    def _name(self, number: int) -> str | None:
        return self._names[int(number)] if number else None

    # --- what a store does

    def settings(self) -> dict[str, str]:
        with self._lock, self._refusing():
            return dict(self._run('SELECT name, value FROM settings'))

    def configure(self, **settings: str | None) -> None:
        with self._writing():
            self._set(settings)

    def claim(self, **settings: str) -> dict[str, str]:
        with self._writing():
            if 'weights' not in self.settings():
                self._set(settings)
            return self.settings()

    def _set(self, settings: dict[str, str | None]) -> None:
        for name, value in settings.items():
            if value is None:
                self._run('DELETE FROM settings WHERE name = ?', (name,))
            else:
                self._run('INSERT OR REPLACE INTO settings VALUES (?, ?)', (name, value))

    def _count_up(self, name: str) -> None:
        self._set({name: str(int(self._setting(name) or 0) + 1)})

    def _number(self, text: str | None) -> int | None:
        """Of a name, which is noted where it is new."""
        if text is None:
            return None
        if text not in self._numbers:
            number = self._database.execute('INSERT INTO names (text) VALUES (?)', (text,)).lastrowid
            self._names[number], self._numbers[text], self._last_name = text, number, number
        return self._numbers[text]

    def add(self, crops: Sequence[NewCrop], weights: str) -> list[int | None]:
        added = clock.time()
        execute = self._database.execute
        with self._writing():
            if self._setting('weights') != weights:
                raise InputError(f'{self.folder}: it has got embeddings of another model meanwhile: open it again')
            self._refresh()
            known = self.known([crop.key for crop in crops if crop.key is not None])
            fresh = []
            for place, crop in enumerate(crops):
                if crop.key not in known:
                    fresh.append(place)
                    known |= {crop.key} - {None}
            tracklets = self._enter_tracklets([crops[place] for place in fresh])
            ids: list[int | None] = [None] * len(crops)
            for place, tracklet in zip(fresh, tracklets, strict=True):
                crop = crops[place]
                box = None if crop.box is None else np.asarray(crop.box, '<f4').tobytes()
                ids[place] = id = execute(
                    'INSERT INTO crops (key, tracklet, time, added, box, quality) VALUES (?, ?, ?, ?, ?, ?)',
                    (crop.key, tracklet, crop.time, added, box, crop.quality),
                ).lastrowid
                execute('INSERT INTO vectors VALUES (?, ?)', (id, crop.embedding.astype('<f2').tobytes()))
                if crop.jpeg is not None:
                    execute('INSERT INTO images VALUES (?, ?)', (id, crop.jpeg))
        return ids

    def _enter_tracklets(self, crops: Sequence[NewCrop]) -> list[int]:
        """Numbers of the tracklets of crops, of which new ones are noted."""
        numbers: dict[str, int] = {}
        for crop in crops:
            place = self._by_name.get(self._numbers.get(crop.tracklet, -1))
            if place is not None:
                row = self._tracklets.rows[place]
                if crop.camera != self._name(row['camera']):
                    raise InputError(
                        f"tracklet '{crop.tracklet}' is of camera {_named(self._name(row['camera']))}, not "
                        f'{_named(crop.camera)}: give each its own name'
                    )
                numbers[crop.tracklet] = int(row['id'])
                if crop.identity is not None and not row['identity']:
                    row['identity'] = self._number(crop.identity)
                    self._run('UPDATE tracklets SET identity = ? WHERE id = ?', (int(row['identity']), int(row['id'])))
                    self._changed()
                continue
            name, camera, identity = map(self._number, (crop.tracklet, crop.camera, crop.identity))
            number = self._database.execute(
                'INSERT INTO tracklets (name, camera, identity) VALUES (?, ?, ?)', (name, camera, identity)
            ).lastrowid
            self._by_name[name] = len(self._tracklets.rows)
            self._tracklets.append([(number, name, camera or 0, identity or 0)])
            numbers[crop.tracklet] = number
        return [numbers[crop.tracklet] for crop in crops]

    def _changed(self) -> None:
        """Lets all processes, also this one, read everything again."""
        self._count_up('changes')

    def nearest(self, vector: np.ndarray, k: int, where: Where, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        with self._reading():
            index = self._load_vectors()
            if not exact:
                index.make_bits()
            ids = None if where == Where() else self._crops.rows['id'][self._select(where)]
            return index.search(vector, k, ids, exact)

    def known(self, keys: Sequence[bytes]) -> set[bytes]:
        with self._lock, self._refusing():
            return {
                row[0]
                for part in batches(keys)
                for row in self._run(f'SELECT key FROM crops WHERE key IN ({_marks(part)})', part)
            }

    def count(self, where: Where) -> int:
        with self._reading():
            return int(self._select(where).sum())

    def ids(self, where: Where) -> list[int]:
        with self._reading():
            return self._crops.rows['id'][self._select(where)].tolist()

    def crops(self, ids: Sequence[int]) -> list[Crop]:
        found = []
        with self._reading():
            for part in batches(sorted(int(id) for id in ids)):
                found += self._run(
                    f'SELECT id, tracklet, time, box, quality FROM crops WHERE id IN ({_marks(part)}) AND tracklet > 0 '
                    'ORDER BY id', part,
                )  # fmt: skip
            places = self._places(np.array([row[1] for row in found], np.int64))
            tracklets = self._tracklets.rows[places]
            return [
                Crop(
                    id, self._name(of['name']), self._name(of['identity']), self._name(of['camera']), moment,
                    None if box is None else tuple(np.frombuffer(box, '<f4').tolist()), quality,
                )
                for (id, _, moment, box, quality), of in zip(found, tracklets, strict=True)
            ]  # fmt: skip

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        found = {}
        with self._lock, self._refusing():
            for part in batches(ids):
                found |= self._run(
                    f'SELECT id, embedding FROM vectors JOIN crops USING (id) WHERE id IN ({_marks(part)}) AND '
                    'tracklet > 0', part,
                )  # fmt: skip
            rows = np.full((len(ids), int(self._setting('size') or 0)), np.nan, np.float32)
        for row, id in zip(rows, ids, strict=True):
            if int(id) in found:
                row[:] = np.frombuffer(found[int(id)], '<f2')
        return rows

    def jpeg(self, id: int) -> bytes | None:
        with self._lock, self._refusing():
            found = self._run(
                'SELECT jpeg FROM images JOIN crops USING (id) WHERE id = ? AND tracklet > 0', (int(id),)
            )  # fmt: skip
        return found[0][0] if found else None

    def sightings(self, where: Where) -> list[Sighting]:
        with self._reading():
            chosen = self._crops.rows[self._select(where)]
            if not len(chosen):
                return []
            order = np.lexsort((chosen['quality'], chosen['tracklet']))  # the best of each tracklet comes last
            chosen = chosen[order]
            starts = np.flatnonzero(np.r_[True, np.diff(chosen['tracklet']) > 0])
            ends = np.r_[starts[1:], len(chosen)]
            first, last = np.fmin.reduceat(chosen['time'], starts), np.fmax.reduceat(chosen['time'], starts)
            tracklets = self._tracklets.rows[self._places(chosen['tracklet'][starts])]
            found = [
                Sighting(
                    self._name(of['name']), self._name(of['identity']), self._name(of['camera']),
                    *(None if np.isnan(moment) else float(moment) for moment in (a, b)), int(end - start),
                    int(chosen['id'][end - 1]),
                )
                for of, a, b, start, end in zip(tracklets, first, last, starts, ends, strict=True)
            ]  # fmt: skip
        return sorted(found, key=lambda s: (s.start is not None, s.start or 0, s.tracklet))

    def cameras(self) -> dict[str, int]:
        with self._reading():
            seen = self._tracklets.rows['camera'][self._places(self._crops.rows['tracklet'])]
            numbers, counts = np.unique(seen[seen > 0], return_counts=True)
            return dict(sorted(zip(map(self._name, numbers), counts.tolist(), strict=True)))

    def tracklet(self, name: str) -> tuple[str | None, str | None] | None:
        with self._reading():
            place = self._by_name.get(self._numbers.get(name, -1))
            if place is None:
                return None
            row = self._tracklets.rows[place]
            return self._name(row['camera']), self._name(row['identity'])

    def merge(self, a: str, b: str) -> str:
        with self._writing():
            self._refresh()
            rows = self._tracklets.rows
            places = [self._by_name.get(self._numbers.get(name, -1)) for name in (a, b)]
            if None in places:
                raise InputError(f"tracklet '{(a, b)[places.index(None)]}': {self.folder} has none of this name")
            ours, theirs = rows['identity'][places].tolist()
            number = ours or theirs or self._new_identity()
            same = np.isin(rows['identity'], [of for of in (ours, theirs) if of])
            same[places] = True
            self._database.executemany(
                'UPDATE tracklets SET identity = ? WHERE id = ?', [(number, id) for id in rows['id'][same].tolist()]
            )
            self._blank_names({ours, theirs} - {0, number})
            self._changed()
            return self._names[number]

    def _new_identity(self) -> int:
        while True:
            self._count_up('people')
            name = f'person-{self._setting("people")}'
            if name not in self._numbers:
                return self._number(name)

    # --- erasing

    def erase(self, where: Where, kind: str) -> int:
        with self._writing():
            self._refresh()
            chosen = self._crops.rows[self._select(where)]
            if len(chosen):
                self._blank_crops(chosen['id'].tolist())
                left = self._crops.rows['tracklet'][~self._select(where)]
                self._blank_tracklets(np.setdiff1d(chosen['tracklet'], left).tolist())
                self._run(
                    'INSERT INTO log (time, action, crops, detail, settled) VALUES (?, ?, ?, ?, 0)',
                    (clock.time(), 'erase', len(chosen), kind),
                )
                self._changed()
        if len(chosen):
            self.settle()
        return len(chosen)

    def _blank_crops(self, ids: list[int]) -> None:
        """Overwrites crops by zeros of the same length, in their place."""
        rows = [(id,) for id in ids]
        many = self._database.executemany
        for table, column in (('vectors', 'embedding'), ('fresh', 'embedding'), ('images', 'jpeg')):
            many(f'UPDATE {table} SET {column} = zeroblob(length({column})) WHERE id = ?', rows)
        many(
            "UPDATE crops SET tracklet = 0, time = 0, added = 0, quality = 0, box = CASE WHEN box IS NULL THEN NULL "
            'ELSE zeroblob(length(box)) END, key = CASE WHEN key IS NULL THEN NULL ELSE ? END WHERE id = ?',
            [(id.to_bytes(16, 'big'), id) for id in ids],
        )  # fmt: skip
        self._run('REINDEX crops')  # keys have moved in their index, and left copies in pages that this frees

    def _blank_tracklets(self, ids: list[int]) -> None:
        """Overwrites tracklets without crops, and their names where nothing else has them."""
        places = self._places(np.array(ids, np.int64))
        rows = self._tracklets.rows[places]
        names = {*rows['name'].tolist(), *rows['camera'].tolist(), *rows['identity'].tolist()} - {0}
        self._database.executemany(
            'UPDATE tracklets SET name = 0, camera = 0, identity = 0 WHERE id = ?', [(id,) for id in ids]
        )
        self._blank_names(names)
        self._changed()

    def _blank_names(self, numbers: set[int]) -> None:
        used = {
            row[0] for column in ('name', 'camera', 'identity') for row in self._run(f'SELECT {column} FROM tracklets')
        }
        self._database.executemany(
            'UPDATE names SET text = zeroblob(length(CAST(text AS BLOB))) WHERE id = ?',
            [(number,) for number in numbers - used],
        )

    def settle(self) -> bool:
        with self._lock, self._refusing():
            if self.readonly or not (self._setting('moved') or self._run('SELECT 1 FROM log WHERE settled = 0')):
                return not self._run('SELECT 1 FROM log WHERE settled = 0')
            last = self._run('SELECT max(id) FROM log')[0][0]
            self._write_anew()
            if self._setting('moved') or not self._empty_log():
                return False
            with self._writing():
                self._run('UPDATE log SET settled = 1 WHERE id <= ? AND settled = 0', (last,))
        return True

    def _empty_log(self) -> bool:
        """Whether all changes have their place in the file, and none is left in the log of changes."""
        end, reason = clock.monotonic() + WAIT, 'other processes read what was'
        try:
            while self._run('PRAGMA wal_checkpoint(TRUNCATE)')[0][0]:
                if clock.monotonic() > end:
                    break
            else:
                return True
        except sqlite3.OperationalError as e:  # the file has to grow for what is in the log
            if not _says(e, 'full'):
                raise
            reason = str(e)
        _logger.warning(
            '%s: erased, but %s: the bytes stay in %s-wal until the next erasure or msinet-gallery stats',
            self.folder, reason, FILE_NAME,
        )  # fmt: skip
        return False

    def _write_anew(self) -> None:
        """Writes the file again without what is empty, where that is much of it or where this has been broken off."""
        if not self._setting('moved'):
            empty, rows = self._run('SELECT count(*) FILTER (WHERE tracklet = 0), count(*) FROM crops')[0]
            room = shutil.disk_usage(self.folder).free
            if empty <= max(EMPTY * rows, 100) or room < 3 * self.room():
                return
            with self._writing():
                self._set({'moved': '1'})  # rows move from here on, and leave copies
                for table in ('vectors', 'images', 'fresh'):
                    self._run(f'DELETE FROM {table} WHERE id IN (SELECT id FROM crops WHERE tracklet = 0)')
                self._run('DELETE FROM crops WHERE tracklet = 0')
                self._run('DELETE FROM tracklets WHERE name = 0 AND id < (SELECT max(id) FROM tracklets)')
                self._run("DELETE FROM names WHERE typeof(text) = 'blob' AND id < (SELECT max(id) FROM names)")
                self._changed()
        try:
            self._run('VACUUM')
            self.configure(moved=None)
        except (sqlite3.OperationalError, InputError) as e:
            _logger.warning(
                '%s: cannot be written anew (%s): erased bytes may stay in it until that is done', self.folder, e
            )

    # --- the log

    def note(self, action: str, crops: int, detail: str) -> None:
        with self._writing():
            self._run(
                'INSERT INTO log (time, action, crops, detail, settled) VALUES (?, ?, ?, ?, 1)',
                (clock.time(), action, crops, detail),
            )

    def log(self, limit: int, action: str | None = None) -> list[LogEntry]:
        with self._lock, self._refusing():
            rows = self._run(
                'SELECT time, action, crops, detail, settled FROM log WHERE ?1 IS NULL OR action = ?1 ORDER BY id DESC '
                'LIMIT ?2', (action, limit),
            )  # fmt: skip
        return [LogEntry(*row[:4], bool(row[4])) for row in rows]

    # --- another model

    def outdated(self, weights: str, count: int) -> list[tuple[int, str | None, bytes | None]]:
        with self._writing():
            if self._setting('next') != weights:  # what another model has left
                self._run('DELETE FROM fresh')
                self._set({'next': weights})
        with self._reading():
            rows = self._run(
                'SELECT id, tracklet, jpeg FROM crops LEFT JOIN images USING (id) WHERE tracklet > 0 AND id NOT IN '
                '(SELECT id FROM fresh) ORDER BY id LIMIT ?', (count,),
            )  # fmt: skip
            cameras = self._tracklets.rows['camera'][self._places(np.array([row[1] for row in rows], np.int64))]
            return [(id, self._name(camera), jpeg) for (id, _, jpeg), camera in zip(rows, cameras, strict=True)]

    def replace(self, weights: str, ids: Sequence[int], embeddings: np.ndarray) -> None:
        rows = [(int(id), row.astype('<f2').tobytes()) for id, row in zip(ids, embeddings, strict=True)]
        with self._writing():
            if self._setting('next') != weights:
                raise InputError(f'{self.folder}: another process embeds it by another model: let one of them do it')
            there = [row for row in rows if self._run('SELECT 1 FROM crops WHERE id = ? AND tracklet > 0', row[:1])]
            self._database.executemany('INSERT OR REPLACE INTO fresh VALUES (?, ?)', there)

    def switch(self, weights: str, settings: dict[str, str]) -> bool:
        with self._writing():
            missing = 'SELECT 1 FROM crops WHERE tracklet > 0 AND id NOT IN (SELECT id FROM fresh) LIMIT 1'
            if self._setting('next') != weights or self._run(missing):
                return False
            self._run('DROP TABLE vectors')
            self._run('ALTER TABLE fresh RENAME TO vectors')
            self._run('CREATE TABLE fresh (id INTEGER PRIMARY KEY, embedding BLOB)')
            self._count_up('embedded')
            self._set({'next': None, **settings})
        return True

    def room(self) -> int:
        return sum(map(_size, self.folder.glob(f'{FILE_NAME}*')))

    def close(self) -> None:
        with self._lock:
            self._database.close()


def _says(error: Exception, *words: str) -> bool:
    return any(word in str(error) for word in words)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _named(camera: str | None) -> str:
    return 'none' if camera is None else f"'{camera}'"


def _marks(values: Sequence) -> str:
    return ','.join('?' * len(values))


def _within(numbers: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Which of the numbers are among others, that ascend."""
    if not len(ascending):
        return np.zeros(len(numbers), bool)
    place = np.searchsorted(ascending, numbers).clip(max=len(ascending) - 1)
    return ascending[place] == numbers
