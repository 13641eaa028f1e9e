"""Routes of how it goes: health, readiness, metrics. They say what was seen last, and ask no service anything."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from api.access import Access, Role, role_of
from api.observer import Observer
from api.service_metrics import as_json, as_prometheus, troubles
from api.stages import CAPTURE, instant


def health_routes(observer: Observer, access: Access, now_us: Callable[[], int]) -> APIRouter:
    """/health and /ready: open to everybody, but for names and words of processes, which need a token."""
    router = APIRouter()

    @router.get("/health")
    async def health(role: Annotated[Role | None, Depends(role_of(access))]) -> dict[str, Any]:
        """What the pipeline does, and whose fault it is; always 200: what is away is no reason to restart this.

        status  ok, degraded (late, or a destination is down: the board is right), down (the board is not)
        """
        now = now_us() / 1e6
        phase, facts, processes = observer.phase(now), observer.facts(now), observer.processes(now)
        answer = {
            "status": phase.status,
            "phase": phase.phase,
            "title": phase.title,
            "sentence": phase.sentence,
            "services": observer.services(now),
            "last_processed": instant(facts.newest_record),
            "newest_event_ts": instant(facts.newest_event),
        }
        if role is None:
            return answer
        return {
            **answer,
            **observer.pipeline(now),
            "sinks": {
                stage.name: {
                    "state": stage.state,
                    "lag_s": stage.lag_s,
                    "lag_events": stage.lag_events,
                    "rate": stage.rate,
                    "trend": stage.trend,
                    "partitions": {
                        each.partition: {
                            "position": each.position,
                            "end": each.end,
                            "lag_events": each.waiting,
                            "lag_s": each.lag_s,
                            "unmoved_s": round(each.unmoved_s, 1),
                        }
                        for each in stage.partitions
                    },
                }
                for stage in facts.stages
                if stage.name != CAPTURE
            },
            "troubles": troubles(processes),
            "partitions": {
                position.partition: {"offset_next": position.offset_next, "newest_ms": position.newest_ms}
                for position in observer.positions()
            },
            "processes": processes,
        }

    @router.get("/ready")
    async def ready(response: Response) -> dict[str, bool | str]:
        """200 while Redis answers, so that there is something to show; else 503, and why."""
        redis = observer.services(now_us() / 1e6)["redis"]
        if redis == "ok":
            return {"ready": True}
        response.status_code = 503
        why = "does not answer" if redis == "down" else "has not answered yet"
        return {"ready": False, "detail": f"Redis {why}, so there is nothing to show: /health says since when"}

    return router


def metrics_routes(observer: Observer, now_us: Callable[[], int]) -> APIRouter:
    """/metrics and /metrics/prometheus."""
    router = APIRouter()

    @router.get("/metrics")
    async def metrics() -> dict[str, Any]:
        """Counters and ages as JSON."""
        return as_json(observer.positions(), observer.processes(now_us() / 1e6))

    @router.get("/metrics/prometheus")
    async def prometheus() -> Response:
        """The same as Prometheus reads it."""
        text = as_prometheus(as_json(observer.positions(), observer.processes(now_us() / 1e6)))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
