"""Whoever is not this machine's browser on the editor's own page gets nothing."""

import contextlib
import json
import random
import socket

import httpx
import pytest

from tests.conftest import ROOT
from tests.web.conftest import Editor

MIA = ROOT / "examples" / "drawn_people" / "mia.png"


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded") / "inside"
    folder.mkdir()
    (folder.parent / "secret.png").write_bytes(MIA.read_bytes())
    editor = Editor(folder / "new.json")
    yield editor
    assert editor.stop() == 0
    assert sorted(path.name for path in folder.parent.iterdir()) == ["inside", "secret.png"]


@pytest.fixture
def client(editor):
    with httpx.Client(base_url=editor.root, cookies={editor.cookie: editor.token}, timeout=60,
                      headers={"origin": editor.root}) as client:  # fmt: skip
        yield client


def test_it_listens_on_this_machine_alone(editor):
    port = int(editor.root.rpartition(":")[2])
    own = [address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in {one for one in own if not one.startswith("127.")}:
        with contextlib.closing(socket.socket()) as sock, pytest.raises(OSError):
            sock.settimeout(2)
            sock.connect((address, port))


def test_the_token_becomes_a_cookie_and_leaves_the_address(editor):
    with httpx.Client(base_url=editor.root, timeout=60) as client:
        answer = client.get(f"/?token={editor.token}")
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        page = client.get("/")
        assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
        assert "access-control-allow-origin" not in page.headers


def test_another_editor_does_not_lock_it_out(editor):
    """Browsers keep the cookies of all ports of a host together, and send all of them."""
    cookies = f"anyphoto_editor_1=another; {editor.cookie}={editor.token}; anyphoto_editor=older"
    assert httpx.get(f"{editor.root}/api/layout", headers={"cookie": cookies}, timeout=60).status_code == 200
    answer = httpx.get(f"{editor.root}/?token={editor.token}", headers={"cookie": cookies}, timeout=60)
    assert answer.headers["set-cookie"].startswith(f"{editor.cookie}={editor.token};")


@pytest.mark.parametrize(("headers", "cookie", "status"), [
    ({}, None, 401),
    ({}, "wrong", 401),
    ({"host": "evil.example"}, "right", 403),
    ({"host": "127.0.0.1"}, "right", 403),
    ({"origin": "http://evil.example"}, "right", 403),
    ({"origin": "null"}, "right", 403),
    ({"sec-fetch-site": "cross-site"}, "right", 403),
])  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/layout", "/static/main.js"])
def test_strangers_get_nothing(editor, path, headers, cookie, status):
    cookies = {} if cookie is None else {editor.cookie: editor.token if cookie == "right" else cookie}
    answer = httpx.get(editor.root + path, headers=headers, cookies=cookies, timeout=60)
    assert answer.status_code == status and "script" not in answer.text


def test_what_changes_something_must_come_from_the_page(editor):
    answer = httpx.post(
        f"{editor.root}/api/save", json={"document": {}}, cookies={editor.cookie: editor.token}, timeout=60
    )
    assert answer.status_code == 403
    answer = httpx.post(
        f"{editor.root}/api/save?token={editor.token}", json={}, headers={"origin": editor.root}, timeout=60
    )
    assert answer.status_code == 401  # in the address it is good for the first page alone


def test_large_bodies_are_refused(client):
    assert (
        client.post("/api/check", content=b" " * (2**20 + 1), headers={"content-type": "application/json"}).status_code
        == 413
    )

    def endless():
        for _ in range(40):
            yield b" " * 2**16

    try:  # it answers, and hangs up while more is coming
        answer = client.post("/api/check", content=endless(), headers={"content-type": "application/json"})
        assert answer.status_code == 413
    except (httpx.RemoteProtocolError, httpx.WriteError, httpx.ReadError):
        assert client.get("/api/layout").status_code == 200
    assert client.post("/api/references", files={"file": ("a.png", b"x" * (21 * 2**20))}).status_code == 413


def test_paths_lead_nowhere(client):
    for name in ("../../secret.png", "/etc/passwd", "../secret.png", "http://a/b.png", "~/x.png", "x\0y", ""):
        for address in ("/api/reference", "/api/reference/shown", "/api/reference/patch"):
            answer = client.get(address, params={"path": name})
            assert answer.status_code in (404, 422) and "error" in answer.json(), (address, name)
    for path in ("/static/../server.py", "/static/%2e%2e%2fserver.py", "/static/__init__.py", "/api/pictures/1/x.png",
                 "/api/pictures/..%2f/x.png", "/api/pictures/%2e%2e/secret.png"):  # fmt: skip
        assert client.get(path).status_code == 404, path


def test_uploads_are_pictures_or_refused(client, editor):
    answer = client.post("/api/references", files={"file": ("../../evil.png", MIA.read_bytes())})
    assert answer.status_code == 200 and answer.json()["path"] == "new_refs/evil.png" and answer.json()["box"]
    again = client.post("/api/references", files={"file": ("evil.png", MIA.read_bytes())})
    assert again.json()["path"] == "new_refs/evil.png"  # the same picture once more
    for name, data in (("a.png", b"GIF89a"), ("b.html", b"<script>"), ("c.png", b"")):
        answer = client.post("/api/references", files={"file": (name, data)})
        assert answer.status_code == 422 and answer.json()["error"]["message"]
    assert client.post("/api/references", files={"other": ("a.png", b"x")}).status_code == 422
    assert [path.name for path in (editor.layout.parent / "new_refs").iterdir()] == ["evil.png"]
    (editor.layout.parent / "new_refs" / "evil.png").unlink()
    (editor.layout.parent / "new_refs").rmdir()


def test_nothing_sent_brings_it_down(client, editor):
    """500 requests of nonsense: refusals alone, nothing written, and it still answers."""
    rng = random.Random(0)
    pieces = [b"{}", b'{"document": 1}', b'{"document": {"version": 1}}', b"[]", b"nul", b"\xff\xfe", b'{"document": ' * 2000,
              b'{"document": {"faces": [{"reference": "../x"}]}}', b'{"preset": 3, "seed": -1, "document": null}']  # fmt: skip
    paths = [
        "/api/check",
        "/api/save",
        "/api/arrange",
        "/api/renders",
        "/api/references",
        "/api/layout",
        "/",
        "/nothing",
    ]
    before = sorted(editor.layout.parent.iterdir())
    for _ in range(500):
        method = rng.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"])
        kind = rng.choice(["application/json", "text/plain", "multipart/form-data; boundary=x", "multipart/form-data"])
        content = rng.choice(
            [*pieces, rng.randbytes(200), b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n1\r\n--x--']
        )
        answer = client.request(method, rng.choice(paths), content=content, headers={"content-type": kind})
        assert answer.status_code < 500, (method, answer.request.url, kind, content[:60], answer.text[:200])
        assert "Traceback" not in answer.text
    assert sorted(editor.layout.parent.iterdir()) == before
    assert client.get("/api/layout").status_code == 200


def test_a_torn_request_is_given_up(editor, client):
    host = editor.root.removeprefix("http://")
    with contextlib.closing(socket.create_connection(tuple(host.split(":")), timeout=10)) as sock:
        sock.sendall(f"POST /api/check HTTP/1.1\r\nHost: {host}\r\nContent-Le".encode())
    with contextlib.closing(socket.create_connection(tuple(host.split(":")), timeout=10)) as sock:
        head = (f"GET /api/layout HTTP/1.1\r\nHost: {host}\r\nHost: evil\r\n"
                f"Cookie: {editor.cookie}={editor.token}\r\n\r\n")  # fmt: skip
        sock.sendall(head.encode())
        assert b" 400 " in sock.recv(4096).split(b"\r\n")[0]
    assert client.get("/api/layout").json()["document"]["faces"] == []


@pytest.mark.parametrize(("arguments", "told"), [
    (["layout.txt"], "does not end in .json"),
    (["nowhere/layout.json"], "no such folder"),
    (["bad.json"], "version"),
    (["new.json", "--model", "nothing/here/at/all"], "--model"),
    (["new.json", "--port", "99999"], "--port"),
])  # fmt: skip
def test_refused_at_the_start(run, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text(json.dumps({"prompt": "x"}))
    code, _, err = run("layout", "edit", *arguments, "--no-browser")
    assert code == 2 and told in err and "Traceback" not in err
