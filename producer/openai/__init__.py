"""Conversion between OpenAI's chat completions and jobs and answers."""
