"""What is answered to browsers and programs."""

import asyncio
import contextlib
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import jinja2
import numpy as np
from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from msinet_timm.datasets.images import load_image
from msinet_timm.errors import InputError
from msinet_timm.files import WriteError
from msinet_timm.gallery.gallery import UNSURE, Gallery, verdict
from msinet_timm.gallery.store import Where
from msinet_timm.gallery.times import format_time, parse_time

from .guard import LARGEST_UPLOAD, UPLOADS, Guard, RefusedError, read_upload

__all__ = ['create_app']

#: Crops that are told of each tracklet that was found.
SHOWN = 8
#: Seconds after which is looked again for what is too old to keep.
EXPIRY = 60.0
_FILES = {
    'index.html': 'text/html', 'page.css': 'text/css', 'page.js': 'text/javascript', 'icon.svg': 'image/svg+xml',
}  # fmt: skip
_logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """Why something was not done."""

    error: str = Field(description='why, and the way out')


class Summary(BaseModel):
    """What the gallery holds."""

    name: str = Field(description='of its folder')
    crops: int = Field(description='how many')
    tracklets: int = Field(description='how many')
    identities: int = Field(description='how many')
    cameras: dict[str, int] = Field(description='crops by camera')
    since: str | None = Field(description='first known moment, in UTC')
    until: str | None = Field(description='last known moment, in UTC')
    bytes: int = Field(description='room on the disk')
    model: str = Field(description='that embeds, without the folders above it')
    keep_days: float | None = Field(description='days after which crops are erased by themselves')
    keep_crops: bool = Field(description='whether images of crops are kept')
    readonly: bool = Field(description='nothing can be erased, merged or noted')
    threshold: float | None = Field(description="distance up to which the verdict is 'same'; null: not calibrated")
    unsure: float | None = Field(description="distance up to which the verdict is 'unsure'")
    largest_upload: int = Field(description='bytes of an image, at most')


class FoundCrop(BaseModel):
    """A crop and how near it is."""

    id: int = Field(description='its number')
    time: str | None = Field(description='in UTC')
    distance: float = Field(description='of embeddings of length 1: 0 to 2')
    verdict: Literal['same', 'unsure', 'other'] | None = Field(description='null where the model is not calibrated')


class Seen(BaseModel):
    """A tracklet: crops of one camera that belong together."""

    tracklet: str = Field(description='its name')
    identity: str | None = Field(description='who it is, where somebody has said')
    camera: str | None = Field(description='that has seen it')
    start: str | None = Field(description='first known moment, in UTC')
    end: str | None = Field(description='last known moment, in UTC')
    crops: int = Field(description='how many there are')
    best: int = Field(description='number of the crop that shows most')


class FoundTracklet(BaseModel):
    """A tracklet that was found."""

    tracklet: str = Field(description='its name')
    identity: str | None = Field(description='who it is, where somebody has said')
    camera: str | None = Field(description='that has seen it')
    start: str | None = Field(description='first known moment, in UTC')
    end: str | None = Field(description='last known moment, in UTC')
    crops: int = Field(description='how many there are within the filters')
    nearest: list[FoundCrop] = Field(description=f'the {SHOWN} nearest of them, nearest first')


class Merged(BaseModel):
    """Who is the same now."""

    identity: str = Field(description='its name')
    tracklets: list[str] = Field(description='all of this identity')


class Erased(BaseModel):
    """What was erased."""

    crops: int = Field(description='how many')
    settled: bool = Field(description='whether their bytes are gone from all files of the gallery')


class Entry(BaseModel):
    """Something that was done."""

    time: str = Field(description='in UTC')
    action: str = Field(description="'search', 'merge', 'erase', or what another program has noted")
    crops: int = Field(description='how many it was about')
    detail: str = Field(description='more about it')
    settled: bool = Field(description='of an erasure: whether the bytes are gone')


Upload = Annotated[bytes, Depends(read_upload)]
Cameras = Annotated[list[str] | None, Query(description='one of these has seen it; repeat it for several')]
Since = Annotated[str | None, Query(description='from this moment on, such as 2026-05-01 or 2026-05-01T14:30:00Z')]
Until = Annotated[str | None, Query(description='before this moment')]
Box = Annotated[
    str | None,
    Query(
        description='left,top,right,bottom of the person, in pixels of the upright image; all of it without',
        pattern=r'^-?\d{1,6}(,-?\d{1,6}){3}$',
    ),
]
_BODY = {
    'requestBody': {
        'required': True,
        'description': f'the bytes of an image file of up to {LARGEST_UPLOAD // 2**20} MB',
        'content': {'image/*': {'schema': {'type': 'string', 'format': 'binary'}}},
    }
}


def create_app(gallery: Gallery, token: str | None = None) -> Guard:
    """The application of ASGI that `serve` runs.

    Args:
        gallery: to answer from; its model is read here.
        token: see `Guard`.

    Raises:
        InputError: the gallery cannot embed images.
    """
    gallery.embedder  # noqa: B018  what is wrong with it shows now
    app = FastAPI(
        title='msinet-gallery',
        version=version('msinet-timm'),
        description='People who were seen, found again by an image.',
        # their pages load scripts from other hosts
        docs_url=None,
        redoc_url=None,
        openapi_url='/api/openapi.json',
        responses={
            400: {'model': Problem, 'description': 'what was sent cannot be used'},
            422: {'model': Problem, 'description': 'a parameter of another kind'},
        },
        dependencies=[Depends(_check_query)],
        lifespan=lambda app: _expiring(gallery),
        # what is asked for is told to nobody, whatever the environment of the process says
        telemetry=dict.fromkeys(('tracing', 'metrics', 'logs', 'operation_spans', 'auto_configure'), False),
    )
    app.state.uploads = asyncio.Semaphore(UPLOADS)
    _answer_errors(app, gallery)
    _add_pages(app)
    _add_questions(app, gallery)
    _add_changes(app, gallery)
    return Guard(app, token)


@contextlib.asynccontextmanager
async def _expiring(gallery: Gallery) -> AsyncIterator[None]:
    """Erases what becomes too old while the server runs."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(EXPIRY)
            try:
                await run_in_threadpool(gallery.expire)
            except InputError as e:
                _logger.warning('what is older than keep_days is not erased: %s', e)
            except Exception:
                _logger.exception('what is older than keep_days is not erased')

    task = None if gallery.store.readonly else asyncio.create_task(watch())
    yield
    if task is not None:
        task.cancel()


def _check_query(request: Request) -> None:
    """Refuses what FastAPI passes over: names that a route does not have, and all but the last of several values."""
    methods = request.app.openapi()['paths'].get(request.scope['route'].path_format, {})
    known = {
        p['name']: p['schema']
        for p in methods.get(request.method.lower(), {}).get('parameters', [])
        if p['in'] == 'query'
    }
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            raise RefusedError(422, f'{name}: there is no such parameter; this takes {", ".join(known) or "none"}')
        kinds = known[name].get('anyOf', [known[name]])
        if count > 1 and not any(kind.get('type') == 'array' for kind in kinds):
            raise RefusedError(422, f'{name}: given {count} times: give it once')


def _hide(path: str, words: str, text: str) -> str:
    """Puts words in the place of a whole path, however it is written. A bare name says no more than the summary."""
    forms = {path, path.rstrip(os.sep), str(FilePath(path)), os.path.abspath(path), os.path.realpath(path)}
    forms = sorted((f for f in forms if os.sep in f and os.path.basename(f.rstrip(os.sep))), key=len, reverse=True)
    if not path or not forms:
        return text
    return re.sub(rf'(?<![\w./-])(?:{"|".join(map(re.escape, forms))})(?![\w-]|\.\w)', words, text)


def _name(path: str) -> str:
    """Of a folder, without the folders above it."""
    return path if not path or path.startswith('hf-hub:') else os.path.basename(os.path.abspath(path))


def _answer_errors(app: FastAPI, gallery: Gallery) -> None:
    """Errors are one line of text; where the gallery lies is nobody's business."""

    models = {gallery.model}

    def answer(status: int, words: object) -> JSONResponse:
        text = _hide(gallery.path, 'the gallery', str(words))
        with contextlib.suppress(InputError):
            models.add(gallery.model)  # which `reembed` may have put in the place of another
        for model in models:
            text = _hide(model.removeprefix('local-dir:'), 'the model', text)
        return JSONResponse({'error': text}, status)

    @app.exception_handler(InputError)
    def _(request: Request, error: InputError) -> JSONResponse:
        return answer(getattr(error, 'status', 503 if isinstance(error, WriteError) else 400), error)

    @app.exception_handler(RequestValidationError)
    def _(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, '; '.join(f'{problem["loc"][-1]}: {problem["msg"]}' for problem in error.errors()))

    @app.exception_handler(HTTPException)
    def _(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, error.detail)

    @app.exception_handler(ClientDisconnect)
    def _(request: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(400, 'the image has not come to its end')

    @app.exception_handler(Exception)
    def _(request: Request, error: Exception) -> JSONResponse:
        return answer(500, 'this went wrong here; what the server has printed tells more')


def _add_pages(app: FastAPI) -> None:
    folder = files(__package__) / 'page'

    def add(path: str, content: bytes, kind: str) -> None:
        app.get(path, include_in_schema=False)(lambda: Response(content, media_type=kind))

    for name, kind in _FILES.items():
        add('/' if name == 'index.html' else f'/{name}', (folder / name).read_bytes(), kind)
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (folder / 'api.html.jinja').read_text(encoding='utf-8')
    )

    @app.get('/api', include_in_schema=False, response_class=HTMLResponse)
    def api() -> str:
        return template.render(api=app.openapi())


def _add_questions(app: FastAPI, gallery: Gallery) -> None:
    one_at_a_time = threading.Lock()  # a large image takes hundreds of MB when it is decoded

    @app.get('/api/gallery')
    def summary() -> Summary:
        """What the gallery holds."""
        threshold, stats = gallery.threshold, gallery.stats()
        return Summary(
            name=_name(gallery.path),
            **_moments(stats | {'model': _name(stats['model'])}, 'since', 'until'),
            readonly=gallery.store.readonly,
            threshold=threshold,
            unsure=None if threshold is None else UNSURE * threshold,
            largest_upload=LARGEST_UPLOAD,
        )

    @app.post('/api/search', openapi_extra=_BODY, responses={413: {'model': Problem, 'description': 'too large'}})
    def search(
        request: Request,
        body: Upload,
        k: Annotated[int, Query(ge=1, le=100, description='tracklets that are wanted')] = 10,
        camera: Cameras = None,
        since: Since = None,
        until: Until = None,
        box: Box = None,
        query_camera: Annotated[str | None, Query(description='that the image is of, if the model knows it')] = None,
    ) -> list[FoundTracklet]:
        """Finds the tracklets that look most like an image, the nearest first; the search is noted in the log."""
        with one_at_a_time:
            query = gallery.embed(load_image('the image', _parse_box(box), content=body), query_camera)
        matches = gallery.search(query, k, camera=camera, since=since, until=until)
        chosen = [None if moment is None else parse_time(moment) for moment in (since, until)]
        found = _group(gallery, query, [match.crop.tracklet for match in matches], chosen)
        if not gallery.store.readonly:
            words = [f'from {request.client.host}'] if request.client else []
            words += [f'{len(camera)} of the cameras'] if camera else []
            words += [f'{name} {format_time(m)}' for name, m in zip(('since', 'until'), chosen, strict=True) if m]
            gallery.note('search', sum(len(tracklet.nearest) for tracklet in found), ', '.join(words))
        return found

    @app.get('/api/tracklets')
    def tracklets(
        camera: Cameras = None,
        since: Since = None,
        until: Until = None,
        identity: Annotated[str | None, Query(description='who it is')] = None,
    ) -> list[Seen]:
        """Tracklets by their start, those of unknown time first."""
        found = gallery.tracklets(camera=camera, since=since, until=until, identity=identity)
        return [Seen(**_moments(sighting._asdict(), 'start', 'end')) for sighting in found]

    @app.get(
        '/api/crops/{id}/image',
        response_class=Response,
        responses={
            200: {'content': {'image/jpeg': {}}, 'description': 'the image'},
            404: {'model': Problem, 'description': 'there is none'},
        },
    )
    def image(id: Annotated[int, Path(ge=0, le=2**63 - 1, description='its number')]) -> Response:
        """The image of a crop."""
        try:
            return Response(gallery.jpeg(id), media_type='image/jpeg')
        except WriteError:
            raise
        except InputError as e:
            raise RefusedError(404, str(e)) from None

    @app.get('/api/log')
    def log(limit: Annotated[int, Query(ge=1, le=10_000, description='entries, at most')] = 100) -> list[Entry]:
        """Searches, merges and erasures, the last first."""
        return [Entry(**_moments(entry._asdict(), 'time')) for entry in gallery.log(limit)]


def _add_changes(app: FastAPI, gallery: Gallery) -> None:
    @app.post('/api/merge')
    def merge(
        tracklet: Annotated[list[str], Query(min_length=2, max_length=100, description='two or more')],
    ) -> Merged:
        """Says that tracklets are of the same one; so are all tracklets of their identities."""
        if missing := [name for name in tracklet if gallery.store.tracklet(name) is None]:
            raise RefusedError(404, f"tracklet '{missing[0]}': the gallery has none of this name")
        for other in tracklet[1:]:
            identity = gallery.merge(tracklet[0], other)
        return Merged(identity=identity, tracklets=[s.tracklet for s in gallery.tracklets(identity=identity)])

    @app.delete('/api/crops')
    def erase(
        tracklet: Annotated[str | None, Query(description='that they belong to')] = None,
        identity: Annotated[str | None, Query(description='who it is')] = None,
        camera: Annotated[list[str] | None, Query(description='one of these has seen them')] = None,
        before: Annotated[str | None, Query(description='those from before this moment')] = None,
    ) -> Erased:
        """Erases, for good, crops that all of what is given holds for."""
        crops = gallery.delete(tracklet=tracklet, identity=identity, camera=camera, before=before)
        return Erased(crops=crops, settled=gallery.store.settle())


def _parse_box(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    left, top, right, bottom = map(int, text.split(','))
    return left, top, right, bottom


def _moments(found: dict[str, Any], *names: str) -> dict[str, Any]:
    """With moments as text."""
    return found | {name: format_time(found[name]) or None for name in names}


def _group(
    gallery: Gallery, query: np.ndarray, tracklets: list[str], chosen: list[float | None]
) -> list[FoundTracklet]:
    """What is told of tracklets that were found, in their order, by their crops that are asked for."""
    found, threshold = [], gallery.threshold
    for name in tracklets:
        crops = gallery.store.crops(gallery.store.ids(Where(None, *chosen, tracklets=(name,))))
        distances = np.linalg.norm(gallery.store.vectors([crop.id for crop in crops]) - query, axis=-1)
        near = [(crop, float(d)) for crop, d in zip(crops, distances, strict=True) if not np.isnan(d)]
        if not near:  # erased meanwhile
            continue
        near.sort(key=lambda pair: pair[1])
        times = [crop.time for crop, _ in near if crop.time is not None]
        of = near[0][0]
        found.append(
            FoundTracklet(
                tracklet=name,
                identity=of.identity,
                camera=of.camera,
                start=format_time(min(times, default=None)) or None,
                end=format_time(max(times, default=None)) or None,
                crops=len(near),
                nearest=[
                    FoundCrop(
                        id=crop.id,
                        time=format_time(crop.time) or None,
                        distance=d,
                        verdict=verdict(d, threshold),
                    )
                    for crop, d in near[:SHOWN]
                ],
            )
        )
    return found
