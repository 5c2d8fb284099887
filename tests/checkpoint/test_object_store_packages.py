"""What the fsspec packages of object stores send for a file that is created exclusively, and what they make of answers.

The server here keeps objects and obeys the conditions of requests, of which it understands as much as these tests need.
Each test runs where its package is installed.
"""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from sage_flow.checkpoint.storage import open_storage
from sage_flow.errors import StorageError

INSTALLED = [name for name, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs")) if find_spec(package)]
if not INSTALLED:
    pytest.skip("needs s3fs, gcsfs or adlfs", allow_module_level=True)

KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFt50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # of Azure's emulator


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects = {}
        self.conditions = []  # of requests that store an object
        self.obeys = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_PUT(self):
        body = self.body()
        if "aws-chunked" in (self.headers.get("Content-Encoding") or ""):
            size, _, rest = body.partition(b"\r\n")
            body = rest[: int(size.split(b";")[0], 16)]
        is_azure = "x-ms-version" in self.headers
        if not self.stores(unquote(urlsplit(self.path).path), body, self.headers.get("If-None-Match") == "*"):
            code = "BlobAlreadyExists" if is_azure else "PreconditionFailed"
            condition = "" if is_azure else "<Condition>If-None-Match</Condition>"
            xml = f"<Error><Code>{code}</Code><Message>no</Message>{condition}</Error>"
            return self.answer(409 if is_azure else 412, xml.encode(), {"x-ms-error-code": code})
        return self.answer(201 if is_azure else 200, b"", {"ETag": '"1"', "Last-Modified": self.date_time_string()})

    def do_POST(self):  # the upload of Google, or the deletion of several objects of S3
        body = self.body()
        split = urlsplit(self.path)
        if split.query.startswith("delete"):
            for key in re.findall(rb"<Key>(.*?)</Key>", body):
                self.server.objects.pop(f"/bucket/{key.decode()}", None)
            return self.answer(200, b"<DeleteResult></DeleteResult>")
        whole = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        described, content = whole.get_payload()
        name = json.loads(described.get_payload())["name"]
        condition = parse_qs(split.query).get("ifGenerationMatch") == ["0"]
        if not self.stores(f"/{split.path.split('/')[5]}/{name}", content.get_payload(decode=True), condition):
            return self.answer(412, b'{"error": {"code": 412, "message": "conditionNotMet"}}')
        return self.answer(200, json.dumps({"name": name, "generation": "1", "md5Hash": ""}).encode())

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).replace("/download/storage/v1/b/bucket/o/", "/bucket/")
        found = self.server.objects.get(path)
        if found is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>")
        size = {"Content-Range": f"bytes 0-{len(found) - 1}/{len(found)}", "x-ms-blob-type": "BlockBlob", "ETag": "1"}
        return self.answer(206 if self.headers.get("x-ms-range") else 200, found, size)

    do_HEAD = do_GET

    def do_DELETE(self):
        path = unquote(urlsplit(self.path).path).replace("/storage/v1/b/bucket/o/", "/bucket/")
        self.server.objects.pop(path, None)
        self.answer(202 if "x-ms-version" in self.headers else 204)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def stores(self, path, body, if_absent):
        self.server.conditions.append(if_absent)
        if if_absent and self.server.obeys:
            return self.server.objects.setdefault(path, body) is body
        self.server.objects[path] = body
        return True

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def options_of(protocol, server):
    account = f"DefaultEndpointsProtocol=http;AccountName=bucket;AccountKey={KEY};BlobEndpoint={server.url}/bucket;"
    return {
        "s3": {"key": "k", "secret": "s", "endpoint_url": server.url, "client_kwargs": {"region_name": "us-east-1"}},
        "gs": {"token": "anon", "endpoint_url": server.url},
        "abfs": {"connection_string": account},
    }[protocol]


@pytest.fixture(params=INSTALLED)
def storage(request, server, monkeypatch):
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else it asks by gRPC what kind of bucket this is
    from fsspec.config import conf

    monkeypatch.setitem(conf, request.param, options_of(request.param, server))
    return open_storage(f"{request.param}://bucket/job")


@pytest.mark.parametrize("size", [1, 3 << 20])
def test_the_request_has_the_condition_is_one_and_its_refusal_is_told(storage, server, size):
    storage.check()
    server.conditions.clear()
    assert storage.create("log/0", b"1" * size)
    assert not storage.create("log/0", b"2")
    assert server.conditions == [True, True]
    assert storage.read("log/0") == b"1" * size
    storage.delete(["log/0"])
    assert server.objects == {}


def test_a_file_that_is_written_replaces_the_one_before(storage, server):
    storage.write("a", b"1")
    storage.write("a", b"2")
    assert storage.read("a") == b"2"
    assert server.conditions == [False, False]


def test_threads_that_create_one_name_have_one_winner(storage):
    storage.check()
    with ThreadPoolExecutor(8) as pool:
        for position in range(10):
            won = list(pool.map(lambda thread, name=f"log/{position}": storage.create(name, b"%d" % thread), range(8)))
            assert won.count(True) == 1
            assert storage.read(f"log/{position}") == b"%d" % won.index(True)


def test_a_server_that_ignores_the_condition_is_refused_at_the_first_create(storage, server):
    server.obeys = False
    with pytest.raises(StorageError, match="is not safe for checkpoints: a file was created there a second time"):
        storage.create("log/0", b"1")
    assert not any(name.endswith("log/0") for name in server.objects)
