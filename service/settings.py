"""Every setting of the service: environment (`STRUCTXLIP_…`) and command line meet here, and nowhere below."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MEBIBYTE = 1024 * 1024


class Settings(BaseSettings):
    """What an operator may choose; the defaults suit one machine and one trusted user."""

    model_config = SettingsConfigDict(env_prefix="STRUCTXLIP_", extra="ignore", frozen=True)

    model: str = Field(
        "scenes-tiny",
        description="A bundled checkpoint, a checkpoint folder, `local-dir:…`, `hf-hub:…` or `ARCH:PRETRAINED`.",
    )
    data: Path = Field(Path("structxlip-data"), description="Folder of the collection; made when missing.")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    backend: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="What runs the model; `auto` takes OpenVINO on a CPU where it is installed, else torch."
    )
    precision: Literal["f32", "bf16"] = Field(
        "f32", description="Of matrix products; a part that bf16 would change too much stays in f32."
    )
    threads: int | None = Field(None, ge=1, description="Cores that one batch may use. Default: all.")

    api_keys: Path | None = Field(None, description="File of hashed keys, made by `structxlip keys create`.")
    allow_unauthenticated: bool = Field(
        False, description="Serve a public address without keys: only behind something that checks callers."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Host names clients may use; needed on a loopback address without keys if not localhost.",
    )
    rate_limit: str | None = Field(None, description="Per key or client address, for example `600/minute`.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()

    max_file_bytes: int = Field(20 * MEBIBYTE, ge=1)
    max_files: int = Field(64, ge=1, description="Pictures in one request.")
    max_body_bytes: int = Field(256 * MEBIBYTE, ge=1)
    max_json_bytes: int = Field(32 * MEBIBYTE, ge=1, description="One JSON body; use multipart for more.")
    max_inflight_bytes: int = Field(512 * MEBIBYTE, ge=1, description="Uploads held in memory at once.")
    max_pixels: int = Field(50_000_000, ge=1, description="Pixels of one picture, read from its header.")
    max_inflight_pixels: int = Field(200_000_000, ge=1, description="Pixels decoded or waiting at once.")
    max_text_bytes: int = Field(8192, ge=1)
    upload_seconds: float = Field(120.0, gt=0, description="Longest time one request body may take to arrive.")
    request_seconds: float = Field(30.0, gt=0, description="A search without a result by then is dropped.")
    add_seconds: float = Field(
        600.0, gt=0, description="The same for each picture that is added: 128 waiting ones take a slow model minutes."
    )

    max_cached_queries: int = Field(
        2048, ge=0, description="Embedded texts, pictures and sketches of searches, kept in memory."
    )
    copy_false_alarm_rate: float = Field(
        0.001, gt=0, lt=1, description="Pictures without a copy on a watch list that are taken for one."
    )
    copy_min_score: float = Field(
        0.95, ge=0, le=1, description="Score of a copy where the model carries no calibration."
    )
    max_batch_size: int = Field(32, ge=1)
    max_queue_items: int = Field(128, ge=1, description="Pictures (or texts) waiting; beyond it 429.")
    decode_threads: int | None = Field(
        None, ge=1, description="Default: one per two cores, or one per core where the model runs on a GPU."
    )

    engine: Literal["auto", "flat", "hnsw", "ivf_sq8", "ivf_pq", "ivf_pq4", "numpy"] = "auto"
    snapshot_seconds: float = Field(60.0, gt=0, description="Longest time changes wait for a snapshot.")
    canary_seconds: float = Field(15.0, gt=0, description="How often a known text is embedded to prove liveness.")

    remote_images: bool = Field(False, description="Accept pictures by URL (public addresses only).")
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def split_on_commas(cls, value: object) -> object:
        """Read `a,b` from the environment as two entries."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value
