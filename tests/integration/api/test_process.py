"""`python -m api` serves, and ends within five seconds of SIGTERM."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx


def test_the_api_serves_until_sigterm(redis_url: str, unique: str, wait_for: Callable[..., Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"REDIS_URL": redis_url, "API_PORT": str(port), "KAFKA_CONSUMER_GROUP": unique}
    api = subprocess.Popen([sys.executable, "-m", "api"], env=env, cwd=Path(__file__).parents[3])
    try:

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/top-content", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(answers, timeout=60, message="the API to answer")
        api.send_signal(signal.SIGTERM)
        assert api.wait(5) == 0
    finally:
        api.kill()
        api.wait()
