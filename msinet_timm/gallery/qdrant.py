"""A gallery on a Qdrant server, for more crops than one machine holds.

The crops are in a collection `NAME-...` for the embeddings of a model, to which the alias `NAME` points; settings and
log in the collection `NAME-log`. What is known of a crop, and its image, is payload.
"""

import base64
import contextlib
import os
import secrets
import threading
import time as clock
import uuid
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from msinet_timm.errors import InputError, needs, one_line

from .store import Crop, LogEntry, NewCrop, Sighting, Where, batches

__all__ = ['QdrantStore']

_INDEXES = {
    'key': 'keyword', 'tracklet': 'keyword', 'identity': 'keyword', 'camera': 'keyword', 'time': 'float',
    'when': 'float',
}  # fmt: skip
_KNOWN = ('tracklet', 'identity', 'camera', 'time', 'box', 'quality')
_MOST = 10_000  # rows of an answer
_EPOCH = 1_735_689_600.0  # 2025, from which numbers count milliseconds
_RANDOM = 13  # bits below these: numbers stay below 2^53, which browsers count exactly


class QdrantStore:
    """See `msinet_timm.gallery.store.Store`.

    A server keeps what it has confirmed. Bytes of what is erased stay on its disks until it rewrites the segment they
    are in, which nobody outside can see: no erasure counts as settled.

    Args:
        url: `qdrant://HOST:PORT/NAME`, or `qdrant+https://...`. The key of the server, if it has one, is in the
            environment as `QDRANT_API_KEY`.
        create: whether a gallery may be made where there is none.
        shards: among which a new collection is divided, over the machines of a cluster.
        replicas: of each shard.
        quantized: whether vectors are searched as bytes in memory, and the best compared as float16 from disk.

    Raises:
        InputError: no such address, server, or gallery.
        MissingPackageError: qdrant-client is not installed.
    """

    readonly = False

    def __init__(
        self, url: str, create: bool = True, shards: int = 1, replicas: int = 1, quantized: bool = False
    ) -> None:
        with needs('cluster', 'a gallery on a server'):
            from qdrant_client import QdrantClient, models
        parts = urlsplit(url)
        self.name = parts.path.strip('/')
        try:
            port = parts.port or 6333
        except ValueError:
            port = None
        if not parts.hostname or not port or not self.name.replace('-', '').replace('_', '').isalnum():
            raise InputError(f'{url}: a gallery on a server is given as qdrant://HOST:PORT/NAME')
        self._url, self._models, self._lock = url, models, threading.RLock()
        self._shape = {'shard_number': shards, 'replication_factor': replicas}
        self._quantized, self._last = quantized, 0
        self._client = QdrantClient(
            host=parts.hostname,
            port=port,
            https=parts.scheme == 'qdrant+https',
            api_key=os.environ.get('QDRANT_API_KEY'),
            check_compatibility=False,
            timeout=60,
        )
        self._notes = f'{self.name}-log'
        with self._asking():
            if not self._client.collection_exists(self._notes):
                if not create:
                    raise InputError(f'{url}: there is no gallery')
                self._client.create_collection(self._notes, models.VectorParams(size=1, distance=models.Distance.DOT))
                payload = {'settings': {'secret': secrets.token_hex(16)}}
                self._client.upsert(self._notes, [models.PointStruct(id=0, vector=[1.0], payload=payload)], wait=True)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except InputError:
                raise
            except Exception as e:  # of the client, of HTTP below it, and of what the server says
                raise InputError(f'{self._url}: the server does not answer as it should ({one_line(e)})') from e

    # --- questions

    def _filter(self, where: Where):
        m = self._models
        found = []
        for key, values in (('camera', where.cameras), ('tracklet', where.tracklets)):
            if values is not None:
                found.append(m.FieldCondition(key=key, match=m.MatchAny(any=list(values))))
        if where.identity is not None:
            found.append(m.FieldCondition(key='identity', match=m.MatchValue(value=where.identity)))
        if where.since is not None or where.until is not None:
            found.append(m.FieldCondition(key='time', range=m.Range(gte=where.since, lt=where.until)))
        if where.before is not None:
            found.append(m.FieldCondition(key='when', range=m.Range(lt=where.before)))
        return m.Filter(must=found)

    def _there(self) -> bool:
        return self._client.collection_exists(self.name)

    def _scroll(self, where: Any, payload: Sequence[str] | bool, collection: str | None = None) -> Iterator[Any]:
        offset = None
        while True:
            points, offset = self._client.scroll(
                collection or self.name,
                scroll_filter=self._filter(where) if isinstance(where, Where) else where,
                limit=_MOST,
                offset=offset,
                with_payload=payload if isinstance(payload, bool) else list(payload),
            )
            yield from points
            if offset is None:
                return

    def settings(self) -> dict[str, str]:
        with self._asking():
            return dict(self._client.retrieve(self._notes, [0], with_payload=True)[0].payload['settings'])

    def configure(self, **settings: str | None) -> None:
        with self._asking():
            self._configure(settings)

    def claim(self, **settings: str) -> dict[str, str]:
        with self._asking():
            if 'weights' not in self.settings():
                self._configure(settings)
            return self.settings()

    def _configure(self, settings: dict[str, str | None]) -> None:
        known = self.settings() | settings
        known = {name: value for name, value in known.items() if value is not None}
        if 'size' in known and not self._there():
            collection = self._create(known.get('weights', ''), int(known['size']))
            self._point(collection)
        self._client.set_payload(self._notes, {'settings': known}, [0], wait=True)

    def _collection(self, weights: str) -> str:
        return f'{self.name}-{weights[:12] or "own"}'

    def _create(self, weights: str, size: int) -> str:
        m, name = self._models, self._collection(weights)
        if self._client.collection_exists(name):
            return name
        quantization = None
        if self._quantized:
            config = m.ScalarQuantizationConfig(type=m.ScalarType.INT8, always_ram=True)
            quantization = m.ScalarQuantization(scalar=config)
        self._client.create_collection(
            name,
            m.VectorParams(size=size, distance=m.Distance.DOT, datatype=m.Datatype.FLOAT16, on_disk=self._quantized),
            quantization_config=quantization,
            on_disk_payload=True,
            **self._shape,
        )
        for field, kind in _INDEXES.items():
            self._client.create_payload_index(name, field, kind, wait=True)
        return name

    def _point(self, collection: str) -> None:
        """Makes this collection the gallery, in one step."""
        m, operations = self._models, []
        if self._there():
            alias = m.DeleteAlias(alias_name=self.name)
            operations.append(m.DeleteAliasOperation(delete_alias=alias))
        alias = m.CreateAlias(collection_name=collection, alias_name=self.name)
        operations.append(m.CreateAliasOperation(create_alias=alias))
        self._client.update_collection_aliases(operations)

    # --- adding

    def _numbers(self, count: int) -> list[int]:
        """Numbers that no crop has, ascending with time."""
        while True:
            start = int((clock.time() - _EPOCH) * 1000) << _RANDOM | secrets.randbits(_RANDOM)
            start = max(start, self._last + 1)
            numbers = [*range(start, start + count)]
            if not any(self._client.retrieve(self.name, part, with_payload=False) for part in batches(numbers)):
                self._last = numbers[-1]
                return numbers

    def add(self, crops: Sequence[NewCrop], weights: str) -> list[int | None]:
        added = clock.time()
        with self._asking():
            if self.settings().get('weights') != weights:
                raise InputError(f'{self._url}: it has got embeddings of another model meanwhile: open it again')
            known = self.known([crop.key for crop in crops if crop.key is not None])
            fresh = []
            for place, crop in enumerate(crops):
                if crop.key not in known:
                    fresh.append(place)
                    known |= {crop.key} - {None}
            ids: list[int | None] = [None] * len(crops)
            identities = self._check_tracklets([crops[place] for place in fresh])
            points = []
            for place, number in zip(fresh, self._numbers(len(fresh)) if fresh else [], strict=True):
                crop, ids[place] = crops[place], number
                payload = {
                    'key': None if crop.key is None else crop.key.hex(),
                    'tracklet': crop.tracklet,
                    'identity': identities[crop.tracklet],
                    'camera': crop.camera,
                    'time': crop.time,
                    'when': added if crop.time is None else crop.time,
                    'box': None if crop.box is None else list(crop.box),
                    'quality': crop.quality,
                    'jpeg': None if crop.jpeg is None else base64.b64encode(crop.jpeg).decode(),
                }
                payload = {name: value for name, value in payload.items() if value is not None}
                vector = crop.embedding.astype(np.float32).tolist()
                points.append(self._models.PointStruct(id=number, vector=vector, payload=payload))
            if points:
                self._client.upsert(self.name, points, wait=True)
            return ids

    def _check_tracklets(self, crops: Sequence[NewCrop]) -> dict[str, str | None]:
        """Identities of the tracklets of crops."""
        identities: dict[str, str | None] = {}
        cameras: dict[str, str | None] = {}
        for crop in crops:
            name = crop.tracklet
            if name not in cameras:
                cameras[name], identities[name] = self.tracklet(name) or (crop.camera, None)
            if crop.identity is not None and identities[name] is None:
                identities[name] = crop.identity
                self._identify([name], crop.identity)
            if cameras[name] != crop.camera:
                raise InputError(
                    f"tracklet '{name}' is of camera {cameras[name] or 'none'!r}, not {crop.camera or 'none'!r}: give "
                    'each its own name'
                )
        return identities

    def known(self, keys: Sequence[bytes]) -> set[bytes]:
        m = self._models
        with self._asking():
            if not self._there():
                return set()
            return {
                bytes.fromhex(point.payload['key'])
                for part in batches([key.hex() for key in keys])
                for point in self._scroll(
                    m.Filter(must=[m.FieldCondition(key='key', match=m.MatchAny(any=part))]), ['key']
                )
            }

    # --- looking

    def nearest(self, vector: np.ndarray, k: int, where: Where, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        with self._asking():
            found = []
            if self._there():
                parameters = self._models.SearchParams(exact=exact)
                found = self._client.query_points(
                    self.name, vector.tolist(), query_filter=self._filter(where), limit=k, with_payload=False,
                    search_params=parameters,
                ).points  # fmt: skip
        return np.array([p.id for p in found], np.int64), np.array([p.score for p in found], np.float32)

    def count(self, where: Where) -> int:
        with self._asking():
            return self._client.count(self.name, self._filter(where), exact=True).count if self._there() else 0

    def ids(self, where: Where) -> list[int]:
        with self._asking():
            return sorted(point.id for point in self._scroll(where, False)) if self._there() else []

    def crops(self, ids: Sequence[int]) -> list[Crop]:
        with self._asking():
            found = [
                point
                for part in batches([int(id) for id in ids])
                for point in self._client.retrieve(self.name, part, with_payload=list(_KNOWN))
            ]
        return sorted(_to_crop(point) for point in found)

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        with self._asking():
            found = {
                point.id: point.vector
                for part in batches([int(id) for id in ids])
                for point in self._client.retrieve(self.name, part, with_payload=False, with_vectors=True)
            }
        rows = np.full((len(ids), int(self.settings().get('size', 0))), np.nan, np.float32)
        for row, id in zip(rows, ids, strict=True):
            if int(id) in found:
                row[:] = found[int(id)]
        return rows

    def jpeg(self, id: int) -> bytes | None:
        with self._asking():
            found = self._client.retrieve(self.name, [int(id)], with_payload=['jpeg']) if self._there() else []
        content = found[0].payload.get('jpeg') if found else None
        return None if content is None else base64.b64decode(content)

    def sightings(self, where: Where) -> list[Sighting]:
        with self._asking():
            crops = [_to_crop(point) for point in self._scroll(where, _KNOWN)] if self._there() else []
        groups: dict[str, list[Crop]] = {}
        for crop in crops:
            groups.setdefault(crop.tracklet, []).append(crop)
        found = []
        for name, own in groups.items():
            times = [crop.time for crop in own if crop.time is not None]
            best = max(own, key=lambda crop: (crop.quality, crop.id))
            first, last = min(times, default=None), max(times, default=None)
            found.append(Sighting(name, own[0].identity, own[0].camera, first, last, len(own), best.id))
        return sorted(found, key=lambda s: (s.start is not None, s.start or 0, s.tracklet))

    def cameras(self) -> dict[str, int]:
        with self._asking():
            hits = self._client.facet(self.name, 'camera', limit=_MOST, exact=True).hits if self._there() else []
        return dict(sorted((hit.value, hit.count) for hit in hits))

    def tracklet(self, name: str) -> tuple[str | None, str | None] | None:
        with self._asking():
            if not self._there():
                return None
            where = self._filter(Where(tracklets=(name,)))
            found = self._client.scroll(self.name, where, limit=1, with_payload=['camera', 'identity'])[0]
        return (found[0].payload.get('camera'), found[0].payload.get('identity')) if found else None

    def merge(self, a: str, b: str) -> str:
        with self._asking():
            found = [self.tracklet(name) for name in (a, b)]
            if None in found:
                raise InputError(f"tracklet '{(a, b)[found.index(None)]}': {self._url} has none of this name")
            names = [of for _, of in found if of]
            identity = names[0] if names else self._new_identity()
            others = [s.tracklet for name in {*names} for s in self.sightings(Where(identity=name))]
            self._identify([*{a, b, *others}], identity)
        return identity

    def _new_identity(self) -> str:
        number = int(self.settings().get('people', 0)) + 1
        while self.count(Where(identity=f'person-{number}')):
            number += 1
        self._configure({'people': str(number)})
        return f'person-{number}'

    def _identify(self, tracklets: Sequence[str], identity: str) -> None:
        for collection in self._collections():
            for part in batches(tracklets):
                where = self._models.FilterSelector(filter=self._filter(Where(tracklets=tuple(part))))
                self._client.set_payload(collection, {'identity': identity}, where, wait=True)

    def _collections(self) -> list[str]:
        """What holds crops: the gallery, and what `replace` has made."""
        following = self.settings().get('next')
        return [self.name, *([self._collection(following)] if following else [])]

    # --- erasing

    def erase(self, where: Where, kind: str) -> int:
        with self._asking():
            count = self.count(where)
            if count:
                for collection in self._collections():
                    selector = self._models.FilterSelector(filter=self._filter(where))
                    self._client.delete(collection, selector, wait=True)
                self._write('erase', count, kind, False)
        return count

    def settle(self) -> bool:
        return not any(not entry.settled for entry in self.log(-1))

    def note(self, action: str, crops: int, detail: str) -> None:
        with self._asking():
            self._write(action, crops, detail, True)

    def _write(self, action: str, crops: int, detail: str, settled: bool) -> None:
        entry = LogEntry(clock.time(), action, crops, detail, settled)._asdict()
        point = self._models.PointStruct(id=str(uuid.uuid4()), vector=[1.0], payload=entry)
        self._client.upsert(self._notes, [point], wait=True)

    def log(self, limit: int, action: str | None = None) -> list[LogEntry]:
        with self._asking():
            points = [*self._scroll(None, True, self._notes)]
        rows = [LogEntry(**point.payload) for point in points if 'action' in point.payload]
        rows = sorted((row for row in rows if action in (None, row.action)), reverse=True)
        return rows if limit < 0 else rows[:limit]

    # --- another model

    def outdated(self, weights: str, count: int) -> list[tuple[int, str | None, bytes | None]]:
        with self._asking():
            following, found = self.settings().get('next'), []
            if following != weights:
                if following:
                    self._client.delete_collection(self._collection(following))
                self._configure({'next': weights})
            done: set[int] = set()
            if self._client.collection_exists(self._collection(weights)):
                done = {point.id for point in self._scroll(None, False, self._collection(weights))}
            for id in self.ids(Where()):
                if id not in done:
                    found.append(id)
                    if len(found) == count:
                        break
            points = self._client.retrieve(self.name, found, with_payload=['camera', 'jpeg']) if found else []
        images = [(p, p.payload.get('jpeg')) for p in points]
        return [(p.id, p.payload.get('camera'), None if j is None else base64.b64decode(j)) for p, j in images]

    def replace(self, weights: str, ids: Sequence[int], embeddings: np.ndarray) -> None:
        with self._asking():
            if self.settings().get('next') != weights:
                raise InputError(f'{self._url}: another process embeds it by another model: let one of them do it')
            rows = {int(id): row.astype(np.float32).tolist() for id, row in zip(ids, embeddings, strict=True)}
            points = self._client.retrieve(self.name, [*rows], with_payload=True)
            collection = self._create(weights, embeddings.shape[1])
            struct = self._models.PointStruct
            self._client.upsert(
                collection, [struct(id=p.id, vector=rows[p.id], payload=p.payload) for p in points], wait=True
            )

    def switch(self, weights: str, settings: dict[str, str]) -> bool:
        with self._asking():
            known = self.settings()
            if known.get('next') != weights:
                return False
            collection = self._create(weights, int(settings['size']))
            done = {point.id for point in self._scroll(None, False, collection)}
            if self._there() and not {*self.ids(Where())} <= done:
                return False
            self._point(collection)
            self._configure({'next': None, **settings})
            self._client.delete_collection(self._collection(known.get('weights', '')))
        return True

    def room(self) -> int:
        return 0  # which a server does not tell

    def close(self) -> None:
        self._client.close()


def _to_crop(point: Any) -> Crop:
    known = point.payload
    box = known.get('box')
    return Crop(
        point.id, known['tracklet'], known.get('identity'), known.get('camera'), known.get('time'),
        None if box is None else tuple(box), known['quality'],
    )  # fmt: skip
