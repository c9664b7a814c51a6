"""What the OpenAPI document says of bodies that FastAPI does not parse: shapes of requests, answers and errors."""

from __future__ import annotations

from typing import Any

ABOUT = (
    "Swin Transformer V2 image classification over the Open Inference Protocol (KServe v2). Errors are "
    '`{"error": "one sentence"}`.'
)

# A grey PNG of 2 x 2 pixels: the example is a request that is answered.
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR42mNsYGBiYAAAApIAhOoU7S4AAAAASUVORK5CYII="

_ERROR: dict[str, Any] = {
    "type": "object", "required": ["error"], "properties": {"error": {"type": "string"}},
}  # fmt: skip


def _refusal(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ERROR}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _refusal("the request cannot be meant"),
    401: _refusal("the server wants a token"),
    404: _refusal("there is no such model, version or address"),
    403: _refusal("the server was started so that clients may not ask this"),
    408: _refusal("the body did not arrive in time"),
    413: _refusal("the body or the number of images is too large"),
    415: _refusal("a type or coding of the body that is not read"),
    431: _refusal("the address and the headers are too large"),
    422: _refusal("not used: what cannot be meant is 400"),
    500: _refusal("a defect of the server, or a runtime that failed"),
    503: _refusal("the queue is full, or the model does not answer now; Retry-After says when to try again"),
    504: _refusal("there was no answer in time"),
}

_PARAMETERS: dict[str, Any] = {
    "type": ["object", "null"],
    "properties": {
        "timeout": {
            "type": "integer",
            "minimum": 0,
            "description": "microseconds until nobody waits any more",
        },
        "binary_data_output": {"type": "boolean"},
    },
}
_INPUT: dict[str, Any] = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string", "enum": ["image", "pixels"]},
        "datatype": {"type": "string", "enum": ["BYTES", "FP32"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 8},
        "data": {"type": "array", "items": {}},
        "parameters": {
            "type": ["object", "null"],
            "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
        },
    },
}
_OUTPUT: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "enum": ["logits", "scores"]},
        "parameters": {
            "type": ["object", "null"],
            "properties": {
                "classification": {"type": "integer", "minimum": 0},
                "binary_data": {"type": "boolean"},
            },
        },
    },
}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _INPUT, "minItems": 1, "maxItems": 1},
        "outputs": {"type": ["array", "null"], "items": _OUTPUT},
    },
    "example": {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [PICTURE]}],
        "outputs": [{"name": "scores", "parameters": {"classification": 5}}],
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "data": {"type": "array", "items": {}},
                    "parameters": {"type": "object"},
                },
            },
        },
    },
}
_IS_READY: dict[str, Any] = {
    "type": "object", "required": ["ready"],
    "properties": {"ready": {"type": "boolean"}, "name": {"type": "string"}},
}  # fmt: skip
_BYTES: dict[str, Any] = {"type": "string", "format": "binary"}

# Keyword arguments of FastAPI's decorators.
INFER: dict[str, Any] = {
    "responses": {
        200: {
            "description": "the tensors; in binary after the JSON header where they were asked for so",
            "content": {
                "application/json": {"schema": _ANSWER},
                "application/octet-stream": {"schema": _BYTES},
            },
        }
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _REQUEST},
                "application/octet-stream": {"schema": _BYTES},
            },
        }
    },
}
INDEX: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {
            "required": False,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
                }
            },
        }
    },
}
METRICS: dict[str, Any] = {
    "responses": {
        200: {
            "description": "text as Prometheus reads it",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    }
}
READY: dict[str, Any] = {
    "responses": {
        200: {"content": {"application/json": {"schema": _IS_READY}}},
        503: {
            "description": "it does not answer now",
            "content": {"application/json": {"schema": _IS_READY}},
        },
    }
}


def _options(**known: dict[str, Any]) -> dict[str, Any]:
    """A body with parameters, of which none but these are taken."""
    parameters = {"type": ["object", "null"], "properties": known, "additionalProperties": False}
    body = {"type": "object", "properties": {"parameters": parameters}}
    content = {"application/json": {"schema": body}}
    return {"openapi_extra": {"requestBody": {"required": False, "content": content}}}


LOAD = _options()
UNLOAD = _options(unload_dependents={"description": "there are none, so that it changes nothing"})
MODELS: dict[str, Any] = {
    "responses": {
        200: {
            "description": "one row for each; not_explained: why /explain would refuse it, empty where it answers",
            "content": {
                "application/json": {
                    "example": {
                        "models": [
                            {
                                "name": "flowers",
                                "version": "1",
                                "architecture": "swinv2_tiny_window8_256",
                                "runtime": "engine",
                                "device": "cpu",
                                "precision": "fp32",
                                "classes": 102,
                                "input": [3, 256, 256],
                                "not_explained": "",
                            }
                        ],
                        "limits": {"body_bytes": 67108864},
                    }
                }
            },
        }
    }
}
EXPLAIN: dict[str, Any] = {
    "responses": {
        200: {
            "description": "the picture under its Grad-CAM map; the header swinv2-explanation names class_id, score, "
            "is_empty (nothing in the picture speaks for the class) and is_whole (the model sees all of it)",
            "content": {"image/webp": {"schema": _BYTES}},
        },
        501: _refusal("the model is an export, or the server has no torch"),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": _BYTES},
                "application/octet-stream": {"schema": _BYTES},
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"image": _BYTES}, "required": ["image"]}
                },
            },
        }
    },
}
PREDICT: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": _BYTES},
                "application/octet-stream": {"schema": _BYTES},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": {"type": "array", "items": _BYTES, "minItems": 1}},
                        "required": ["image"],
                    }
                },
            },
        }
    },
}
