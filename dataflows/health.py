"""HEALTH_PORT of a flow: /health (what it does, and whose fault it is), /ready, /metrics."""

import os
import socket
import threading
from typing import Any

import prometheus_client
import uvicorn
from fastapi import FastAPI, Response

import metrics
from dataflows.status import ProcessStatus
from sources.positions import FlowStopped


def serve(status: ProcessStatus, port: int) -> None:
    """Answer on a thread of its own until the process ends.

    /health  200 as long as the process lives: a destination that is away is no reason to restart it
    /ready   200 once it has begun its work, else 503
    Raises FlowStopped where another process listens on the port.
    """
    try:
        listening = socket.create_server(("0.0.0.0", port))
    except OSError as failure:
        raise FlowStopped(
            f"HEALTH_PORT={port} cannot be opened ({os.strerror(failure.errno or 0)}): give each process on this "
            "machine a port of its own, or 0 for none."
        ) from failure
    server = uvicorn.Server(uvicorn.Config(application(status), log_config=None, access_log=False))
    threading.Thread(target=server.run, args=([listening],), name="health", daemon=True).start()


def application(status: ProcessStatus) -> FastAPI:
    """The three routes."""
    app = FastAPI(title="engagement flow", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> dict[str, Any]:
        values = status.values()
        troubles = [f"{name}: {sink['error']}" for name, sink in values["sinks"].items() if sink["error"]]
        if values["process"]["waiting"]:
            troubles.append(values["process"]["waiting"])
        return {"state": "degraded" if troubles else "ok", "troubles": troubles, **values}

    @app.get("/ready")
    def ready(response: Response) -> dict[str, bool]:
        begun = status.ready()
        response.status_code = 200 if begun else 503
        return {"ready": begun}

    @app.get("/metrics")
    def prometheus() -> Response:
        for each in status.values()["partitions"]:
            labels = {"topic": each["topic"], "partition": str(each["partition"])}
            metrics.KAFKA_LAG.labels(**labels).set(each["lag_seconds"])
        return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return app
