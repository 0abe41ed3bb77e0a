"""A stand-in for the Weights & Biases service: as much of it as a run needs, kept in memory."""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FILE_STREAM = re.compile(r"/files/[^/]+/[^/]+/([^/]+)/file_stream")


@dataclass
class StoredRun:
    """What the service knows of one run."""

    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    config: str = "{}"
    summary: str = "{}"
    name: str = ""
    starts: int = 0
    exit_codes: list[int] = field(default_factory=list)
    preempting: bool = False


class WandbServer:
    """Serves on a free port from its making until `close`."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.runs: dict[str, StoredRun] = {}
        self.requests: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                telemetry = not body.startswith(b"{")  # protocol buffers, for wandb's own makers
                answer = json.dumps({} if telemetry else service.answer(self.path, json.loads(body))).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What leads wandb here; the key is made up."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "5ecre7" + "0" * 34}

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        stream = FILE_STREAM.match(path)
        if stream:
            self._take_files(self.runs[stream[1]], body)
            return {"exitcode": None, "limits": {}}
        query, variables = body["query"], body.get("variables") or {}
        self.requests.append(body.get("operationName") or query.split("(")[0].split()[-1])
        return {"data": self._query(query, variables)}

    @staticmethod
    def _take_files(run: StoredRun, body: dict[str, Any]) -> None:
        for name, part in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                rows = (json.loads(line) for line in part["content"])
                run.history |= dict(enumerate(rows, part["offset"]))
            elif name == "wandb-summary.json":
                run.summary = part["content"][-1]
        if body.get("complete"):
            run.exit_codes.append(body["exitcode"])
        run.preempting = run.preempting or bool(body.get("preempting"))

    def _query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            return self._upsert(variables)
        if "historyTail" in query:
            return {"model": {**_PROJECT, "bucket": self._resume(variables)}}
        if "createRunFiles" in query:
            url = f"{self.url}/upload"
            files = [{"name": name, "uploadUrl": url} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "__type" in query or "__schema" in query:
            names = re.findall(r"(\w+)\s*:\s*__type", query)
            return {name: {"name": name, "fields": [], "inputFields": []} for name in names} or {
                "__type": None
            }
        versions = {"max_cli_version": "99.0.0", "min_cli_version": "0.0.1"}
        info: dict[str, Any] = {"cliVersionInfo": versions, "latestLocalVersionInfo": None, "features": []}
        viewer = {"id": _id("user"), "username": "me", "flags": "{}", "teams": {"edges": []}, "admin": False}
        return {
            "viewer": {**viewer, "entity": "me", "email": "me@example.org"},
            "serverInfo": info,
            "project": {"run": {"stopped": False}},
        }

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        key = variables["name"] or variables["id"]
        run = self.runs.setdefault(key, StoredRun())
        if variables.get("config"):
            run.config = variables["config"]
        if variables.get("displayName"):
            run.name = variables["displayName"]
            run.starts += 1
        bucket = {
            "id": _id(key),
            "name": key,
            "displayName": run.name,
            "description": None,
            "config": run.config,
            "sweepName": None,
            "project": _PROJECT,
            "historyLineCount": len(run.history),
            "createdAt": "2026-01-01T00:00:00",
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": not run.history}}

    def _resume(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        run = self.runs.get(variables["name"])
        if run is None:
            return None
        tail = [json.dumps(run.history[max(run.history)])] if run.history else []
        return {
            "id": _id(variables["name"]),
            "name": variables["name"],
            "displayName": run.name,
            "summaryMetrics": run.summary,
            "config": run.config,
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
            "historyLineCount": len(run.history),
            "historyTail": json.dumps(tail),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "eventsTail": "[]",
        }


def _id(name: str) -> str:
    return base64.b64encode(name.encode()).decode()


_PROJECT = {"id": _id("project"), "name": "p", "entity": {"id": _id("entity"), "name": "me"}}
