"""Where a stored picture's parts are, relative to the service's root."""

from __future__ import annotations

from urllib.parse import quote

from service.schemas import ImageLinks


def link_paths(image_id: str) -> dict[str, str]:
    """Return the paths of one picture's record, file, thumbnail and edge map, as `ImageLinks` names them."""
    base = f"/images/{quote(image_id, safe='')}"
    return {"self": base, "file": f"{base}/file", "thumbnail": f"{base}/thumbnail", "edges": f"{base}/edges"}


def image_links(image_id: str) -> ImageLinks:
    """Return the same as part of an answer."""
    return ImageLinks(**link_paths(image_id))
