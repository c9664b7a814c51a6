"""A folder of Triton's model repository: config.pbtxt, the labels, and the record beside the model.

    classifier/config.pbtxt   inputs, outputs, batching, warm-up; the preprocessing as a parameter
    classifier/labels.txt     one name a line, for Triton's classification extension: "score:index:name"
    classifier/1/model.onnx   as export writes it
    classifier/1/model.json   its record

The fields are those of Triton's model_config.proto. OpenVINO Model Server needs the version folders only.
"""

from __future__ import annotations

import json
from pathlib import Path

from swinv2.artifact import Record
from swinv2.deployments import Place
from swinv2.runtimes import beside

MAX_BATCH = 8  # images of one run, as `swinv2 serve` has it
MAX_QUEUE = 256  # images that wait; more are refused

PREPROCESS = "swinv2.preprocess"  # the parameter with the preprocessing, as JSON


def surround(tree: Path, place: Place, record: Record) -> None:
    """Everything but the model, for the record that it carries; tree is the folder of the model."""
    (tree / "config.pbtxt").write_text(config(record), encoding="utf-8")
    if record.config.num_classes:
        (tree / "labels.txt").write_text(labels(record), encoding="utf-8")
    (tree / str(place.version) / "model.json").write_text(
        beside.to_json(record, indent=1) + "\n", encoding="utf-8"
    )


def labels(record: Record) -> str:
    """One class a line, in the order of the logits."""
    names = (record.class_name(index) for index in range(record.config.num_classes))
    return "".join(f"{' '.join(name.split())}\n" for name in names)


def config(record: Record) -> str:
    """config.pbtxt: what the graph takes and gives, without its batch axis, and how Triton gathers batches.

    The name is left to the folder, so that a model may be renamed by renaming it.
    """
    architecture, (height, width) = record.config, record.preprocess.size
    image = f"[{architecture.in_chans}, {height}, {width}]"
    any_size = "height" in record.provenance["export"]["dynamic"]
    return CONFIG.format(
        architecture=architecture.architecture,
        image=image,
        taken=f"[{architecture.in_chans}, -1, -1]" if any_size else image,
        classes=architecture.num_classes or architecture.num_features,
        labels='\n    label_filename: "labels.txt"' if architecture.num_classes else "",
        batch=MAX_BATCH,
        queue=MAX_QUEUE,
        key=PREPROCESS,
        preprocess=_escaped(json.dumps(record.preprocess.to_dict(), sort_keys=True)),
    )


def _escaped(text: str) -> str:
    """Inside the quotes of a text of protobuf."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


CONFIG = """\
# {architecture} for Triton Inference Server: --model-repository is the folder above this one.
# The model takes pixels, not pictures: the client prepares them as the parameter at the end says.
backend: "onnxruntime"
max_batch_size: {batch}
input [
  {{
    name: "images"
    data_type: TYPE_FP32
    dims: {taken}
  }}
]
output [
  {{
    name: "logits"
    data_type: TYPE_FP32
    dims: [{classes}]{labels}
  }}
]

# One instance on every GPU, or one on the CPU where there is none.
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]

# What came while an instance computed is its next batch; nothing waits for company.
dynamic_batching {{
  default_queue_policy {{ max_queue_size: {queue} allow_timeout_override: true }}
}}

# Ready means that the smallest and the largest batch have been computed once.
model_warmup [
  {{
    name: "one image"
    batch_size: 1
    inputs {{ key: "images" value: {{ data_type: TYPE_FP32 dims: {image} random_data: true }} }}
  }},
  {{
    name: "a full batch"
    batch_size: {batch}
    inputs {{ key: "images" value: {{ data_type: TYPE_FP32 dims: {image} random_data: true }} }}
  }}
]

parameters [
  {{
    key: "{key}"
    value: {{ string_value: "{preprocess}" }}
  }}
]
"""
