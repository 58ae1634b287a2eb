"""A Hugging Face Hub on this machine, small but spoken to by the real client."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

TOKEN = 'hf_of_the_tests'


class Hub:
    """Repositories in memory: for each its privacy, commits (files by name), and branches.

    Attributes:
        repositories: by `OWNER/NAME`.
        broken: files whose transfer breaks off halfway, however often it is tried.
        requests: method and path of every request.
    """

    def __init__(self):
        self.repositories, self.broken, self.requests = {}, set(), []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def files(self, repository, revision='main'):
        """Contents by file name; None for an unknown revision."""
        found = self.repositories[repository]
        return found['commits'].get(found['branches'].get(revision, revision))

    def commit(self, repository, files, deleted=()):
        """Adds a commit to `main`; returns its name."""
        found = self.repositories[repository]
        new = {k: v for k, v in {**(self.files(repository) or {}), **files}.items() if k not in deleted}
        name = hashlib.sha1(repr((len(found['commits']), sorted(new.items()))).encode()).hexdigest()
        found['commits'][name] = new
        found['branches']['main'] = name
        return name


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    hub: Hub

    def log_message(self, *args):
        pass

    def answer(self, code, body=b'', **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {'Content_Length': len(data), **headers}.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def refuse(self, code, name):
        self.answer(code, {'error': name}, X_Error_Code=name, X_Error_Message=name)

    def readable(self, repository):
        """The repository, or None after a refusal."""
        found = self.hub.repositories.get(repository)
        if found is None or (found['private'] and not self.authorized()):
            self.refuse(404 if self.authorized() else 401, 'RepoNotFound')
            return None
        return found

    def authorized(self):
        return self.headers.get('Authorization') == f'Bearer {TOKEN}'

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f'{self.command} {path}')
        if match := re.fullmatch(r'/(?!api/)([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path):
            self.resolve(*match.groups())
        elif match := re.fullmatch(r'/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?', path):
            self.info(match[1], match[2] or 'main')
        elif match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/tree/([^/]+)', path):
            self.tree(*match.groups())
        else:
            self.refuse(404, 'NotFound')

    def resolve(self, repository, revision, name):
        found = self.readable(repository)
        if found is None:
            return
        files = self.hub.files(repository, revision)
        if files is None:
            return self.refuse(404, 'RevisionNotFound')
        commit = found['branches'].get(revision, revision)
        if name not in files:
            return self.answer(404, X_Error_Code='EntryNotFound', X_Repo_Commit=commit)
        data, status, more = files[name], 200, {}
        etag = hashlib.sha256(data).hexdigest()
        if start := re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', '')):
            first = int(start[1])
            more['Content_Range'] = f'bytes {first}-{len(data) - 1}/{len(data)}'
            data, status = data[first:], 206
        headers = dict(X_Repo_Commit=commit, ETag=f'"{etag}"', Accept_Ranges='bytes', **more)
        if name in self.hub.broken and self.command == 'GET':
            half = data[: len(data) // 2]
            self.close_connection = True
            self.send_response(status)
            for key, value in {'Content_Length': len(data), **headers}.items():
                self.send_header(key.replace('_', '-'), str(value))
            self.end_headers()
            self.wfile.write(half)
            return
        self.answer(status, data, **headers)

    def tree(self, repository, revision):
        if self.readable(repository) is not None:
            files = self.hub.files(repository, revision) or {}
            self.answer(200, [{'type': 'file', 'path': p, 'size': len(d), 'oid': p} for p, d in files.items()])

    def info(self, repository, revision):
        found = self.readable(repository)
        if found is None:
            return
        files = self.hub.files(repository, revision) or {}
        self.answer(
            200,
            {
                'id': repository,
                'sha': found['branches'].get(revision, revision),
                'private': found['private'],
                'tags': [],
                'siblings': [{'rfilename': name} for name in files],
            },
        )

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f'POST {path}')
        if path == '/api/validate-yaml':
            return self.answer(200, {'errors': [], 'warnings': []})
        if not self.authorized():
            return self.refuse(401, 'Unauthorized')
        if path == '/api/repos/create':
            wanted = json.loads(body)
            name = f'{wanted.get("organization") or "user"}/{wanted["name"]}'
            known = name in self.hub.repositories
            private = wanted.get('private') or wanted.get('visibility') == 'private'
            self.hub.repositories.setdefault(name, {'private': bool(private), 'commits': {}, 'branches': {}})
            return self.answer(409 if known else 200, {'url': f'{self.hub.url}/{name}'})
        match = re.fullmatch(r'/api/models/([^/]+/[^/]+)/(preupload|commit)/main', path)
        if not match or self.readable(match[1]) is None:
            return self.refuse(404, 'RepoNotFound') if not match else None
        if match[2] == 'preupload':  # nothing is large enough for the storage of large files
            paths = [file['path'] for file in json.loads(body)['files']]
            files = [{'path': path, 'uploadMode': 'regular', 'shouldIgnore': False} for path in paths]
            return self.answer(200, {'files': files})
        operations = [json.loads(line) for line in body.splitlines()]
        files = {o['value']['path']: base64.b64decode(o['value']['content']) for o in operations if o['key'] == 'file'}
        deleted = [o['value']['path'] for o in operations if o['key'] == 'deletedFile']
        commit = self.hub.commit(match[1], files, deleted)
        self.answer(200, {'commitUrl': f'{self.hub.url}/{match[1]}/commit/{commit}', 'commitOid': commit})


@pytest.fixture(scope='module')
def hub_server():
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """A Hub without repositories, logged in to, and an empty cache."""
    hub_server.repositories.clear()
    hub_server.requests.clear()
    hub_server.broken.clear()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, 'ENDPOINT', hub_server.url)
    template = f'{hub_server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_PROGRESS_BARS', True)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    return hub_server
