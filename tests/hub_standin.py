"""A stand-in of the hub on this machine: its HTTP API as far as pushing and pulling use it, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "c0ffee" * 6 + "c0de"


class Hub(ThreadingHTTPServer):
    """`files` by repository and path; `made`: what new repositories were asked for; `refuse`: the answer to all."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.made: list[dict] = []
        self.stored: dict[str, bytes] = {}  # large files by their hash
        self.asked: list[str] = []
        self.refuse = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, what="RepoNotFound"):
        self._answer({"error": "not found"}, 404, X_Error_Code=what)

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _handle(self):
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if self.server.refuse:
            self._body()
            self._answer({"error": "no"}, self.server.refuse)
            return
        for method, pattern, act in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                act(self, *found.groups())
                return
        self._body()
        self._answer({"error": f"the stand-in does not know {self.command} {path}"}, 501)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def create(self):
        asked = json.loads(self._body())
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        self.server.made.append(asked)
        self.server.files.setdefault(name, {})
        self._answer({"url": f"{self.server.address}/{name}", "name": name})

    def validate(self):
        header = json.loads(self._body())["content"].split("---")[1]
        for line in header.strip().splitlines():
            json.loads(line.partition(": ")[2])
        self._answer({"errors": [], "warnings": []})

    def preupload(self, repository):
        asked = json.loads(self._body())["files"]
        large = {one["path"]: one["path"].endswith(".safetensors") for one in asked}
        modes = [{"path": path, "shouldIgnore": False, "uploadMode": "lfs" if lfs else "regular"}
                 for path, lfs in large.items()]  # fmt: skip
        self._answer({"files": modes})

    def batch(self, repository):
        objects = json.loads(self._body())["objects"]
        place = f"{self.server.address}/store"
        told = [{**one, "actions": {"upload": {"href": f"{place}/{one['oid']}"}}} for one in objects]
        self._answer({"transfer": "basic", "objects": told})

    def store(self, oid):
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.stored[oid] = content
        self._answer()

    def commit(self, repository):
        for line in self._body().splitlines():
            part = json.loads(line)
            if part["key"] == "file":
                self.server.files[repository][part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            if part["key"] == "lfsFile":
                content = self.server.stored[part["value"]["oid"]]
                self.server.files[repository][part["value"]["path"]] = content
        url = f"{self.server.address}/{repository}/commit/{COMMIT}"
        self._answer({"success": True, "commitUrl": url, "commitOid": COMMIT})

    def info(self, repository, revision=None):
        if repository not in self.server.files:
            self._missing()
        elif revision not in (None, "main", COMMIT):
            self._missing("RevisionNotFound")
        else:
            siblings = [{"rfilename": name} for name in self.server.files[repository]]
            self._answer({"id": repository, "sha": COMMIT, "siblings": siblings, "private": True, "tags": []})

    def tree(self, repository, revision):
        if repository not in self.server.files or revision not in ("main", COMMIT):
            self._missing("RepoNotFound" if repository not in self.server.files else "RevisionNotFound")
            return
        files = self.server.files[repository].items()
        self._answer([{"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in files])

    def resolve(self, repository, revision, path):
        content = self.server.files.get(repository, {}).get(path)
        if content is None:
            self._missing("EntryNotFound")
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part and self.command == "GET":
            content = content[int(part[1]) : int(part[2]) + 1 if part[2] else None]
        self._answer(content, 206 if part else 200, **headers)


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate),
    (("POST",), f"/api/models/{_NAME}/preupload/main", _Handler.preupload),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (("PUT",), "/store/([0-9a-f]{64})", _Handler.store),
    (("POST",), f"/api/models/{_NAME}/commit/main", _Handler.commit),
    (("GET",), f"/api/models/{_NAME}", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/revision/([^/]+)", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/tree/([^/]+)", _Handler.tree),
    (("GET", "HEAD"), f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
