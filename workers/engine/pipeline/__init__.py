"""Static batching with `transformers.pipeline`, for any image-text-to-text model."""
