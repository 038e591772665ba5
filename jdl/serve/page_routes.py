"""Routes of the pages: one HTML file each, without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response


def page_routes() -> APIRouter:
    """The page to try the models, and the page that lists all routes."""
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/", _Page("page.html").show)
    router.add_api_route("/docs", _Page("docs.html").show)
    return router


class _Page:
    """A page, which may run its own script alone, and fetch from its own server alone."""

    def __init__(self, name: str) -> None:
        self.content = (Path(__file__).parent / name).read_text("utf-8")
        sources = {
            tag: _hash(re.search(f"<{tag}>(.*?)</{tag}>", self.content, re.S)[1])  # type: ignore[index]
            for tag in ("script", "style")
        }
        self.policy = (
            f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; "
            "connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )

    async def show(self) -> Response:
        """The page."""
        headers = {"Content-Security-Policy": self.policy, "Referrer-Policy": "no-referrer"}
        return HTMLResponse(self.content, headers=headers)


def _hash(text: str) -> str:
    """The source of a policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
