"""Where a stored picture's parts are, relative to the service's root."""

from __future__ import annotations

from urllib.parse import quote

from service.schemas import ImageLinks


def image_links(image_id: str) -> ImageLinks:
    """Return the paths of one picture's record, file, thumbnail and edge map."""
    base = f"/images/{quote(image_id, safe='')}"
    return ImageLinks(self=base, file=f"{base}/file", thumbnail=f"{base}/thumbnail", edges=f"{base}/edges")
