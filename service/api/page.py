"""The page for people."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

STATIC = Path(__file__).parents[1] / "static"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}

router = APIRouter()


@router.get("/", include_in_schema=False)
def show_page() -> FileResponse:
    """The page for people."""
    return FileResponse(STATIC / "index.html", headers=_HEADERS)
