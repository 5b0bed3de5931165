"""What the console answers with: policies of its pages, and refusals as JSON."""

from __future__ import annotations

from aiohttp import web

from cellyard_controller.errors import Refused

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HARDENING = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-read=()",
    "X-DNS-Prefetch-Control": "off",
    "X-Frame-Options": "DENY",
}
_STATUS = {
    "INVALID_REQUEST": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOTEBOOK_NOT_FOUND": 404,
    "CELL_NOT_FOUND": 404,
    "EXECUTION_NOT_FOUND": 404,
    "QUOTA_EXCEEDED": 429,
    "CONTROLLER_UNAVAILABLE": 503,
    "EXECUTION_TIMEOUT": 504,
}
"""By the reason of a refusal; of all others 409."""


def refusal(refused: Refused) -> web.Response:
    """A refusal, with its reason for programs."""
    status = _STATUS.get(refused.reason, 409)
    return error(status, refused.reason, refused.message, retry_after_s=refused.retry_after_s)


def error(status: int, reason: str, message: str, *, retry_after_s: float | None = None) -> web.Response:
    """An error in the same form."""
    headers = {} if retry_after_s is None else {"Retry-After": str(max(1, round(retry_after_s)))}
    return web.json_response({"reason": reason, "message": message[:4000]}, status=status, headers=headers)
