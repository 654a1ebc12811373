"""Errors before and instead of a stream, as servers and what stands before them send them, with the sentence to make of each.

A name in brackets is the program, or the public report, that the shape is from.
"""

from __future__ import annotations

import json
from typing import Any

Headers = dict[str, str]
Shape = tuple[int, Any, Headers, str]  # status, body (anything but bytes as JSON), headers, the whole sentence

SAID = "the prompt is too long"
TRACEBACK = (
    "Traceback (most recent call last):\n"
    + '  File "/app/server.py", line 10, in handle\n    run(request)\n' * 40
    + "torch.OutOfMemoryError: CUDA out of memory\n"
)
CLOUDFLARE = (
    '<!DOCTYPE html>\n<!--[if lt IE 7]> <html class="no-js ie6 oldie" lang="en-US"> <![endif]-->\n<head>\n\n\n'
    '<title>api.example.com | 524: A timeout occurred</title>\n<meta charset="UTF-8" />' + "<p>x</p>" * 500
)
EXPRESS = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n<body>\n'
    "<pre>Cannot POST /v1/chat/completions</pre>\n</body>\n</html>\n"
)
TOMCAT = (
    '<!doctype html><html lang="en"><head><title>HTTP Status 404 – Not Found</title></head><body><h1>HTTP Status 404 – '
    "Not Found</h1></body></html>"
)

JSON_SHAPES: dict[str, Shape] = {
    "a fault (Apigee)": (
        429,
        {"fault": {"faultstring": SAID, "detail": {"errorcode": "policies.ratelimit"}}},
        {},
        SAID,
    ),
    "errorMessage (AWS Lambda)": (502, {"errorMessage": SAID, "errorType": "Runtime.ExitError"}, {}, SAID),
    "__type and message (Bedrock)": (403, {"__type": "UnrecognizedClientException", "message": SAID}, {}, SAID),
    "html-message (Portkey)": (500, {"html-message": SAID, "provider": "openai"}, {}, SAID),
    "base_resp (MiniMax)": (400, {"base_resp": {"status_code": 1004, "status_msg": SAID}}, {}, SAID),
    "gRPC's (grpc-gateway)": (503, {"code": 14, "message": SAID, "details": []}, {}, SAID),
    "with details (Google)": (
        429,
        {"error": {"code": 429, "message": SAID, "status": "X", "details": [{"@type": "t", "retryDelay": "32s"}]}},
        {},
        SAID,
    ),
    "a list (Gemini's /openai, n4ze3m/page-assist#406)": (429, [{"error": {"code": 429, "message": SAID}}], {}, SAID),
    "JSON in the message (continuedev/continue#10560)": (
        429,
        {"error": {"message": json.dumps({"error": {"code": 429, "message": SAID}}, indent=2), "code": 429}},
        {},
        SAID,
    ),
    "JSON in a text of JSON": (400, json.dumps({"error": {"message": SAID}}), {}, SAID),
    "what a provider said (OpenRouter, BerriAI/litellm#8448)": (
        429,
        {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "error code: 1015"}}},
        {},
        "Provider returned error: error code: 1015",
    ),
    "what a provider said, as JSON": (
        429,
        {
            "error": {
                "message": "Provider returned error",
                "metadata": {"raw": json.dumps({"error": {"message": SAID}})},
            }
        },
        {},
        f"Provider returned error: {SAID}",
    ),
    "a page in the message (new-api)": (
        502,
        {"error": {"message": f"bad response status code 502, body: {EXPRESS}", "type": "upstream_error"}},
        {},
        "bad response status code 502, body: Cannot POST /v1/chat/completions",
    ),
    "a page for a message (OpenRouter)": (502, {"error": {"message": TOMCAT}}, {}, "HTTP Status 404 – Not Found"),
    "an error's JSON in a field (RunPod)": (
        500,
        {"status": "FAILED", "error": json.dumps({"error_type": "<class 'X'>", "error_message": SAID})},
        {},
        SAID,
    ),
    "no message but a type (QuantumNous/new-api#556)": (
        500,
        {"error": {"message": "", "type": "upstream_error", "param": "524", "code": "bad_response"}},
        {},
        '{"message":"","type":"upstream_error","param":"524","code":"bad_response"}',
    ),
    "success false (pollinations/pollinations#6260)": (
        429,
        {"success": False, "error": {"message": SAID, "code": "RATE_LIMITED", "timestamp": "2025-12-21T01:27:42Z"}},
        {},
        SAID,
    ),
    "a status and a message (truefoundry/models#873)": (400, {"status": "failure", "message": SAID}, {}, SAID),
    "detail with an object (KoboldCpp)": (503, {"detail": {"msg": SAID, "type": "service_unavailable"}}, {}, SAID),
    "detail with an error (FastAPI)": (500, {"detail": {"error": {"message": SAID}}}, {}, SAID),
    "detail of two fields (FastAPI)": (
        422,
        {"detail": [{"loc": ["body", "a"], "msg": "x"}, {"loc": ["body", "b", 0], "msg": "y"}]},
        {},
        "body.a: x; body.b.0: y",
    ),
    "detail deep inside (Mistral)": (
        422,
        {"error": {"message": {"detail": [{"loc": ["body", "stop"], "msg": SAID}]}}},
        {},
        f"body.stop: {SAID}",
    ),
    "problem details with fields (.NET)": (
        400,
        {"title": "One or more validation errors occurred.", "status": 400, "errors": {"model": ["is required"]}},
        {},
        'One or more validation errors occurred.: {"model":["is required"]}',
    ),
    "problem details with pointers": (400, {"title": "Bad", "errors": [{"detail": SAID, "pointer": "#/x"}]}, {}, SAID),
    "Spring's with a message": (
        500,
        {"timestamp": "2026-01-01T00:00:00Z", "status": 500, "error": "Internal Server Error", "message": SAID},
        {},
        f"Internal Server Error: {SAID}",
    ),
    "a cause beside a word for nothing": (
        502,
        {"code": "x", "message": "Upstream error", "cause": SAID},
        {},
        f"Upstream error: {SAID}",
    ),
    "a value beside a word for nothing (vercel/ai#18303)": (
        502,
        {
            "error": {
                "message": "Stream error occurred",
                "cause": {"message": "[ { invalid_union"},
                "value": {"error_type": "x", "error_message": json.dumps({"error": {"message": SAID}})},
            }
        },
        {},
        f"Stream error occurred: {SAID}",
    ),
    "a value that was sent, beside a word for nothing": (
        400,
        {"error": {"message": "Bad Request", "value": "gpt-9", "cause": SAID}},
        {},
        f"Bad Request: {SAID}",
    ),
    "details beside a word for nothing": (
        400,
        {"error": {"message": "Bad Request", "details": SAID}},
        {},
        f"Bad Request: {SAID}",
    ),
    "warnings beside an unknown error (HF)": (
        500,
        {"error": "unknown error", "warnings": [SAID]},
        {},
        f"unknown error: {SAID}",
    ),
    "a word for nothing beside the cause": (400, {"error": SAID, "message": "Bad Request"}, {}, SAID),
    "errors of Okta's and Salesforce's": (401, {"errorSummary": SAID, "errorId": "x"}, {}, SAID),
    "a list with codes (Watsonx)": (429, {"errors": [{"code": "limit", "message": SAID}], "trace": "x"}, {}, SAID),
    "Cloudflare's AI gateway": (
        400,
        {"success": False, "result": [], "error": [{"code": 2001, "message": SAID}]},
        {},
        SAID,
    ),
    "Kong's": (502, {"message": SAID, "request_id": "9a0c"}, {}, SAID),
    "API Gateway's": (500, {"message": SAID, "connectionId": "abc", "requestId": "x="}, {}, SAID),
    "Azure's API management": (401, {"statusCode": 401, "message": SAID}, {}, SAID),
    "a traceback (Python)": (500, {"error": TRACEBACK}, {}, "torch.OutOfMemoryError: CUDA out of memory"),
    "rows of NDJSON": (500, f'{{"error": "{SAID}"}}\n{{"done": true}}\n'.encode(), {}, SAID),
    "an event behind its name and an id": (
        500,
        f'id: 1\nevent: error\ndata: {{"message": "{SAID}"}}\n\n'.encode(),
        {},
        SAID,
    ),
    "problem+json of LiteLLM's": (403, {"type": "about:blank", "title": "Forbidden", "detail": SAID}, {}, SAID),
    "an error that is a list of texts (TGI)": (422, {"error": ["x", "y"], "error_type": "validation"}, {}, "x; y"),
    "nothing but fields (Django)": (
        400,
        {"model": ["This field is required."]},
        {},
        '{"model":["This field is required."]}',
    ),
    "inside data": (500, {"status": "error", "data": {"message": SAID}}, {}, SAID),
    "ErrorMessage in capitals": (500, {"ErrorMessage": SAID}, {}, SAID),
}

OTHER_SHAPES: dict[str, Shape] = {
    "an event whose data has several lines": (
        500,
        f'event: error\ndata: {{\ndata:  "error": {{"message": "{SAID}"}}\ndata: }}\n\n'.encode(),
        {},
        SAID,
    ),
    "no healthy upstream (Envoy)": (503, b"no healthy upstream", {}, "no healthy upstream"),
    "connect error (Envoy, vllm-project/aibrix#1103)": (
        503,
        b"upstream connect error or disconnect/reset before headers. reset reason: connection failure\n",
        {},
        "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
    ),
    "Bad Gateway as a text (Traefik)": (502, b"Bad Gateway", {}, "Bad Gateway"),
    "error code: 524 as a text (Cloudflare)": (524, b"error code: 524", {}, "error code: 524"),
    "Cloudflare's page (anthropics/claude-code#3197)": (
        524,
        CLOUDFLARE.encode(),
        {},
        "HTTP 524 with a web page, titled 'api.example.com | 524: A timeout occurred'",
    ),
    "HAProxy's page (Mintplex-Labs/anything-llm#1722)": (
        504,
        b"<html><body><h1>504 Gateway Time-out</h1>\nThe server didn't respond in time.\n</body></html>\n",
        {},
        "HTTP 504 with a web page, titled '504 Gateway Time-out': 'The server didn't respond in time.'",
    ),
    "Apache's page": (
        502,
        (
            b'<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">\n<html><head>\n<title>502 Proxy Error</title>\n</head><body>\n'
            b"<h1>Proxy Error</h1>\n<p>The proxy server received an invalid\r\nresponse from an upstream server.<br />\r\n"
            b"The proxy server could not handle the request<p>Reason: <strong>Error reading from remote server</strong></p></p>\n"
            b"</body></html>\n"
        ),
        {},
        "HTTP 502 with a web page, titled '502 Proxy Error': 'Error reading from remote server'",
    ),
    "Express's page": (
        404,
        EXPRESS.encode(),
        {},
        "HTTP 404 with a web page, titled 'Cannot POST /v1/chat/completions'",
    ),
    "Tomcat's page": (404, TOMCAT.encode(), {}, "HTTP 404 with a web page, titled 'HTTP Status 404 – Not Found'"),
    "Flask's page": (
        404,
        b"<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n<p>The requested URL",
        {},
        "HTTP 404 with a web page, titled '404 Not Found'",
    ),
    "a heading of the second rank": (
        500,
        b"<html><body><h2>Out of order</h2></body></html>",
        {},
        "HTTP 500 with a web page, titled 'Out of order'",
    ),
    "a piece of a page": (
        503,
        b"<center><h1>Out of order</h1></center>",
        {},
        "HTTP 503 with a web page, titled 'Out of order'",
    ),
    "a SOAP fault": (
        500,
        f"<soap:Envelope><soap:Fault><faultstring xml:lang='en'>{SAID}</faultstring></soap:Fault></soap:Envelope>".encode(),
        {},
        f"HTTP 500: '{SAID}'",
    ),
    "a traceback as a text (uvicorn)": (500, TRACEBACK.encode(), {}, "torch.OutOfMemoryError: CUDA out of memory"),
    "nothing, and a type in a header (AWS)": (
        403,
        b"",
        {"x-amzn-ErrorType": "UnrecognizedClientException"},
        "HTTP 403 with an empty body, and the header 'x-amzn-errortype: UnrecognizedClientException'",
    ),
    "an empty object, and a code in a header (Azure)": (
        401,
        b"{}",
        {"x-ms-error-code": "InvalidAuth"},
        "HTTP 401 with a body that says nothing ({}), and the header 'x-ms-error-code: InvalidAuth'",
    ),
    "nothing, and a challenge that says why": (
        401,
        b"",
        {"WWW-Authenticate": 'Bearer realm="x", error="invalid_token", error_description="The token expired"'},
        "HTTP 401 with an empty body, and the header 'www-authenticate: The token expired'",
    ),
    "nothing, and a challenge that does not": (401, b"", {"WWW-Authenticate": "Bearer"}, "HTTP 401 with an empty body"),
    "nothing, and gRPC's message": (
        502,
        b"",
        {"grpc-status": "14", "grpc-message": "no%20backend"},
        "HTTP 502 with an empty body, and the header 'grpc-message: no backend'",
    ),
    "ngrok's code and an empty page": (
        502,
        b"<html><body></body></html>",
        {"ngrok-error-code": "ERR_NGROK_8012"},
        "HTTP 502 with a web page without a title, and the header 'ngrok-error-code: ERR_NGROK_8012'",
    ),
    "words, and a header that is not needed": (403, {"message": SAID}, {"x-amzn-ErrorType": "X"}, SAID),
    "no error at all in a header": (500, b"", {"x-squid-error": "0"}, "HTTP 500 with an empty body"),
    "499 of nginx": (499, b"", {}, "HTTP 499 with an empty body"),
    "bytes that are no text, of a gateway": (
        502,
        b"\x81\x0f\xfe\xfd" * 9,
        {},
        "HTTP 502 with a body that is no text (36 bytes)",
    ),
    "a wait as an instant": (
        429,
        {"error": SAID},
        {"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT", "Date": "Fri, 31 Dec 2027 23:59:29 GMT"},
        f"{SAID} (retry after 30 s)",
    ),
    "a wait as seconds since 1970": (
        429,
        {"error": SAID},
        {"Retry-After": "1830297599"},
        f"{SAID} (says when to retry)",
    ),
    "a place to sign in (Ollama's cloud models)": (
        401,
        {"error": "unauthorized", "signin_url": "https://ollama.com/connect?name=x&key=y"},
        {},
        "unauthorized: sign its machine in with `ollama signin`",
    ),
    "escapes in a title": (
        500,
        b"<html><title>\x1b]0;x\x07</title>",
        {},
        r"HTTP 500 with a web page, titled '\x1b]0;x\x07'",
    ),
}

# Two answers with one cause, and their one sentence.
ALIKE: dict[str, tuple[str, str, str]] = {
    "a number of new-api's": (
        f"{SAID} (request id: 20241107091234123456789abCDefGh)",
        f"{SAID} (request id: 20241107091235987654321xYzAbCdE)",
        f"{SAID} (request id: #)",
    ),
    "a ULID": (f"{SAID} 01ARZ3NDEKTSV4RRFFQ69G5FAV", f"{SAID} 01BX5ZZKBKACTAV9WEVGEMMVRZ", f"{SAID} #"),
    "an object's place (urllib3)": (
        "NewConnectionError('<urllib3.connection.HTTPConnection object at 0x7f0e4c1b2d90>: refused')",
        "NewConnectionError('<urllib3.connection.HTTPConnection object at 0x7f0e4c1b2e50>: refused')",
        "NewConnectionError('<urllib3.connection.HTTPConnection object at #>: refused')",
    ),
    "ports of Ollama's runner": (
        'Post "http://127.0.0.1:36331/completion": read tcp 127.0.0.1:58442->127.0.0.1:36331: connection reset by peer',
        'Post "http://127.0.0.1:41873/completion": read tcp 127.0.0.1:52010->127.0.0.1:41873: connection reset by peer',
        'Post "http://127.0.0.1:#/completion": read tcp 127.0.0.1:#->127.0.0.1:#: connection reset by peer',
    ),
    "an address of Python's": ("lost ('10.0.0.7', 53422)", "lost ('10.0.0.7', 40001)", "lost ('10.0.0.7', #)"),
    "a time to wait (OpenAI)": (
        "Limit 10000, Used 9500, Requested 800. Please try again in 1.523s. Visit x",
        "Limit 10000, Used 9871, Requested 812. Please try again in 6m0s. Visit x",
        "Limit 10000, Used #, Requested #. Please try again in #. Visit x",
    ),
    "a time to wait (Azure, microsoft/copilot-camp#551)": (
        "Rate limit is exceeded. Try again in 27 seconds.",
        "Rate limit is exceeded. Try again in 2 seconds.",
        "Rate limit is exceeded. Try again in #.",
    ),
    "a measured time": (
        "timed out, time taken=60.012 seconds",
        "timed out, time taken=60.3 seconds",
        "timed out, time taken=# seconds",
    ),
    "milliseconds": ("gave up after 1234 ms", "gave up after 987.5 ms", "gave up after # ms"),
    "the time of day": ("[12:01:07.123] no slot", "[12:01:08.999] no slot", "[#] no slot"),
    "HTTP's date": ("at Wed, 21 Oct 2026 07:28:00 GMT: no", "at Thu, 22 Oct 2026 07:28:01 GMT: no", "at #: no"),
    "Go's date": ("2024/11/07 09:12:34 no slot", "2024/11/07 09:12:35 no slot", "# no slot"),
    "seconds since 1970": ("at 1730970754.123 no slot", "at 1730970755.9 no slot", "at # no slot"),
    "the number of a request": ("request 17 failed", "request 18 failed", "request # failed"),
    "a task's id (llama.cpp)": (
        "task id = 1234 was cancelled",
        "task id = 99 was cancelled",
        "task id = # was cancelled",
    ),
    "how many wait (Ray Serve)": (
        "num_queued_requests=2, max_queued_requests=2",
        "num_queued_requests=3, max_queued_requests=2",
        "num_queued_requests=#, max_queued_requests=2",
    ),
    "a process": ("worker pid=4711 died", "worker pid=815 died", "worker pid=# died"),
    "Akamai's reference": ("Reference #18.5d8f1602.1700.1a2b", "Reference #18.6e9f1602.1701.9c2b", "Reference ##"),
    "a request's id of Anthropic's": (
        "no (req_011CeDfeyYs7N6neZrLwFxPJ)",
        "no (req_011Ce3HwQb6vtbs9LQVmh4oe)",
        "no (#)",
    ),
}
DIFFERENT = (  # numbers that say something, which no mask may take
    "maximum context length is 4096 tokens",
    "max tokens per request: 4096",
    "timeout of 60000ms exceeded",
    "timed out after 60.0 seconds",
    "timed out after 600 s",
    "port 8000 is closed: 127.0.0.1:8000",
    "the model gpt-4o-mini-2024-07-18 is gone",
    "Qwen2.5-72B-Instruct-GPTQ-Int4 does not fit 24 GiB",
    "error code: 524",
    "request: 400 Bad Request",
)
