"""A good adapter that declares all there is, and keeps it."""

import asyncio
import json
from typing import Any

from llama_orch_adapter_api import AdapterContext, Embedding, End, Score, Started, TaskRequest

from .twisted import Twisted, replace  # type: ignore[import-not-found]  # test folders are no packages

IDLE = b'num_requests_running{engine="0"} 0.0'


class DeclaresAll(Twisted):
    features = ("tools", "reasoning", "deadline", "confirms_cancel")
    workloads = ("embedding", "rerank")

    def __init__(self, context: AdapterContext) -> None:
        super().__init__(context)
        self.mine: set[str] = set()

    def asked(self, task: TaskRequest) -> TaskRequest:
        self.mine.add(task.task_id)
        return replace(task, extra={**task.extra, "t_max_predict_ms": task.deadline_ms})

    def submit(self, task: TaskRequest) -> Any:
        return self.outputs(task) if task.workload in self.workloads else super().submit(task)

    async def outputs(self, task: TaskRequest) -> Any:
        known = (await self.props()).capabilities
        path = "/v1/embeddings" if task.workload == "embedding" else "/v1/rerank"
        body = {"model": known.model_id, "input": task.inputs, "documents": task.inputs, "query": task.query}
        answer = json.loads((await self.http.request("POST", path, body)).body)
        vectors = [Embedding(each["index"], tuple(each["embedding"])) for each in answer.get("data", ())]
        scores = [Score(each["index"], each["relevance_score"]) for each in answer.get("results", ())]
        yield Started(known.engine, known.engine_version, known.model_id, self.context.replica)
        yield End(None, None, "stop", outputs=(*vectors, *scores))

    async def cancel(self, task_id: str) -> None:
        while task_id in self.mine and IDLE not in (await self.http.get("/metrics")).body:
            await asyncio.sleep(0.001)
