"""How every process writes its log: one event name and fields a line, JSON unless somebody looks at a terminal.

Names: snake_case, what has happened or is done, the system first where it is a system's own (`partner_refused`);
what is away is `waiting_for_<system>`. WARN: nothing is lost. ERROR: lost, or someone must act. The fields are in
docs/glossary.md. What an event carries, user ids above all, stands in no line: a line names partition, offset and
event id.
"""

import logging
import sys
from typing import Any

import stamina.instrumentation
import structlog
from structlog.typing import Processor


def configure_logging(level: str, process: str) -> None:
    """Set up structlog, and the log of the libraries beside it, on stderr.

    level    the least that is said: DEBUG, INFO, WARNING, ERROR
    process  what this process is, in each of its lines: capture, engagement, api
    """

    def name_process(logger: Any, method: str, event: Any) -> Any:
        return {"process": process, **event}

    terminal = sys.stderr.isatty()
    # Without frames' locals, which hold events.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shown: list[Processor] = (
        [plain] if terminal else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *shown],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shown],
        )
    )
    # Libraries say at INFO what nobody asked for, URLs among it.
    logging.basicConfig(level=max(logging.WARNING, logging.getLevelName(level.upper())), handlers=[handler], force=True)
    stamina.instrumentation.set_on_retry_hooks([])  # whoever repeats a call says so itself, once
