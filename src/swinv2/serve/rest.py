"""REST: the Open Inference Protocol with binary tensors, Triton's repository calls, /predict for people, the page."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from importlib import resources
from typing import Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

import swinv2
from swinv2.serve import schema, wire
from swinv2.serve.errors import Kind, Refused, invalid
from swinv2.serve.service import Service

T = TypeVar("T")
PAGE = {
    "page.css":  "text/css",
    "page.js":   "text/javascript",  # what happens at /
    "card.js":   "text/javascript",  # one picture with its answer
    "server.js": "text/javascript",  # how both pages ask the server
    "parts.js":  "text/javascript",  # what pages are made of
    "docs.css":  "text/css",
    "docs.js":   "text/javascript",  # /openapi.json, drawn
}  # fmt: skip
log = logging.getLogger("swinv2.serve")


def application(service: Service) -> FastAPI:
    """The routes of a server, without its limits (guard.py)."""
    app = FastAPI(
        title="swinv2", version=swinv2.__version__, docs_url=None, redoc_url=None, description=schema.ABOUT,
        responses=schema.ERRORS,
    )  # fmt: skip
    _say_errors(app)
    _health(app, service)
    _models(app, service)
    _inference(app, service)
    _repository(app, service)
    _people(app, service)
    return app


def _health(app: FastAPI, service: Service) -> None:
    @app.get("/v2", tags=["protocol"], summary="What this server is")
    async def metadata() -> dict[str, Any]:
        return service.metadata()

    @app.get("/v2/health/live", tags=["protocol"], summary="Whether the process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get(
        "/v2/health/ready",
        tags=["protocol"],
        summary="Whether every model answers; 503 where not",
        **schema.READY,
    )
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": service.is_ready}, 200 if service.is_ready else 503)

    @app.get(
        "/metrics",
        tags=["people"],
        summary="Figures for Prometheus",
        response_class=Response,
        **schema.METRICS,
    )
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _models(app: FastAPI, service: Service) -> None:
    # Two functions for each: a version that may be left out of the address would become a query.
    @app.get("/v2/models/{name}", tags=["protocol"], summary="Inputs and outputs of a model")
    async def model(name: str) -> dict[str, Any]:
        return service.model_metadata(name)

    @app.get("/v2/models/{name}/versions/{version}", tags=["protocol"], summary="The same for one version")
    async def version(name: str, version: str) -> dict[str, Any]:
        return service.model_metadata(name, version)

    def readiness(name: str, version: str = "") -> JSONResponse:
        is_ready = service.is_model_ready(name, version)
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    whether = "Whether a model answers; 503 where not"

    @app.get("/v2/models/{name}/ready", tags=["protocol"], summary=whether, **schema.READY)
    async def model_ready(name: str) -> JSONResponse:
        return readiness(name)

    versioned = "/v2/models/{name}/versions/{version}/ready"

    @app.get(versioned, tags=["protocol"], summary="The same for one version", **schema.READY)
    async def version_ready(name: str, version: str) -> JSONResponse:
        return readiness(name, version)


def _inference(app: FastAPI, service: Service) -> None:
    async def answer(request: Request, name: str, version: str = "") -> Response:
        body, fields = await _body(request), request.headers
        _refuse_type(fields.get("content-type", ""), ("application/json", "application/octet-stream"))
        header_length = fields.get(wire.HEADER)
        if wire.is_large(body, header_length):
            asked, form = await service.decoders.call(wire.parse, body, header_length)
        else:
            asked, form = wire.parse(body, header_length)
        found, answered = await _while_connected(request, service.infer(name, version, asked))
        data, headers = wire.respond(found, form, model=name, version=answered, identity=asked.id)
        request.state.log.update(model=name, version=answered, images=found.images, **found.timing.to_dict())
        return Response(data, headers=headers)

    @app.post("/v2/models/{name}/infer", tags=["protocol"], summary="Ask a model", **schema.INFER)
    async def infer(request: Request, name: str) -> Response:
        return await answer(request, name)

    versioned = "/v2/models/{name}/versions/{version}/infer"

    @app.post(versioned, tags=["protocol"], summary="Ask one version", **schema.INFER)
    async def infer_version(request: Request, name: str, version: str) -> Response:
        return await answer(request, name, version)


def _repository(app: FastAPI, service: Service) -> None:
    @app.post("/v2/repository/index", tags=["repository"], summary="All models and versions", **schema.INDEX)
    async def index(request: Request) -> list[dict[str, str]]:
        service.check_control()
        body = await _body(request)
        only_ready = wire.flag(wire.parse_json(body), "ready", False) if body else False
        return [row for row in service.repository.index() if row["state"] == "READY" or not only_ready]

    @app.post(
        "/v2/repository/models/{name}/load",
        tags=["repository"],
        summary="Load the newest version",
        response_class=Response,
        **schema.LOAD,
    )
    async def load(request: Request, name: str) -> Response:
        service.check_control()
        wire.parse_options(await _body(request))
        await service.repository.load(name)
        return Response()

    @app.post(
        "/v2/repository/models/{name}/unload",
        tags=["repository"],
        summary="Finish its requests, unload",
        response_class=Response,
        **schema.UNLOAD,
    )
    async def unload(request: Request, name: str) -> Response:
        service.check_control()
        wire.parse_options(await _body(request), "unload_dependents")  # there are none
        await service.repository.unload(name)
        return Response()


def _people(app: FastAPI, service: Service) -> None:
    @app.post("/predict", tags=["people"], summary="What pictures show", **schema.PREDICT)
    async def predict(
        request: Request,
        model: str = Query("", description="its name; may be left out where the server has one model"),
        top_k: int = Query(5, ge=1, le=100_000, description="classes to name"),
    ) -> dict[str, Any]:
        pictures = await _pictures(request, service)
        seen, timing, used = await _while_connected(request, service.predict(model, pictures, top_k=top_k))
        request.state.log.update(
            model=used.name, version=used.version, images=len(pictures), **timing.to_dict()
        )
        if len(seen) == 1 and seen[0].error:
            raise invalid(seen[0].error)
        return {
            "model": used.name,
            "version": used.version,
            "results": [one.to_dict() for one in seen],
            "timing": timing.to_dict(),
        }

    @app.get("/models", tags=["people"], summary="The models that answer, and what they are", **schema.MODELS)
    async def models() -> dict[str, Any]:
        return {"models": service.models(), "limits": {"body_bytes": service.limits.body_bytes}}

    @app.post("/explain", tags=["people"], summary="Where in a picture a model looked", **schema.EXPLAIN)
    async def explain(
        request: Request,
        model: str = Query("", description="its name; may be left out where the server has one model"),
        class_id: int | None = Query(
            None, ge=0, description="what is looked for; left out: what is predicted"
        ),
    ) -> Response:
        pictures = await _pictures(request, service)
        if len(pictures) != 1:
            raise invalid(f"the request has {len(pictures)} pictures; send one")
        made, used = await _while_connected(request, service.explain(model, pictures[0][1], class_id))
        request.state.log.update(model=used.name, version=used.version, images=1)
        about = {name: value for name, value in vars(made).items() if name != "webp"}
        return Response(made.webp, media_type="image/webp", headers={"swinv2-explanation": json.dumps(about)})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _file("index.html", "text/html")

    @app.get("/docs", include_in_schema=False)
    async def documents() -> Response:
        return _file("docs.html", "text/html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in PAGE:
            raise Refused(Kind.NOT_FOUND, f"there is no file {name[:80]!r} of the page")
        return _file(name, PAGE[name])


async def _body(request: Request) -> bytes:
    """The body as it is: the guard hands it over in one message, and Starlette would copy it."""
    message = await request.receive()
    assert not message.get("more_body")
    body: bytes = message["body"]
    return body


async def _pictures(request: Request, service: Service) -> list[tuple[str, bytes]]:
    """The pictures of a request: its body, or the files of a form."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        body = await _body(request)
        return [("the image", body)] if body else []
    found: list[tuple[str, bytes]] = []
    async with request.form(max_files=service.limits.images, max_fields=16) as form:
        for _, value in form.multi_items():
            if not isinstance(value, str):
                found.append((value.filename or f"image {len(found)}", await value.read()))
    return found


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work, which ends with the client: nobody computes for those who are gone.

    Raises:
        ConnectionResetError: the client went away first.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body was read: the next message is the end
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ConnectionResetError
    finally:
        for other in (task, gone):
            other.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _refuse_type(given: str, taken: tuple[str, ...]) -> None:
    kind = given.partition(";")[0].strip().lower()
    if kind and kind not in taken:
        raise Refused(Kind.UNKNOWN_CODING, f"the body is {kind[:80]!r}; send {' or '.join(taken)}")


def _say_errors(app: FastAPI) -> None:
    """Every refusal is {"error": sentence}, as the protocol has it."""

    def say(status: int, sentence: str, retry_after: int | None = None) -> JSONResponse:
        fields = {} if retry_after is None else {"retry-after": str(retry_after)}
        return JSONResponse({"error": sentence}, status, fields)

    @app.exception_handler(Refused)
    async def refused(request: Request, why: Refused) -> JSONResponse:
        return say(why.kind.http, why.sentence, why.retry_after)

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, why: HTTPException) -> JSONResponse:
        path = request.url.path[:200]
        known = {404: f"there is nothing at {path}", 405: f"{path} does not take {request.method}"}
        answer = say(why.status_code, known.get(why.status_code, str(why.detail)))
        for name, value in (why.headers or {}).items():
            answer.headers[name] = value
        return answer

    @app.exception_handler(RequestValidationError)
    async def of_fastapi(request: Request, why: RequestValidationError) -> JSONResponse:
        first = why.errors()[0]
        return say(
            400, f"{first['loc'][-1]} cannot be {str(first.get('input'))[:80]!r}: {first['msg'].lower()}"
        )

    @app.exception_handler(MultiPartException)
    async def of_forms(request: Request, why: MultiPartException) -> JSONResponse:
        return say(400, f"the form cannot be read: {why.message}")

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(ConnectionResetError)
    async def of_clients(request: Request, why: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the log has it

    @app.exception_handler(Exception)
    async def of_ours(request: Request, why: Exception) -> JSONResponse:
        return say(500, "the server has a defect; its log says more")


def _file(name: str, kind: str) -> Response:
    data = resources.files("swinv2.serve").joinpath("page", name).read_bytes()
    headers = {"cache-control": "no-cache", "x-content-type-options": "nosniff"}
    if name.endswith(".html"):
        headers["content-security-policy"] = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
            "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        )
    return Response(data, media_type=kind, headers=headers)
