"""A gallery's server in a thread."""

import contextlib
import threading

import httpx

from msinet_timm.gallery.web.serve import create_server


@contextlib.contextmanager
def serving(gallery, token=None, host='127.0.0.1'):
    """Yields a client of the server that answers for a gallery."""
    server, listener = create_server(gallery, host, 0, token)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]})
    thread.start()
    try:
        with httpx.Client(base_url=f'http://127.0.0.1:{port}', timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
