"""Starts the server of a gallery."""

import logging
import socket
from typing import Any

from msinet_timm.errors import InputError, needs, one_line
from msinet_timm.gallery.gallery import Gallery

__all__ = ['SHORTEST_TOKEN', 'create_server', 'serve']

#: Characters of a token, at least.
SHORTEST_TOKEN = 16
#: Requests that are answered at once; others are refused.
_REQUESTS = 100
_logger = logging.getLogger(__name__)


def serve(gallery: Gallery, host: str = '127.0.0.1', port: int = 8000, token: str | None = None) -> None:
    """Answers browsers and programs until it is stopped by Ctrl-C or SIGTERM.

    Args:
        gallery: that is served; its model is read here.
        host: address to listen at.
        port: to listen at; 0 for a free one, which the log tells.
        token: that requests must bring, see `msinet_timm.gallery.web.guard.Guard`. None asks for none, which
            addresses of this machine alone allow.

    Raises:
        InputError: another address without a token, a token that is too short, an address that cannot be listened at,
            a gallery that cannot embed images; or fastapi or uvicorn is not installed.
    """
    server, listener = create_server(gallery, host, port, token)
    with listener:
        server.run(sockets=[listener])


def create_server(gallery: Gallery, host: str, port: int, token: str | None) -> tuple[Any, socket.socket]:
    """The `uvicorn.Server` that `serve` runs, and the socket that it listens at already; takes the same."""
    with needs('web', 'msinet-gallery serve'):
        import uvicorn

        from .app import create_app
        from .guard import is_local
    if token is not None and (len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable())):
        raise InputError(
            f'`token` must have {SHORTEST_TOKEN} characters of ASCII or more in one line: python -c "import secrets; '
            'print(secrets.token_urlsafe())" makes one'
        )
    if token is None and not is_local(host):
        raise InputError(f'`host` {host} can be reached from other machines: that needs a `token`')
    if not 0 <= port < 2**16:
        raise InputError(f'`port` must be between 0 and 65535, got {port}')
    app = create_app(gallery, token)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listener = socket.create_server(found[0][4][:2], family=found[0][0])
    except (OSError, UnicodeError) as e:  # the latter of a name that is none, such as a..b
        reason = getattr(e, 'strerror', None) or one_line(e)
        raise InputError(f'`host` {host}, `port` {port}: cannot listen there ({reason})') from None
    _logger.info('%s: http://%s:%d/', gallery.path, f'[{host}]' if ':' in host else host, listener.getsockname()[1])
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # addresses hold names, which would stay in logs when people are erased
        server_header=False,
        proxy_headers=False,
        ws='none',
        limit_concurrency=_REQUESTS,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config), listener
