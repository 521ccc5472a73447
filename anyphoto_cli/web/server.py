"""The editor's routes, and the server that answers on 127.0.0.1 alone."""

from __future__ import annotations

import json
import secrets
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.layout.schema import parse_points
from anyphoto_cli.web.guard import HOST, MOST_UPLOAD, Guard, TooLarge, address
from anyphoto_cli.web.jobs import Jobs, watch
from anyphoto_cli.web.workspace import Reference, Workspace

STATIC = Path(__file__).parent / "static"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def build_app(workspace: Workspace, jobs: Jobs) -> Any:
    """The Starlette application, without its guard. Raises EnvironmentFault without Starlette."""
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ImportError as error:
        raise _not_installed() from error
    routes = _Routes(workspace, jobs)
    return Starlette(routes=[
        Route("/", routes.page), Route("/static/{name}", routes.static),
        Route("/api/layout", routes.layout), Route("/api/check", routes.check, methods=["POST"]),
        Route("/api/arrange", routes.arrange, methods=["POST"]), Route("/api/save", routes.save, methods=["POST"]),
        Route("/api/references", routes.upload, methods=["POST"]), Route("/api/reference", routes.reference),
        Route("/api/reference/{part}", routes.reference_picture),
        Route("/api/renders", routes.render, methods=["POST"]), Route("/api/renders", routes.history),
        Route("/api/renders/{id}", routes.cancel, methods=["DELETE"]), Route("/api/renders/{id}", routes.events),
        Route("/api/pictures/{id}/{name}", routes.picture),
    ], exception_handlers={
        InputError: _refused, EnvironmentFault: _refused, TooLarge: _too_large, TimeoutError: _too_slow,
    })  # fmt: skip


class _Routes:
    """Every answer is JSON, a picture, or a file of `static`."""

    def __init__(self, workspace: Workspace, jobs: Jobs) -> None:
        self._workspace, self._jobs = workspace, jobs

    async def page(self, request: Any) -> Any:
        """The page itself."""
        return _file(STATIC / "index.html")

    async def static(self, request: Any) -> Any:
        """A file of ours, by its plain name."""
        name = request.path_params["name"]
        known = {file.name: file for file in STATIC.iterdir() if file.suffix in _KINDS}
        return _file(known[name]) if name in known else _json({"error": {"message": "no such file"}}, 404)

    async def layout(self, request: Any) -> Any:
        """The layout, which file it was, and what the page must know."""
        document, read = await _threaded(self._workspace.opened)
        return _json({"document": document, "read": read, "facts": self._workspace.facts()})

    async def check(self, request: Any) -> Any:
        """What is wrong with a layout, as one types."""
        return _json(await _threaded(self._workspace.checked, (await _body(request)).get("document")))

    async def arrange(self, request: Any) -> Any:
        """New places by a preset."""
        body = await _body(request)
        seed = body.get("seed", 0)
        if not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise InputError("is no seed", field="seed")
        preset = str(body.get("preset", "row"))
        places = await _threaded(self._workspace.arranged, body.get("document"), preset, seed)
        return _json({"places": places})

    async def save(self, request: Any) -> Any:
        """Write the file, where it is still the one that this page read, or saved last."""
        body = await _body(request)
        known = None if body.get("replace") is True else str(body.get("read", ""))
        try:
            read = await _threaded(self._workspace.save, body.get("document"), known)
        except InputError as error:
            if error.field != "save":
                raise
            return _json({"error": {"field": "save", "message": str(error)}}, 409)
        return _json({"saved": self._workspace.file.name, "read": read})

    async def upload(self, request: Any) -> Any:
        """A reference picture, dropped on the page."""
        async with request.form(max_files=1, max_fields=4, max_part_size=MOST_UPLOAD) as form:
            file = form.get("file")
            if file is None or not hasattr(file, "read"):
                raise InputError("holds no file", field="file")
            if file.size is not None and file.size > MOST_UPLOAD:
                return _json({"error": {"field": "file", "message": "larger than 20 MB"}}, 413)
            data, name = await file.read(), file.filename or "person"
        path = await _threaded(self._workspace.add, name, data)
        return _json({"path": path, **_facts_of(await _threaded(self._workspace.reference, path))})

    async def reference(self, request: Any) -> Any:
        """What was found in a reference."""
        return _json(_facts_of(await self._asked_for(request)))

    async def _asked_for(self, request: Any) -> Reference:
        asked = request.query_params
        points = parse_points(asked["landmarks"], "landmarks") if "landmarks" in asked else None
        found: Reference = await _threaded(self._workspace.reference, asked.get("path", ""), points)
        return found

    async def reference_picture(self, request: Any) -> Any:
        """shown: the reference, small; patch: its face as it is pasted."""
        from starlette.responses import Response

        found = await self._asked_for(request)
        parts = {"shown": (found.shown, "image/jpeg"), "patch": (found.patch, "image/png")}
        data, kind = parts.get(request.path_params["part"], (b"", ""))
        return Response(data, media_type=kind) if data else _json({"error": {"message": "no such picture"}}, 404)

    async def render(self, request: Any) -> Any:
        """Queue a render of the layout as it stands on the page."""
        document = (await _body(request)).get("document")
        checked = await _threaded(self._workspace.checked, document)
        if checked["error"] is not None:
            raise InputError(checked["error"]["message"], field=checked["error"]["field"])
        job = await _threaded(self._jobs.ask, document)
        return _json(job.shown(), 202)

    async def history(self, request: Any) -> Any:
        """Everything rendered, the newest first; and what is under way."""
        return _json({"renders": await _threaded(self._jobs.history), "running": self._jobs.running()})

    async def cancel(self, request: Any) -> Any:
        """Stop a render after the step under way."""
        return _json({"cancelled": self._jobs.cancel(request.path_params["id"])})

    async def events(self, request: Any) -> Any:
        """A render's progress as server-sent events."""
        from starlette.responses import StreamingResponse

        job = self._jobs.get(request.path_params["id"])
        if job is None:
            return _json({"error": {"message": "no such render"}}, 404)
        there = [True]

        async def lines() -> AsyncIterator[str]:
            changes = watch(job, lambda: there[0] and not self._jobs.closing, every_s=5.0)
            try:
                while (shown := await _threaded(next, changes, None)) is not None:
                    yield f"data: {json.dumps(shown)}\n\n"
            finally:
                there[0] = False

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def picture(self, request: Any) -> Any:
        """A rendered picture."""
        from starlette.responses import Response

        file = await _threaded(self._jobs.picture, request.path_params["id"], request.path_params["name"])
        if file is None:
            return _json({"error": {"message": "no such picture"}}, 404)
        return Response(file.read_bytes(), media_type="image/png")


def serve(
    layout: Path, config: GenerateConfig, *, refs_root: Path | None = None, port: int = 0, open_browser: bool = True,
    tell: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Answer until interrupted. refs_root: as for `load_layout`. port: 0: a free one.

    Raises InputError where the layout is none, or the port taken.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise _not_installed() from error
    workspace = open_workspace(layout, config, refs_root)
    workspace.opened()  # a layout that is none is refused here, not on the page
    listening = _listen(port)
    jobs, token, number = Jobs(layout, config, refs_root), secrets.token_urlsafe(32), listening.getsockname()[1]
    app = Guard(build_app(workspace, jobs), token, number)
    tell(address(number, token))
    if open_browser:
        webbrowser.open(address(number, token))

    class Server(uvicorn.Server):
        """Which ends open event streams before it asks connections to close, and leaves Ctrl-C to be."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            jobs.closing = True
            super().handle_exit(sig, frame)

    server = Server(
        uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_keep_alive=5,
                       timeout_graceful_shutdown=2, server_header=False, limit_concurrency=64)
    )  # fmt: skip
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # how an editor ends
        pass
    finally:
        jobs.close()


def open_workspace(layout: Path, config: GenerateConfig, refs_root: Path | None = None) -> Workspace:
    """Looks at references as a render would: by the adapter's face pack and method. Raises InputError for an unknown
    model, adapter, face pack, device or folder of references, EnvironmentFault where the hub cannot give the adapter.
    """
    from anyphoto_cli.config.method import MethodConfig
    from anyphoto_cli.faces.packs import check_name, open_faces
    from anyphoto_cli.model.adapter_card import adapter_folder, left_out, read_card
    from anyphoto_cli.model.bases import resolve_base
    from anyphoto_cli.model.memory import pick_device

    if layout.suffix != ".json":
        raise InputError("does not end in .json", file=layout, field="LAYOUT")
    if not layout.parent.is_dir():
        raise InputError("no such folder", file=layout.parent, field="LAYOUT")
    if refs_root is not None and not refs_root.is_dir():
        raise InputError("no such folder", file=refs_root, field="--refs-root")
    pick_device(config.device)
    base = resolve_base(config.model)
    folder = adapter_folder(config.adapter, base)
    card = read_card(folder) if folder else None
    pack = config.face_pack or (card.face_pack.name if card else base.face_pack)
    check_name(pack)
    if config.face_pack is None or card is None:
        return Workspace(layout, base, lambda: open_faces(pack), card.method if card else MethodConfig(), refs_root)
    analyzer = open_faces(pack)
    if told := left_out(card, config.adapter, base, analyzer.name, analyzer.sha256):
        card, base = None, replace(base, note=f"{told}. {base.note}".strip())
    return Workspace(layout, base, lambda: analyzer, card.method if card else MethodConfig(), refs_root)


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)  # whoever opens the address at once is kept waiting, not turned away
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{port} cannot be had ({error})", field="--port", remedy="Leave it out to take any"
        ) from error
    return listening


def _facts_of(found: Reference) -> dict[str, Any]:
    return {"width": found.width, "height": found.height, "told": found.told, "box": found.box,
            "problem": found.problem, "passing": found.passing}  # fmt: skip


async def _threaded(work: Callable[..., Any], *arguments: Any) -> Any:
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(work, *arguments)


async def _body(request: Any) -> dict[str, Any]:
    """The JSON object of a request. Raises InputError for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InputError("is not sent as application/json", field="body")
    try:
        value = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InputError("is no JSON", field="body") from error
    if not isinstance(value, dict):
        raise InputError("is no JSON object", field="body")
    return value


def _json(value: Any, status: int = 200) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(value, status_code=status)


async def _refused(request: Any, error: Exception) -> Any:
    assert isinstance(error, InputError | EnvironmentFault)
    message = f"{error.what}. {error.remedy}" if error.remedy else error.what
    status = 422 if isinstance(error, InputError) else 503
    return _json({"error": {"field": error.field, "message": message}}, status)


async def _too_large(request: Any, error: Exception) -> Any:
    return _json({"error": {"message": "larger than an editor needs"}}, 413)


async def _too_slow(request: Any, error: Exception) -> Any:
    return _json({"error": {"message": "the request did not come in time"}}, 408)


def _file(file: Path) -> Any:
    from starlette.responses import Response

    return Response(file.read_bytes(), media_type=_KINDS[file.suffix])


def _not_installed() -> EnvironmentFault:
    return EnvironmentFault("the editor needs starlette, uvicorn and python-multipart",
                            remedy='Run: pip install "anyphoto[edit]"')  # fmt: skip
