"""Commands for the OpenAPI document and its page. They run as they are where the variables in them are set."""

from __future__ import annotations

from collections.abc import Mapping

_KEY = '-H "Authorization: Bearer $VQA_API_KEY"'
_JSON = "-H 'Content-Type: application/json'"

#: by method and path
CURL: Mapping[tuple[str, str], str] = {
    ("post", "/v1/chat/completions"): f"""\
echo '{{"model": "any", "max_tokens": 32, "messages": [{{"role": "user", "content": [
  {{"type": "text", "text": "What is on the mat?"}},
  {{"type": "image_url", "image_url": {{"url": "data:image/jpeg;base64,'"$(base64 -w 0 cat.jpg)"'"}}}}]}}]}}' |
curl $GATEWAY/v1/chat/completions {_KEY} {_JSON} -d @-""",
    ("post", "/v1/ask"): f"""\
curl $GATEWAY/v1/ask {_KEY} -F image=@cat.jpg -F question='What is on the mat?'""",
    ("get", "/v1/jobs/{job_id}"): f'curl "$GATEWAY/v1/jobs/$JOB?wait=30" {_KEY}',
    ("delete", "/v1/jobs/{job_id}"): f"curl -X DELETE $GATEWAY/v1/jobs/$JOB {_KEY}",
    ("post", "/v1/images"): f"curl $GATEWAY/v1/images {_KEY} -F file=@cat.jpg",
    ("get", "/v1/images/{image_id}"): f"curl $GATEWAY/v1/images/$IMAGE {_KEY}",
    ("delete", "/v1/images/{image_id}"): f"curl -X DELETE $GATEWAY/v1/images/$IMAGE {_KEY}",
    ("post", "/v1/files"): f"curl $GATEWAY/v1/files {_KEY} -F purpose=batch -F file=@questions.jsonl",
    ("get", "/v1/files"): f"curl $GATEWAY/v1/files {_KEY}",
    ("get", "/v1/files/{file_id}"): f"curl $GATEWAY/v1/files/$FILE {_KEY}",
    ("delete", "/v1/files/{file_id}"): f"curl -X DELETE $GATEWAY/v1/files/$FILE {_KEY}",
    ("get", "/v1/files/{file_id}/content"): f"curl $GATEWAY/v1/files/$FILE/content {_KEY}",
    ("post", "/v1/batches"): f"""\
curl $GATEWAY/v1/batches {_KEY} {_JSON} -d '{{"input_file_id": "'"$FILE"'",
  "endpoint": "/v1/chat/completions", "completion_window": "24h"}}'""",
    ("get", "/v1/batches"): f"curl $GATEWAY/v1/batches {_KEY}",
    ("get", "/v1/batches/{batch_id}"): f"curl $GATEWAY/v1/batches/$BATCH {_KEY}",
    ("post", "/v1/batches/{batch_id}/cancel"): f"curl -X POST $GATEWAY/v1/batches/$BATCH/cancel {_KEY}",
    ("get", "/v1/models"): f"curl $GATEWAY/v1/models {_KEY}",
    ("get", "/v1/models/{model}"): f"curl $GATEWAY/v1/models/$MODEL {_KEY}",
    ("get", "/v1/status"): f"curl $GATEWAY/v1/status {_KEY}",
    ("get", "/healthz"): "curl $GATEWAY/healthz",
    ("get", "/readyz"): "curl $GATEWAY/readyz",
}
