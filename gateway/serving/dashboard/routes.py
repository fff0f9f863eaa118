"""Serves the dashboard's page and its modules; reads them from the package once, else does no I/O.

The page holds no figures and needs no token: it asks the admin API for them, with the token where one is wanted.
"""

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

import msgspec
from fastapi import APIRouter, Request, Response

from gateway.errors import bad_request
from gateway.serving.admin_guard import ASSETS

_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_DIGEST: Final = b"{digest}"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

routes = APIRouter()


class Page(msgspec.Struct, frozen=True):
    """All that the browser is sent. `digest` names this version of it: paths with it never change their content."""

    digest: str
    index: bytes
    assets: dict[str, tuple[str, bytes]]
    """Content type and content, by name."""


@cache
def page() -> Page:
    """The page as it is in the package."""
    folder = files("gateway.serving.dashboard").joinpath("page")
    read = {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}
    known = {name: content for name, content in sorted(read.items()) if _suffix(name) in _TYPES}
    digest = sha256(b"\0".join(part for name, content in known.items() for part in (name.encode(), content)))
    name = digest.hexdigest()[:16]
    index = known.pop("index.html").replace(_DIGEST, name.encode())
    assets = {asset: (f"{_TYPES[_suffix(asset)]}; charset=utf-8", content) for asset, content in known.items()}
    return Page(name, index, assets)


@routes.get("/", include_in_schema=False)
async def _index(request: Request) -> Response:
    """Looked for anew each time, since it names the version of all else."""
    told = page()
    tag = f'"{told.digest}"'
    headers = _HEADERS | {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(told.index, media_type="text/html; charset=utf-8", headers=headers)


@routes.get(ASSETS + "{digest}/{name}", include_in_schema=False)
async def _asset(digest: str, name: str) -> Response:
    told = page()
    found = told.assets.get(name)
    if digest != told.digest or found is None:
        raise bad_request(f"the dashboard of this version has no `{name}`: load the page again", status=404)
    kind, content = found
    headers = _HEADERS | {"cache-control": "public, max-age=31536000, immutable"}
    return Response(content, media_type=kind, headers=headers)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
