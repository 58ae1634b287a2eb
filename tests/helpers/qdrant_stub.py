"""What of Qdrant's REST interface a gallery asks for, over plain Python: a server for tests on 127.0.0.1.

Written after https://api.qdrant.tech; all comparisons are exact.
"""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


class Server:
    """Collections of points, and aliases for them."""

    def __init__(self):
        self.collections, self.aliases, self.asked, self.lock = {}, {}, [], threading.Lock()

    def points(self, name):
        return self.collections[self.aliases.get(name, name)]['points']

    def chosen(self, name, body):
        """Points by a filter or by their numbers, in the order of these."""
        points = self.points(name)
        if 'points' in body:
            return {id: points[id] for id in body['points'] if id in points}
        rows = sorted(points.items(), key=lambda item: str(item[0]).zfill(40))
        return {id: p for id, p in rows if holds(p['payload'], body.get('filter') or {})}


def holds(payload, filter):
    assert set(filter) <= {'must'}, filter
    for condition in filter.get('must') or []:
        value, found = payload.get(condition['key']), True
        if match := condition.get('match'):
            found = value in match['any'] if 'any' in match else value == match['value']
        if limits := condition.get('range'):
            low, high = limits.get('gte'), limits.get('lt')
            found = value is not None and (low is None or value >= low) and (high is None or value < high)
        if value is None or not found:
            return False
    return True


def shown(id, point, body):
    want = body.get('with_payload')
    payload = point['payload'] if want is True else {k: v for k, v in point['payload'].items() if k in (want or [])}
    return {'id': id, 'payload': payload, 'vector': point['vector'] if body.get('with_vector') else None}


def answer(server, method, path, body):
    """The result, or None for what is not there."""
    collections, aliases = server.collections, server.aliases
    if path == '/collections/aliases':
        for action in body['actions']:
            if made := action.get('create_alias'):
                aliases[made['alias_name']] = made['collection_name']
            else:
                aliases.pop(action['delete_alias']['alias_name'])
        return True
    name, rest = re.fullmatch(r'/collections/([^/]+)(.*)', path).groups()
    if rest == '/exists':
        return {'exists': name in collections or name in aliases}
    if not rest and method == 'PUT':
        collections[name] = {'size': body['vectors']['size'], 'points': {}}
        return True
    if not rest and method == 'DELETE':
        return collections.pop(name, None) is not None
    if name not in collections and name not in aliases:
        return None
    done = {'operation_id': 1, 'status': 'completed'}
    points = server.points(name)
    if rest == '/index':
        return done
    if rest == '/points' and method == 'PUT':
        size = collections[aliases.get(name, name)]['size']
        for point in body['points']:
            assert len(point['vector']) == size
            points[point['id']] = {'vector': point['vector'], 'payload': point.get('payload') or {}}
        return done
    if rest == '/points':
        return [shown(id, point, body) for id, point in server.chosen(name, {'points': body['ids']}).items()]
    chosen = server.chosen(name, body)
    if rest == '/points/scroll':
        rows = [item for item in chosen.items() if body.get('offset') is None or item[0] >= body['offset']]
        limit = body['limit']
        following = rows[limit][0] if len(rows) > limit else None
        return {'points': [shown(*row, body) for row in rows[:limit]], 'next_page_offset': following}
    if rest == '/points/query':
        query = np.array(body['query']['nearest'], np.float32)
        scores = {id: float(np.array(p['vector'], np.float16).astype(np.float32) @ query) for id, p in chosen.items()}
        best = sorted(scores, key=lambda id: -scores[id])[: body['limit']]
        return {'points': [shown(id, points[id], body) | {'score': scores[id], 'version': 1} for id in best]}
    if rest == '/points/count':
        return {'count': len(chosen)}
    if rest == '/points/delete':
        for id in chosen:
            del points[id]
        return done
    if rest == '/points/payload' and method == 'POST':
        for id in chosen:
            points[id]['payload'] |= body['payload']
        return done
    if rest == '/facet':
        values = [p['payload'][body['key']] for p in chosen.values() if body['key'] in p['payload']]
        return {'hits': [{'value': value, 'count': values.count(value)} for value in {*values}]}
    raise AssertionError(f'{method} {path}')


@contextmanager
def qdrant_stub():
    """Gives the server and its port."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do(self):
            length = int(self.headers.get('Content-Length') or 0)
            body = json.loads(self.rfile.read(length) or '{}')
            with server.lock:
                server.asked.append((self.command, self.path))
                try:
                    result = answer(server, self.command, self.path.partition('?')[0], body)
                    code = 404 if result is None else 200
                except Exception as e:
                    code, result = 500, repr(e)
            status = 'ok' if code == 200 else {'error': f'{result}'}
            text = json.dumps({'result': result, 'status': status, 'time': 0.0}).encode()
            self.send_response(code)
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_POST = do_DELETE = do

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server, http.server_address[1]
    finally:
        http.shutdown()
        http.server_close()
