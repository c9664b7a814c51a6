"""What KServe needs for a model: an InferenceService, and the image it runs.

    classifier/inferenceservice.yaml                     kubectl apply -f
    classifier/Dockerfile                                the image: `swinv2 serve` and the model
    classifier/models/classifier/1/model.safetensors     the artifact, which our engine computes

The model is part of the image, so what was tested is what runs, and the way back is one line. The fields are those of
serving.kserve.io/v1beta1; the container is a custom predictor that speaks the Open Inference Protocol (v2).
"""

from __future__ import annotations

import re
from pathlib import Path

import swinv2
from swinv2.artifact import Record
from swinv2.deployments import Place

LONGEST = 40  # KServe makes longer names of it, of which 63 characters are allowed
USER = 10001  # without a name and without rights


def surround(tree: Path, place: Place, record: Record) -> None:
    """Everything but the model; tree is the folder of the model."""
    (tree / "Dockerfile").write_text(
        DOCKERFILE.format(version=swinv2.__version__, user=USER), encoding="utf-8"
    )
    (tree / "inferenceservice.yaml").write_text(
        MANIFEST.format(
            name=resource_name(place.name), model=place.name, architecture=record.config.architecture,
            image=f"swinv2-{resource_name(place.name)}:{place.version}", user=USER,
        ),
        encoding="utf-8",
    )  # fmt: skip


def resource_name(name: str) -> str:
    """As Kubernetes names things: lower case, digits and "-", a letter first."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"model-{plain}"
    return plain[:LONGEST].rstrip("-")


DOCKERFILE = """\
# syntax=docker/dockerfile:1
# `swinv2 serve` with one model inside:
#
#     docker build -t NAME:VERSION .      with the name that inferenceservice.yaml has
#
# --build-arg SWINV2=ADDRESS takes it from elsewhere, where the package index does not have this version.

# The engine is compiled where there is a compiler; what runs has neither that nor pip.
FROM python:3.13 AS build
ARG SWINV2="swinv2[serve]=={version}"
# hadolint ignore=DL3013
RUN python -m venv --without-pip /opt/swinv2 \\
  && pip --python /opt/swinv2/bin/python install --no-cache-dir "${{SWINV2}}"

FROM python:3.13-slim
COPY --from=build /opt/swinv2 /opt/swinv2
COPY models /models
ENV PATH=/opt/swinv2/bin:$PATH PYTHONUNBUFFERED=1 SWINV2_OFFLINE=1 HOME=/tmp
USER {user}:{user}
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \\
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["swinv2", "serve"]
CMD ["/models", "--host", "0.0.0.0"]
"""

MANIFEST = """\
# {architecture} as an InferenceService of KServe, with the Open Inference Protocol:
#
#     docker build -t {image} . && docker push {image}
#     kubectl apply -f inferenceservice.yaml
#
# Put the registry before the name of the image, here and in both commands.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
  labels:
    app.kubernetes.io/name: swinv2
    app.kubernetes.io/instance: {name}
  annotations:
    serving.kserve.io/deploymentMode: RawDeployment  # plain Kubernetes: both ports, and time to answer before an end
spec:
  predictor:
    minReplicas: 1
    maxReplicas: 4
    timeout: 60
    terminationGracePeriodSeconds: 75  # a request may take 60 s; the server answers what it has, then ends
    automountServiceAccountToken: false
    securityContext:
      runAsNonRoot: true
      runAsUser: {user}
      runAsGroup: {user}
      seccompProfile:
        type: RuntimeDefault
    containers:
      - name: kserve-container
        image: {image}
        env:
          - name: PROTOCOL  # KServe asks a custom predictor for v1 otherwise
            value: v2
        ports:
          - name: http1  # the first is the one that KServe forwards
            containerPort: 8000
            protocol: TCP
          - name: grpc
            containerPort: 8001
            protocol: TCP
        startupProbe:
          httpGet:
            path: /v2/models/{model}/ready
            port: 8000
          periodSeconds: 1
          failureThreshold: 60
        readinessProbe:
          httpGet:
            path: /v2/models/{model}/ready
            port: 8000
          periodSeconds: 5
        livenessProbe:
          httpGet:
            path: /v2/health/live
            port: 8000
          periodSeconds: 10
          failureThreshold: 3
        resources:
          requests:
            cpu: "2"
            memory: 1Gi
          limits:
            cpu: "2"
            memory: 2Gi
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop: ["ALL"]
        volumeMounts:
          - name: scratch
            mountPath: /tmp
          - name: batches
            mountPath: /dev/shm
    volumes:
      - name: scratch
        emptyDir: {{}}
      - name: batches  # what the server hands to its workers
        emptyDir:
          medium: Memory
          sizeLimit: 256Mi
"""
