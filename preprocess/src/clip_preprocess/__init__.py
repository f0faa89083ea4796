"""Encoded photos to the pixels of a CLIP image encoder: open_clip's image transform without torch."""

from __future__ import annotations

from clip_preprocess.errors import ClipPreprocessError, ErrorCode, ItemError, SettingsError
from clip_preprocess.notices import Notice, NoticeCode
from clip_preprocess.pipeline import Outcome, Preprocessor, preprocess_one
from clip_preprocess.settings import (
    PIXELS_VERSION,
    DecodeLimits,
    Interpolation,
    PreprocessSettings,
    Quality,
    ResizeMode,
)

__all__ = [
    "PIXELS_VERSION",
    "ClipPreprocessError",
    "DecodeLimits",
    "ErrorCode",
    "Interpolation",
    "ItemError",
    "Notice",
    "NoticeCode",
    "Outcome",
    "PreprocessSettings",
    "Preprocessor",
    "Quality",
    "ResizeMode",
    "SettingsError",
    "preprocess_one",
]
