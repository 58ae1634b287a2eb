"""Who is let in, from where, and with what."""

import asyncio
import base64
import hmac
import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse

from msinet_timm.errors import InputError

__all__ = ['Guard', 'LARGEST_UPLOAD', 'UPLOADS', 'RefusedError', 'is_local', 'read_upload']

#: Bytes of an image that is sent.
LARGEST_UPLOAD = 20 * 2**20
#: What is sent beyond that is read up to so many bytes, and thrown away, so that the answer is read, too.
_DRAINED = 50 * LARGEST_UPLOAD
#: Seconds for one upload.
_PATIENCE = 60.0
#: Uploads that are held at once; others wait.
UPLOADS = 8
#: Nothing comes from elsewhere, and no other page shows this one or what it has. `blob:` is the image that was chosen.
_HEADERS = {
    'Content-Security-Policy': "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cache-Control': 'no-store',  # what is erased is not to stay in browsers
}


class RefusedError(InputError):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: why, and the way out.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """Stands before an application: lets in who has the token, and nobody whom another web page has sent.

    A browser sends what any page asks it to, also to this machine. So requests of other pages are refused by the
    headers that browsers put to them (`Sec-Fetch-Site`, `Origin`). Without a token, one more way is closed: to a
    browser, a page whose name points here after it was loaded (DNS rebinding) is of the same origin, but it asks for
    another host. With a token there is no need to: browsers keep one for each host.

    Args:
        app: of ASGI.
        token: that is asked for, as a bearer token or as the password of HTTP's basic authentication; None for none.
    """

    def __init__(self, app: Callable, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return

        async def guarded(message: dict) -> None:
            if message['type'] == 'http.response.start':
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            self._check(scope['method'], Headers(scope=scope))
        except RefusedError as e:
            extra = {'WWW-Authenticate': 'Basic realm="msinet-gallery", charset="UTF-8"'} if e.status == 401 else {}
            await JSONResponse({'error': str(e)}, e.status, extra)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _check(self, method: str, headers: Headers) -> None:
        host = headers.get('host', '')
        if self._token is None and not is_local(_host_name(host)):
            raise RefusedError(
                421, f'{host or "no host"} is asked for, and this is localhost: other names need a token (--token)'
            )
        # a link on another page may lead here, but nothing else of it
        link = method == 'GET' and headers.get('sec-fetch-mode') == 'navigate'
        elsewhere = headers.get('sec-fetch-site', 'none') not in ('none', 'same-origin') and not link
        origin = headers.get('origin')
        if elsewhere or (origin is not None and _place(origin) != host):
            raise RefusedError(403, f'another web page asks ({origin or "which is not said"}): open this one itself')
        if self._token is not None and not hmac.compare_digest(_given(headers).encode(), self._token.encode()):
            raise RefusedError(
                401, 'the token is missing or wrong: give it as bearer token, or as password of any user'
            )


def is_local(host: str) -> bool:
    """Whether only this machine reaches a host by its name or address."""
    try:
        return host == 'localhost' or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """Of a Host header, without the port."""
    try:
        return urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''


def _place(origin: str) -> str | None:
    """Name and port of an Origin header; None where it cannot be read."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _given(headers: Headers) -> str:
    """The token of a request; '' where there is none."""
    kind, _, value = headers.get('authorization', '').partition(' ')
    if kind.lower() == 'bearer':
        return value.strip()
    if kind.lower() != 'basic':
        return ''
    try:
        return base64.b64decode(value, validate=True).decode().partition(':')[2]
    except ValueError:
        return ''


async def read_upload(request: Request):
    """Yields the bytes that a request brings.

    Raises:
        RefusedError: they are none, more than `LARGEST_UPLOAD`, or come too slowly.
    """
    said = request.headers.get('content-length', '')
    # who asks whether to send it gets the answer; others would not read one before all is sent
    if said.isdecimal() and int(said) > LARGEST_UPLOAD and request.headers.get('expect'):
        raise _too_large(int(said))
    async with request.app.state.uploads:
        try:
            body = await asyncio.wait_for(_read(request), _PATIENCE)
        except asyncio.TimeoutError:
            raise RefusedError(408, f'the image has not come within {_PATIENCE:g} s') from None
        yield body


async def _read(request: Request) -> bytes:
    body, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size <= LARGEST_UPLOAD:
            body += part
        else:
            body.clear()
        if size > _DRAINED:
            break
    if size > LARGEST_UPLOAD:
        raise _too_large(size)
    if not size:
        raise RefusedError(400, 'no image: send the bytes of an image file as the body of the request')
    return bytes(body)


def _too_large(size: int) -> RefusedError:
    return RefusedError(
        413, f'the image has {size / 2**20:.0f} MB, more than {LARGEST_UPLOAD // 2**20} MB: send a smaller one'
    )
