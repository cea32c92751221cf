"""Answers by servers that speak OpenAI's chat completions: vLLM, SGLang, LMDeploy, llama.cpp, another vqa gateway."""
