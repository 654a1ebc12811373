"""Names that bodies, client libraries and other tools have for what a key says: for hints to people who write those."""

from __future__ import annotations

_OTHERS = {
    "output_tokens": "max_tokens max_completion_tokens max_output_tokens max_new_tokens num_predict n_predict output_len",
    "input_tokens": "input_len prompt_tokens prompt_len",
    "think": "reasoning_effort reasoning thinking enable_thinking no_think",
    "stop": "stop_sequence stop_sequences",
    "body": "extra_body min_p frequency_penalty presence_penalty repetition_penalty logit_bias logprobs response_format "
    "chat_template_kwargs tools",
    "header": "headers extra_headers",
    "key_env": "api_key key token",
    "url": "base_url api_base host server server_url target endpoint_url",
    "proxy": "socks5 socks5h",
    "no_proxy": "noproxy",
    "concurrency": "users vus num_users max_concurrency",
    "requests": "num_prompts num_requests",
    "rate": "request_rate qps rps",
    "duration": "run_time max_seconds max_duration",
    "data": "dataset dataset_path dataset_name input_file",
    "total_timeout": "timeout request_timeout",
    "insecure": "verify no_verify verify_ssl skip_verify tls_skip_verify",
    "api": "backend api_type",
    "num_ctx": "context_length ctx_size",
}
# One letter of other tools (curl, hey, ab, wrk, Locust): an option's alone.
KEY_OF_LETTER = {
    "c": "concurrency",
    "u": "concurrency",
    "n": "requests",
    "q": "rate",
    "m": "model",
    "k": "insecure",
    "H": "header",
    "o": "out",
}
KEY_OF = {other: key for key, others in _OTHERS.items() for other in others.split()}
