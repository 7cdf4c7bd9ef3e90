"""Headers that every response carries, that of a defect included. A route may set its own value."""

from __future__ import annotations

CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""For all but `/docs`, which has one of its own."""
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": CONTENT_POLICY,
}
