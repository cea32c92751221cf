"""The HTTP gateway: OpenAI's API in front of the queue. Needs the extra `gateway`."""
