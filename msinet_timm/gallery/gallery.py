"""Crops go in, an image finds them again, by camera and time; and whoever is to be forgotten is erased."""

import hashlib
import io
import logging
import secrets
import time as clock
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from msinet_timm.commands import progress
from msinet_timm.datasets.images import load_image, rgb_image, rgb_pixels
from msinet_timm.datasets.records import cover_pixels
from msinet_timm.embedder import Embedder
from msinet_timm.errors import InputError
from msinet_timm.files import check_regular
from msinet_timm.hub.calibration import find_calibration
from msinet_timm.person_search.found import Found
from msinet_timm.tracking.tracklets import weigh

from .qdrant import QdrantStore
from .sqlite import SQLiteStore
from .store import Crop, Erasure, LogEntry, NewCrop, Sighting, Store, Where, batches
from .times import format_time, parse_time

__all__ = ['Gallery', 'Match', 'UNSURE', 'verdict']

#: Up to so many times the calibrated distance, nothing is said: see docs/gallery.md.
UNSURE = 1.15
#: Longest side of a crop that is kept, in pixels, and the quality of its JPEG.
LARGEST, QUALITY = 512, 90
#: Crops that re-ranking compares with each other, at least.
RERANKED = 200
_BATCH = 256  # crops that are added at once
_DAY = 86400.0

_logger = logging.getLogger(__name__)

Moment = str | float | datetime | date


class Match(NamedTuple):
    """A crop that was found.

    Attributes:
        crop: what is known of it.
        distance: Euclidean distance of its embedding from that of the query, both of length 1: 0 to 2.
        verdict: 'same' up to the model's calibrated distance, 'unsure' a little beyond, see `UNSURE`, 'other' farther
            away; None where the model has no calibration.
    """

    crop: Crop
    distance: float
    verdict: str | None


class Gallery:
    """People who were seen, in a folder or on a server.

    ```
    gallery = Gallery('people.gallery', model='runs/mine')
    gallery.add(frame, boxes, camera='door', time='2026-05-01T14:30:00Z', tracklet=[7, 8])
    gallery.add_crops(['a.jpg', 'b.jpg'], camera='yard')
    for crop, distance, verdict in gallery.search('c.jpg', 10, camera=['door'], since='2026-05-01'):
        print(crop.tracklet, crop.camera, distance, verdict)
    gallery.delete(tracklet='7')
    ```

    A crop belongs to a tracklet, a tracklet to one camera and perhaps to an identity; all three have names. Moments are
    seconds of UTC, dates, or texts of ISO 8601, see `msinet_timm.gallery.parse_time`.

    Several processes may use a gallery at once: each sees what the others have added or erased. Threads may share a
    `Gallery`. A process that is killed leaves all that a method had returned from, and nothing half.

    Attributes:
        keep_days: days after which crops are erased by themselves, when something is added or the gallery is opened;
            None keeps them.
        keep_crops: whether images of crops are kept.
        path: where it is.
        store: see `msinet_timm.gallery.store.Store`.

    Args:
        path: folder, made where it is missing; or `qdrant://HOST:PORT/NAME` for a collection of a Qdrant server.
        model: what embeds, as `msinet_timm.embedder.Embedder` takes it, or an embedder. None for the one that the
            gallery was made with, which is read when it is needed; of a new gallery, embeddings are given to
            `add_embeddings` then.
        keep_days: greater than 0; it is noted in the gallery. None leaves what is noted.
        keep_crops: whether images of crops are kept, as JPEG of up to `LARGEST` pixels. Without them, there is nothing
            to show and `reembed` cannot work. None for what is noted, which is at first: yes.
        device: where the model runs; None for the first GPU, or the CPU.
        create: whether a gallery may be made where there is none.
        options: of the store.

    Raises:
        InputError: something else is there, it is damaged, holds embeddings of another model, or nothing can be written
            there.
    """

    def __init__(
        self,
        path: str | Path,
        model: Any = None,
        *,
        keep_days: float | None = None,
        keep_crops: bool | None = None,
        device: str | None = None,
        create: bool = True,
        **options: Any,
    ) -> None:
        if keep_days is not None and not 0 < keep_days < 1e6:
            raise InputError(f'keep_days must be greater than 0, got {keep_days}')
        self.path, self._device = str(path), device
        embedder = None
        if model is not None:
            embedder = model if isinstance(model, Embedder) else Embedder(model, device)
        self.store: Store = _open(self.path, create, options)
        self._embedder = embedder
        given = {
            'keep_days': None if keep_days is None else str(float(keep_days)),
            'keep_crops': None if keep_crops is None else str(int(keep_crops)),
        }
        try:
            self._begin({name: value for name, value in given.items() if value is not None})
        except BaseException:
            self.store.close()
            raise

    def _begin(self, given: dict[str, str]) -> None:
        """Notes what is given, once it is known that the model is the right one."""
        known = self.store.settings()
        if self._embedder is not None:
            if 'weights' not in known and not self.store.readonly:
                known = self.store.claim(**_model_settings(self._embedder))
            self._check_model(self._embedder, known)
        if not given.items() <= known.items() and not self.store.readonly:
            self.store.configure(**given)
        self._secret = bytes.fromhex(known['secret'])
        if not self.store.readonly:
            self.expire()

    @property
    def keep_days(self) -> float | None:
        days = self.store.settings().get('keep_days')
        return float(days) if days else None

    @property
    def keep_crops(self) -> bool:
        return self.store.settings().get('keep_crops', '1') == '1'

    # --- the model

    def _check_model(self, embedder: Embedder, known: dict[str, str]) -> None:
        if known.get('weights', '') != embedder.digest:
            raise InputError(
                f'{self.path} holds embeddings of another model ({known.get("model") or "given by a program"}), which '
                f'are not to be compared with those of {embedder.source or "this one"}: open it without a model, or '
                'let reembed replace them'
            )

    @property
    def model(self) -> str:
        """Name or folder of the model that embeds; '' where a program gives embeddings or modules."""
        return self.store.settings().get('model', '')

    @property
    def size(self) -> int | None:
        """D, the length of an embedding; None before the first."""
        size = self.store.settings().get('size')
        return int(size) if size else None

    @property
    def embedder(self) -> Embedder:
        """What embeds; it is read here, if it has not been yet, or if `reembed` has put another in its place since.

        Raises:
            InputError: the gallery has no model, it cannot be read, or it is another one by now.
        """
        known = self.store.settings()
        embedder = self._embedder
        if embedder is None or known.get('weights', embedder.digest) != embedder.digest:
            if not known.get('model'):
                raise InputError(f'{self.path}: it does not know how to embed images: give it a model')
            embedder = Embedder(known['model'], self._device)
            self._check_model(embedder, known)
            self._embedder = embedder
        return embedder

    @property
    def threshold(self) -> float | None:
        """Largest distance of what is held to be the same; None where the model has no calibration."""
        if self._embedder is not None:
            try:
                return self._embedder.thresholds('msinet_timm')['threshold']
            except InputError:
                return None
        model = self.model
        calibration = find_calibration(model) if model else None
        return None if calibration is None else calibration.threshold

    # --- adding

    def add(
        self,
        frame: np.ndarray,
        boxes,
        *,
        camera: str | None = None,
        time: Moment | None = None,
        tracklet: str | int | Sequence[str | int] | None = None,
        identity: str | None = None,
        quality=None,
        embeddings=None,
        bgr: bool = False,
    ) -> list[int | None]:
        """Embeds and adds parts of a frame.

        The same box of the same camera, time and tracklet is added once, if its time is known.

        Args:
            frame: [H, W, 3] uint8 or uint16: red, green and blue.
            boxes: [N, 4] left, top, right and bottom in pixels. What reaches beyond the frame is cut off. Or what
                `msinet_timm.person_search.PersonSearch` finds, with its own embeddings.
            camera: that the frame is of. If the model knows it, its crops are embedded by its own statistics.
            time: of the frame.
            tracklet: that each box belongs to, or one for all; None gives each a tracklet of its own.
            identity: of the tracklets, where that is known.
            quality: [N] how much each box shows, 0 to 1; None for the share of it that is seen, less for small ones.
            embeddings: [N, D] where they are known; None embeds here.
            bgr: the frame's channels are blue, green and red, as OpenCV reads them.

        Returns:
            A number for each box; None for one that has been there already.

        Raises:
            InputError: a frame or boxes of another form, a box outside of the frame, a tracklet of another camera, a
                time that is older than `keep_days`, or nothing can be written.
        """
        scores = None
        if isinstance(boxes, Found):
            if embeddings is not None:
                raise InputError('what person search finds has embeddings of its own: leave them out')
            boxes, scores, embeddings = boxes
        if embeddings is None:
            embeddings = self.embedder.crops(frame, boxes, bgr=bgr, camera=_known(self.embedder, [camera])[0])
        boxes = np.asarray(boxes, float).reshape(-1, 4)
        scores = np.ones(len(boxes)) if scores is None else scores
        pixels = rgb_pixels(frame, 'the frame')[..., :: -1 if bgr else 1]
        size = pixels.shape[1], pixels.shape[0]
        places = [cover_pixels(box, size) for box in boxes.tolist()]
        if None in places:
            raise InputError(f'box {places.index(None)} lies outside of the frame of {size[0]}x{size[1]} pixels')
        images = [
            Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right])) for left, top, right, bottom in places
        ]
        return self.add_embeddings(
            embeddings,
            images,
            camera=camera,
            time=time,
            tracklet=tracklet,
            identity=identity,
            boxes=boxes,
            quality=weigh(boxes, scores, size) if quality is None else quality,
        )

    def add_crops(
        self,
        paths: Iterable[str | Path],
        *,
        camera: str | None | Sequence[str | None] = None,
        time: Moment | None | Sequence[Moment | None] = None,
        tracklet: str | int | None | Sequence[str | int | None] = None,
        identity: str | None | Sequence[str | None] = None,
    ) -> list[int | None]:
        """Embeds and adds images of one person each.

        Files that are in the gallery already, by their content, camera and time, are passed over without embedding
        them: what was broken off goes on where it was. One that cannot be read is named in the log and left out.

        Args:
            paths: image files.
            camera: that they are of; one for all, or one for each, as all that follow.
            time: of each.
            tracklet: that each belongs to; None gives it one of its own.
            identity: of its tracklet.

        Returns:
            A number for each file; None for one that has been there already or cannot be read.

        Raises:
            InputError: see `add`.
        """
        paths = [str(path) for path in paths]
        columns = [_each(v, len(paths), name) for name, v in zip(
            ('camera', 'time', 'tracklet', 'identity'), (camera, time, tracklet, identity), strict=True)]  # fmt: skip
        cameras, times, tracklets, identities = columns
        times = [None if t is None else parse_time(t) for t in times]
        self.check_times(times)
        ids: list[int | None] = [None] * len(paths)
        left_out = 0
        with progress(total=len(paths), desc='crops', unit='img') as bar:
            for places in batches(range(len(paths)), _BATCH):
                keys, images, contents = {}, {}, {}
                for place in places:
                    try:
                        check_regular(paths[place], empty=True)
                        contents[place] = content = Path(paths[place]).read_bytes()
                        keys[place] = self._key(content, f'{cameras[place] or ""}\0{_moment(times[place])}')
                    except OSError as e:
                        _logger.warning('%s: cannot be read (%s): left out', paths[place], e.strerror)
                        left_out += 1
                known = self.store.known([*keys.values()])
                for place in [place for place in places if place in keys and keys[place] not in known]:
                    try:
                        images[place] = load_image(paths[place], content=contents[place])
                    except InputError as e:
                        _logger.warning('%s: left out', e)
                        left_out += 1
                if images:
                    fresh = [*images]
                    embeddings = _embed(self.embedder, [images[p] for p in fresh], [cameras[p] for p in fresh])
                    added = self._store(
                        embeddings,
                        [*images.values()],
                        keys=[keys[p] for p in fresh],
                        cameras=[cameras[p] for p in fresh],
                        times=[times[p] for p in fresh],
                        tracklets=[tracklets[p] for p in fresh],
                        identities=[identities[p] for p in fresh],
                        boxes=[None] * len(fresh),
                        qualities=[weigh([[0, 0, *images[p].size]], [1.0])[0] for p in fresh],
                    )
                    for place, id in zip(fresh, added, strict=True):
                        ids[place] = id
                bar.update(len(places))
        if left_out:
            _logger.warning('%d of %d files are left out', left_out, len(paths))
        return ids

    def add_embeddings(
        self,
        embeddings,
        images: Sequence[Image.Image | bytes | None] | None = None,
        *,
        camera: str | None | Sequence[str | None] = None,
        time: Moment | None | Sequence[Moment | None] = None,
        tracklet: str | int | None | Sequence[str | int | None] = None,
        identity: str | None | Sequence[str | None] = None,
        boxes=None,
        quality=None,
    ) -> list[int | None]:
        """Adds what has been embedded elsewhere, by the gallery's model.

        Args:
            embeddings: [N, D] finite numbers, of any length but 0.
            images: of each, in RGB or as JPEG; None for none.
            camera: that each is of; one for all, or one for each, as all that follow.
            time: of each.
            tracklet: that each belongs to; None gives it one of its own.
            identity: of its tracklet.
            boxes: [N, 4] left, top, right and bottom in their frames.
            quality: [N] how much each shows, 0 to 1; None for 1.

        Returns:
            A number for each; None for one that has been there already: of the same camera, time, tracklet and box, all
            of them known.

        Raises:
            InputError: see `add`; or embeddings of another length.
        """
        embeddings = np.atleast_2d(np.asarray(embeddings, np.float32)) if len(embeddings) else np.empty((0, 0))
        count = len(embeddings)
        tracklets = _each(tracklet, count, 'tracklet')
        cameras = [None if c is None else str(c) for c in _each(camera, count, 'camera')]
        times = [None if t is None else parse_time(t) for t in _each(time, count, 'time')]
        boxes = [None] * count if boxes is None else [tuple(box) for box in _boxes(boxes, count).tolist()]
        images = _each(None if images is None else [*images], count, 'images')
        quality = _each(1.0 if quality is None else [*quality], count, 'quality')
        keys = [
            None if box is None or moment is None or name is None else self._key(
                repr((round(moment, 3), str(name), [round(v, 1) for v in box])).encode(), of or ''
            )
            for box, moment, name, of in zip(boxes, times, tracklets, cameras, strict=True)
        ]  # fmt: skip
        self.check_times(times)
        return self._store(
            embeddings,
            images,
            keys=keys,
            cameras=cameras,
            times=times,
            tracklets=tracklets,
            identities=_each(identity, count, 'identity'),
            boxes=boxes,
            qualities=[float(q) for q in quality],
        )

    def _store(
        self, embeddings, images, *, keys, cameras, times, tracklets, identities, boxes, qualities
    ) -> list[int | None]:
        if not len(embeddings):
            return []
        rows, keep = self._unit(embeddings), self.keep_crops
        crops = []
        for place, row in enumerate(rows):
            name = tracklets[place]
            image = images[place] if keep else None
            crops.append(
                NewCrop(
                    keys[place],
                    secrets.token_hex(6) if name is None else _checked(str(name), 'tracklet'),
                    None if identities[place] is None else _checked(str(identities[place]), 'identity'),
                    None if cameras[place] is None else _checked(str(cameras[place]), 'camera'),
                    times[place],
                    boxes[place],
                    min(1.0, max(0.0, qualities[place])),
                    row.astype(np.float16),
                    image if image is None or isinstance(image, bytes) else _jpeg(image),
                )
            )
        weights = self._weights(rows.shape[1])
        ids = [id for part in batches(crops, 4 * _BATCH) for id in self.store.add(part, weights)]
        self.expire()
        return ids

    def _weights(self, size: int) -> str:
        """What is noted of the model; of the first embeddings, their length is noted."""
        if self._embedder is not None:
            return self._embedder.digest
        known = self.store.settings()
        if 'size' not in known:
            known = self.store.claim(size=str(size), weights='')
        return known.get('weights', '')

    def _unit(self, embeddings) -> np.ndarray:
        """Embeddings [N, D] float32 of length 1."""
        rows = np.asarray(embeddings, np.float32)
        size = self.size
        if rows.ndim != 2 or (size is not None and rows.shape[1] != size):
            raise InputError(f'embeddings must be [N, {size or "D"}], got {list(rows.shape)}')
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(rows).all() or not (lengths > 0).all():
            raise InputError('embeddings must be finite, and none of them only zeros')
        return rows / lengths

    def _key(self, content: bytes, camera: str) -> bytes:
        """Tells what is there already, and nothing to those who do not have the gallery."""
        digest = hashlib.blake2b(content, digest_size=16, key=self._secret)
        digest.update(b'\0' + camera.encode())
        return digest.digest()

    def check_times(self, times: Sequence[float | None]) -> None:
        """Refuses moments, in seconds of UTC or None, that are too old to be kept.

        Raises:
            InputError: one is older than `keep_days`.
        """
        if (days := self.keep_days) is None:
            return
        oldest = min((t for t in times if t is not None), default=None)
        if oldest is not None and oldest < clock.time() - days * _DAY:
            raise InputError(
                f'{format_time(oldest)} is more than the {days:g} days ago that {self.path} keeps (keep_days)'
            )

    # --- searching

    def search(
        self,
        image,
        k: int = 10,
        *,
        camera: str | Sequence[str] | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        per_tracklet: bool = True,
        rerank: Callable[..., np.ndarray] | None = None,
        exact: bool = False,
        query_camera: str | None = None,
    ) -> list[Match]:
        """Finds the crops that look most like an image.

        Args:
            image: a file, PIL image, RGB array [H, W, 3] or tensor [3, H, W], see `Embedder`; or an embedding [D].
            k: how many are wanted.
            camera: those that may have seen them; None for all, and for crops of no known camera.
            since: crops from this moment on; those of unknown time are not found.
            until: crops from before this moment; those of unknown time are not found.
            per_tracklet: the best crop of each of k tracklets, instead of k crops.
            rerank: orders by neighbours that crops have in common instead of by distance: takes the query [1, D], crops
                [N, D], and numbers k1 and k2, and gives distances [1, N]; such as `msinet_eval.metrics.k_reciprocal`.
                The nearest crops, at least `RERANKED`, are compared.
            exact: compare with all crops in full. Otherwise, galleries beyond `msinet_timm.gallery.index.BITS_FROM`
                crops are searched faster, see docs/gallery.md.
            query_camera: that the image is of, if the model knows it.

        Returns:
            The best first; fewer than k where there are no more.

        Raises:
            InputError: an image that cannot be read, an embedding of another length, a camera that the gallery does not
                know, or moments that are none.
        """
        if k < 1:
            raise InputError(f'k must be at least 1, got {k}')
        where = self._where(camera=camera, since=since, until=until)
        query = self.embed(image, query_camera)
        wanted = max(k, RERANKED) if rerank else k
        ask = wanted if not per_tracklet else 8 * wanted
        while True:
            ids, _ = self.store.nearest(query, ask, where, exact)
            known = {crop.id: crop for crop in self.store.crops(ids)}
            found = [known[id] for id in ids.tolist() if id in known]
            if not per_tracklet or len(ids) < ask or len({crop.tracklet for crop in found}) >= wanted:
                break
            ask *= 8
        vectors = self.store.vectors([crop.id for crop in found])
        there = ~np.isnan(vectors).any(axis=1)
        found, vectors = [crop for crop, is_there in zip(found, there, strict=True) if is_there], vectors[there]
        return self._ranked(query, found, vectors, k, per_tracklet, rerank)

    def _ranked(self, query, found: list[Crop], vectors, k: int, per_tracklet: bool, rerank) -> list[Match]:
        if not found:
            return []
        distances = np.linalg.norm(vectors - query, axis=1)
        keys = distances
        if rerank is not None:
            found, vectors, distances = found[: 4 * RERANKED], vectors[: 4 * RERANKED], distances[: 4 * RERANKED]
            k1 = min(20, max(1, len(found) // 3))
            keys = np.asarray(rerank(query[None], vectors, k1, min(6, k1)))[0]
        matches, seen = [], set()
        for place in np.lexsort((distances, keys)):
            crop = found[place]
            if per_tracklet and crop.tracklet in seen:
                continue
            seen.add(crop.tracklet)
            matches.append((crop, float(distances[place])))
            if len(matches) == k:
                break
        threshold = self.threshold
        return [Match(crop, d, verdict(d, threshold)) for crop, d in matches]

    def embed(self, image, camera: str | None = None) -> np.ndarray:
        """The embedding [D] of an image, of length 1; an embedding is only checked, see `search`."""
        array = getattr(image, 'ndim', None) == 1 or (isinstance(image, (list, tuple)) and len(image) > 4)
        if not array and camera is not None and camera not in self.embedder.cameras:
            known = _list(self.embedder.cameras) or 'no cameras (msinet-hub adapt learns them)'
            raise InputError(f'query_camera {camera}: the model knows {known}: give one of these, or leave it out')
        rows = np.asarray(image, np.float32)[None] if array else _embed(self.embedder, [image], [camera])
        return self._unit(rows)[0]

    def _where(self, *, camera=None, since=None, until=None, before=None, tracklet=None, identity=None) -> Where:
        """A question in a store's words."""
        cameras = None if camera is None else (camera,) if isinstance(camera, (str, int)) else tuple(camera)
        cameras = cameras and tuple(map(str, cameras))
        if cameras is not None:
            known = self.store.cameras()
            for name in cameras:
                if name not in known:
                    raise InputError(f"camera '{name}': {self.path} knows {_list(known) or 'none'}")
        moments = [None if m is None else parse_time(m) for m in (since, until, before)]
        if None not in moments[:2] and moments[0] >= moments[1]:
            raise InputError(f'since {format_time(moments[0])} must be before until {format_time(moments[1])}')
        tracklets = None
        if tracklet is not None:
            self._check_tracklet(str(tracklet))
            tracklets = (str(tracklet),)
        if identity is not None and not self.store.count(Where(identity=identity)):
            raise InputError(f"identity '{identity}': {self.path} does not know anybody of this name")
        return Where(cameras, *moments, tracklets, identity)

    def _check_tracklet(self, name: str) -> None:
        if self.store.tracklet(name) is None:
            raise InputError(f"tracklet '{name}': {self.path} has none of this name")

    # --- looking

    def __len__(self) -> int:
        return self.store.count(Where())

    def tracklets(
        self,
        *,
        camera: str | Sequence[str] | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        identity: str | None = None,
    ) -> list[Sighting]:
        """Tracklets by their start, those of unknown time first; what they tell is of the crops that are asked for.

        Args:
            camera: that has seen them, or several; None for all.
            since: crops from this moment on.
            until: crops from before this moment.
            identity: who it is.

        Raises:
            InputError: a camera or identity that the gallery does not know, or moments that are none.
        """
        return self.store.sightings(self._where(camera=camera, since=since, until=until, identity=identity))

    def crops(self, tracklet: str | int) -> list[Crop]:
        """The crops of a tracklet, in the order of their numbers.

        Raises:
            InputError: there is no such tracklet.
        """
        self._check_tracklet(str(tracklet))
        return self.store.crops(self.store.ids(Where(tracklets=(str(tracklet),))))

    def crop(self, id: int) -> Crop:
        """What is known of a crop.

        Raises:
            InputError: there is no crop of this number.
        """
        found = self.store.crops([id])
        if not found:
            raise InputError(f'crop {id}: {self.path} has none of this number')
        return found[0]

    def jpeg(self, id: int) -> bytes:
        """The image of a crop, as the bytes of a JPEG.

        Raises:
            InputError: there is no crop of this number, or no image of it was kept.
        """
        found = self.store.jpeg(id)
        if found is None:
            self.crop(id)
            raise InputError(f'crop {id}: no image of it was kept')
        return found

    def stats(self) -> dict[str, Any]:
        """What is there: `crops`, `tracklets`, `identities`, `cameras` (crops by camera), `since` and `until` (first
        and last known moment, seconds of UTC or None), `bytes` on the disk (0 for a server), `model`, `keep_days`,
        `keep_crops`.
        """
        sightings = self.store.sightings(Where())
        times = [t for s in sightings for t in (s.start, s.end) if t is not None]
        return {
            'crops': sum(s.crops for s in sightings),
            'tracklets': len(sightings),
            'identities': len({s.identity for s in sightings} - {None}),
            'cameras': self.store.cameras(),
            'since': min(times, default=None),
            'until': max(times, default=None),
            'bytes': self.store.room(),
            'model': self.model,
            'keep_days': self.keep_days,
            'keep_crops': self.keep_crops,
        }

    # --- who is who, and who is forgotten

    def merge(self, a: str | int, b: str | int) -> str:
        """Says that two tracklets are of the same one; so are all tracklets of their identities.

        Args:
            a: name of a tracklet.
            b: name of another.

        Returns:
            The identity of both: that of `a`, or else of `b`, or else a new one, named `person-` and a number.

        Raises:
            InputError: there is no such tracklet, or both are the same.
        """
        a, b = str(a), str(b)
        if a == b:
            raise InputError(f"tracklet '{a}' cannot be merged with itself")
        identity = self.store.merge(a, b)
        self.store.note('merge', 0, '')
        return identity

    def delete(
        self,
        *,
        tracklet: str | int | None = None,
        identity: str | None = None,
        before: Moment | None = None,
        camera: str | Sequence[str] | None = None,
    ) -> int:
        """Erases crops that all of what is given holds for: embeddings, images, and names that nothing else has.

        Their bytes are overwritten in the files of the gallery before it returns; `erase_report` tells whether that
        could be done.

        Args:
            tracklet: that they belong to.
            identity: who it is.
            before: those from before this moment; where their time is not known, those that were added before it.
            camera: that has seen them, or several.

        Returns:
            How many were erased.

        Raises:
            InputError: nothing is given, a name that the gallery does not know, or nothing can be written.
        """
        given = {'tracklet': tracklet, 'identity': identity, 'before': before, 'camera': camera}
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            raise InputError('nothing is erased without saying what: give tracklet, identity, before or camera')
        return self.store.erase(self._where(**given), '+'.join(given))

    def expire(self) -> int:
        """Erases what is older than `keep_days`, which also happens by itself; gives how many crops."""
        if (days := self.keep_days) is None:
            return 0
        where = Where(before=clock.time() - days * _DAY)
        return self.store.erase(where, 'days') if self.store.count(where) else 0

    def erase_report(self) -> list[Erasure]:
        """What was erased and when, the last first, without who that was."""
        self.store.settle()
        entries = self.store.log(-1, 'erase')
        return [Erasure(entry.time, entry.detail, entry.crops, entry.settled) for entry in entries]

    def note(self, action: str, crops: int = 0, detail: str = '') -> None:
        """Adds to the log what a program has done, such as a search.

        Args:
            action: in one word; 'erase' is taken.
            crops: how many it was about.
            detail: more about it. It stays when people are erased: name nobody.

        Raises:
            InputError: nothing can be written, or the action is 'erase'.
        """
        if action == 'erase':
            raise InputError("'erase' is noted by delete alone")
        self.store.note(action, crops, detail)

    def log(self, limit: int = 100) -> list[LogEntry]:
        """What has been noted, the last first: erasures, merges, and what programs have noted."""
        return self.store.log(limit)

    # --- another model

    def reembed(self, model: Any) -> int:
        """Embeds all crops anew, by another model; until that is done, the old embeddings count.

        What was broken off goes on where it was. Embeddings are made of the JPEGs that are kept.

        Args:
            model: see `Gallery`.

        Returns:
            How many crops were embedded.

        Raises:
            InputError: crops without images, a model that cannot be read, or nothing can be written.
        """
        embedder = model if isinstance(model, Embedder) else Embedder(model, self._device)
        weights, done = embedder.digest, 0
        if self.store.settings().get('weights') == weights:
            return 0
        with progress(total=len(self), desc='crops', unit='img') as bar:
            while True:
                batch = self.store.outdated(weights, _BATCH)
                if not batch:
                    if self.store.switch(weights, _model_settings(embedder)):
                        break
                    continue
                if missing := sum(jpeg is None for _, _, jpeg in batch):
                    raise InputError(
                        f'{self.path}: {missing} crops or more have no image: they cannot be embedded anew'
                    )
                images = [load_image(f'crop {id}', content=jpeg) for id, _, jpeg in batch]
                self.store.replace(
                    weights,
                    [id for id, _, _ in batch],
                    _half(_embed(embedder, images, [camera for _, camera, _ in batch])),
                )
                done += len(batch)
                bar.update(len(batch))
        self._embedder = embedder
        return done

    def close(self) -> None:
        """Ends the use of the gallery; the last process to do so leaves one file."""
        self.store.close()

    def __enter__(self) -> 'Gallery':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _open(path: str, create: bool, options: dict) -> Store:
    if path.startswith(('qdrant://', 'qdrant+https://')):
        return QdrantStore(path, create, **options)
    return SQLiteStore(path, create, **options)


def _model_settings(embedder: Embedder) -> dict[str, str]:
    model = str(embedder.source or '')
    if model and Path(model).is_dir():
        model = str(Path(model).absolute())
    return {'weights': embedder.digest, 'size': str(embedder.size), 'model': model}


def _known(embedder: Embedder, cameras: Sequence[str | None]) -> list[str | None]:
    """Cameras to embed by: none for a model that has learnt none, which would warn of each."""
    return [*cameras] if embedder.cameras else [None] * len(cameras)


def _embed(embedder: Embedder, images: Sequence, cameras: Sequence[str | None]) -> np.ndarray:
    return embedder(images, _known(embedder, cameras))


def _moment(seconds: float | None) -> str:
    return '' if seconds is None else f'{seconds:.3f}'


def _half(embeddings: np.ndarray) -> np.ndarray:
    """At length 1, as float16."""
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float16)


def verdict(distance: float, threshold: float | None) -> str | None:
    """What a distance says, by `Gallery.threshold`; see `Match`."""
    if threshold is None:
        return None
    return 'same' if distance <= threshold else 'unsure' if distance <= UNSURE * threshold else 'other'


def _each(value: Any, count: int, name: str) -> list:
    """One value for all, or one for each."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return [value] * count
    if len(value) != count:
        raise InputError(f'{name}: {len(value)} for {count} crops: give one for all, or one for each')
    return list(value)


def _boxes(boxes: Any, count: int) -> np.ndarray:
    """Boxes [N, 4] as they are kept."""
    boxes = np.asarray(boxes, float)
    if boxes.shape != (count, 4):
        raise InputError(f'boxes must be [{count}, 4], got {list(boxes.shape)}')
    return boxes


def _checked(name: str, what: str) -> str:
    """A name that can be written and shown."""
    if not name or len(name) > 200 or not name.isprintable():
        raise InputError(f'{what} {name[:200]!r}: a name has 1 to 200 characters that can be shown')
    return name


def _list(names: Iterable[str], most: int = 20) -> str:
    names = list(names)
    return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')


def _jpeg(image: Image.Image) -> bytes:
    """What is kept of a crop."""
    image = rgb_image(image, 'a crop')
    image.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=QUALITY)
    return file.getvalue()
