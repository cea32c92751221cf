"""Endpoints of batches."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
