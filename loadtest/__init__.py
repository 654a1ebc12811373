"""Concurrent load testing for Ollama and OpenAI-compatible model servers."""

__all__ = ["LoadTestError", "__version__"]
__version__ = "0.1.0"

from loadtest.errors import LoadTestError
