"""Names of the response headers of our own."""

#: the id of a chat request's job
JOB_ID = "X-VQA-Job-ID"
REQUEST_ID = "X-Request-ID"
