"""A process of a crash trial: `python -m bytewax.run ...`, against the Storage Write test server where it asks for it,
and with the protections switched off that a control run names.

    python -m tests.crashes.child [--without NAME ...] -- bytewax.run dataflows.engagement -r DIR -s 1 -b 0
"""

import os
import runpy
import sys
import warnings
from collections.abc import Sequence
from functools import partial

TEST_SERVER = "CRASH_TEST_SERVER"  # host:port of tests.fakes.bigquery_write, whose ledger replaces the one in SQL


def become(module: str, arguments: Sequence[str], without: Sequence[str] = ()) -> None:
    """Run the module as its command would: returns only where that does."""
    sys.orig_argv = [sys.executable, "-m", "tests.crashes.child", *_options(without), "--", module, *arguments]
    if (address := os.environ.get(TEST_SERVER)) and os.environ.get("SINKS") == "bigquery":
        _use_test_server(address)
    if without:
        from tests.crashes.without import PROTECTIONS

        for name in without:
            PROTECTIONS[name].switch_off()
    sys.argv = [module, *arguments]
    warnings.filterwarnings("ignore", message=".*found in sys.modules")  # forked: everything is imported already
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _options(without: Sequence[str]) -> list[str]:
    return [word for name in without for word in ("--without", name)]


def _use_test_server(address: str) -> None:
    """It has no SQL: registry and questions go to the ledger that it keeps. It loses answers: nobody waits 20 s."""
    from sinks import bigquery
    from tests.fakes.bigquery_write import Remote

    bigquery.BigQuerySink = partial(bigquery.BigQuerySink, ledger=Remote(address, "ledger"), ack_seconds=2.0)


def main(words: Sequence[str]) -> None:
    options, command = words[: words.index("--")], words[words.index("--") + 1 :]
    become(command[0], command[1:], options[1::2])


if __name__ == "__main__":
    main(sys.argv[1:])
