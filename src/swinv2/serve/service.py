"""What both protocols speak for: the models, what is done with a request, and the state of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import swinv2
from swinv2.serve.budget import Budget
from swinv2.serve.errors import Kind, Refused, invalid
from swinv2.serve.explaining import Explaining, Overlay, Question, why_not
from swinv2.serve.inference import Answer, Inference, Request, Seen, Timing
from swinv2.serve.metrics import Metrics
from swinv2.serve.pictures import Decoders
from swinv2.serve.repository import Repository
from swinv2.serve.settings import Access, Batching, Compute, Limits
from swinv2.serve.version import Version

# The extensions of Triton that are understood, by the names that its clients look for.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
)
NOT_EXPLAINED = "this server does not say where its models look"


class Service:
    """One server, below its protocols.

    Args:
        sources: as Repository takes them.

    Raises:
        ValueError, FileNotFoundError: as Repository does.
    """

    def __init__(
        self, sources: Sequence[str], *, compute: Compute, batching: Batching, limits: Limits, access: Access
    ):
        self.limits, self.access, self.metrics = limits, access, Metrics()
        self.budget = Budget(limits.bodies_bytes)
        self.repository = Repository(sources, compute=compute, batching=batching, metrics=self.metrics)
        self.decoders = Decoders(limits.pixels)
        self._inference = Inference(self.decoders, limits)
        self._explaining = Explaining(limits.request_seconds)
        self.is_stopping = False

    @property
    def is_ready(self) -> bool:
        """Whether requests for every model are answered: what a load balancer asks."""
        return not self.is_stopping and self.repository.is_ready

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """Whether requests for one model are answered.

        Raises:
            Refused: there is no such model.
        """
        return self.repository.is_model_ready(name, version) and not self.is_stopping

    def metadata(self) -> dict[str, Any]:
        """Of the server, as the protocol has it."""
        extensions = [name for name in EXTENSIONS if self.access.control or not name.startswith("model_rep")]
        return {"name": "swinv2", "version": swinv2.__version__, "extensions": extensions}

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Of a model, as the protocol has it.

        Raises:
            Refused: there is no such model or version.
        """
        with self.repository.use(name, version) as used:
            return _metadata(used)

    async def infer(self, name: str, version: str, request: Request) -> tuple[Answer, str]:
        """An answer, and the version that gave it.

        Raises:
            Refused: why there is none.
        """
        with self.repository.use(name, version) as used:
            return await self._inference.infer(used, request), used.version

    async def predict(
        self, name: str, pictures: Sequence[tuple[str, bytes]], *, top_k: int, seconds: float | None = None
    ) -> tuple[list[Seen], Timing, Version]:
        """The classes of encoded pictures (name, bytes). name: "" where the server has one model.

        Raises:
            Refused: why nothing is answered.
        """
        with self.repository.use(name or self.only_model()) as used:
            seen, timing = await self._inference.predict(used, pictures, top_k=top_k, seconds=seconds)
            return seen, timing, used

    async def explain(
        self, name: str, picture: bytes, class_id: int | None = None
    ) -> tuple[Overlay, Version]:
        """Where in a picture a model looked. class_id: None for the predicted class.

        Raises:
            Refused: why there is no answer.
        """
        if not self.access.explain:
            raise Refused(Kind.FORBIDDEN, NOT_EXPLAINED)
        with self.repository.use(name or self.only_model()) as used:
            count = used.record.config.num_classes
            if class_id is not None and class_id >= count:
                raise invalid(f"class {class_id} is none of {used.name}'s; it has classes 0 to {count - 1}")
            question = Question(used.source, used.opened.device, picture, class_id)
            return await self._explaining.ask(question), used

    def models(self) -> list[dict[str, Any]]:
        """What people choose from: the models that answer. not_explained: why nobody can ask where one looked."""
        rows = []
        for name in self.repository.names:
            with self.repository.use(name) as used:
                rows.append(_described(used, NOT_EXPLAINED if not self.access.explain else ""))
        return rows

    def only_model(self) -> str:
        """The name of the model where there is one.

        Raises:
            Refused: there are several, or none.
        """
        names = self.repository.names
        if len(names) == 1:
            return names[0]
        if not names:
            raise Refused(Kind.UNAVAILABLE, "no model is loaded yet; try again shortly", retry_after=1)
        raise Refused(Kind.INVALID, f"there are {', '.join(names)}; say which: ?model={names[0]}")

    def check_control(self) -> None:
        """Raises Refused where clients may not load and unload models."""
        if not self.access.control:
            raise Refused(
                Kind.FORBIDDEN, "models are not loaded by clients here; start the server with --control"
            )

    async def close(self) -> None:
        """Wait for all requests; end workers and threads."""
        self.is_stopping = True
        await self._explaining.close()
        await self.repository.close()
        self.decoders.close()


def _described(version: Version, not_explained: str) -> dict[str, Any]:
    record, opened = version.record, version.opened
    return {
        "name": version.name,
        "version": version.version,
        "architecture": record.config.architecture,
        "runtime": opened.runtime,
        "device": opened.device,
        "precision": opened.precision,
        "classes": record.config.num_classes,
        "input": [record.preprocess.channels, *record.preprocess.size],
        "not_explained": not_explained or why_not(version.source),
    }


def _metadata(version: Version) -> dict[str, Any]:
    record, opened = version.record, version.opened
    size = [-1, -1] if opened.any_size else list(record.preprocess.size)
    values = [-1, record.config.num_classes]
    return {
        "name": version.name,
        "versions": [version.version],
        "platform": f"swinv2_{opened.runtime}",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "FP32", "shape": [-1, record.preprocess.channels, *size]},
        ],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": values},
            {"name": "scores", "datatype": "FP32", "shape": values},
        ],
        "parameters": {
            "architecture": record.config.architecture,
            "precision": opened.precision,
            "device": opened.device,
            "source": version.source,
        },
    }
