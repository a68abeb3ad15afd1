"""A client of the service, blocking (`Client`) and for asyncio (`AsyncClient`); importing it loads no model code.

```python
from structxlip.client import Client

with Client("http://127.0.0.1:8000") as client:
    for result in client.add_folder("photos"):
        print(result.id, result.status)
    found = client.search("a round red table left of two stools", structure_weight=0.4)
    if found.no_match:
        print("nothing here matches; the closest are …")
    for hit in found.hits:
        print(hit.id, hit.score, hit.confidence)
```

`calls` describes every call once, without sending it; `sync_client` and `async_client` send them, with the retries of
`retries` and the exceptions of `errors`. `results` has what they return.
"""

from structxlip.client.adding import NewPicture, Progress
from structxlip.client.async_client import AsyncClient
from structxlip.client.errors import (
    ApiError,
    ConflictError,
    ConnectionFailedError,
    DeadlineExceededError,
    ForbiddenError,
    InvalidRequestError,
    MalformedRequestError,
    NoAnswerInTimeError,
    NotFoundError,
    NotReadyError,
    PictureError,
    Problem,
    ServerError,
    StorageFullError,
    StructXLIPError,
    TooLargeError,
    TooManyRequestsError,
    UnauthorizedError,
    UnexpectedAnswerError,
)
from structxlip.client.pictures import Picture, picture_bytes
from structxlip.client.queries import Term
from structxlip.client.results import (
    AddResult,
    Calibration,
    Embeddings,
    Explanation,
    FieldValue,
    Hit,
    ImageEmbedding,
    ImageRecord,
    Info,
    MetadataField,
    Pair,
    Phrase,
    Readiness,
    Region,
    Resemblance,
    Scores,
    SearchResult,
    TextEmbedding,
    WatchedImage,
    Watchlist,
)
from structxlip.client.retries import RetryPolicy
from structxlip.client.sync_client import Client

__all__ = [
    "AddResult",
    "ApiError",
    "AsyncClient",
    "Calibration",
    "Client",
    "ConflictError",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "Embeddings",
    "Explanation",
    "FieldValue",
    "ForbiddenError",
    "Hit",
    "ImageEmbedding",
    "ImageRecord",
    "Info",
    "InvalidRequestError",
    "MalformedRequestError",
    "MetadataField",
    "NewPicture",
    "NoAnswerInTimeError",
    "NotFoundError",
    "NotReadyError",
    "Pair",
    "Phrase",
    "Picture",
    "PictureError",
    "Problem",
    "Progress",
    "Readiness",
    "Region",
    "Resemblance",
    "RetryPolicy",
    "Scores",
    "SearchResult",
    "ServerError",
    "StorageFullError",
    "StructXLIPError",
    "Term",
    "TextEmbedding",
    "TooLargeError",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnexpectedAnswerError",
    "WatchedImage",
    "Watchlist",
    "picture_bytes",
]
