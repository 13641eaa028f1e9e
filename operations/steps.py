"""What provision does, one thing at a time: look, and make what is missing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import typer


@dataclass(frozen=True)
class Step:
    """One thing that must be there.

    missing  what is missing or wrong about it, as words; None: it is there
    make     makes it, and answers nothing; None: a person must
    """

    name: str
    missing: Callable[[], str | None]
    make: Callable[[], None] | None


def run(steps: Iterable[Step], check: bool) -> list[str]:
    """Go through the steps in order, and say of each whether it was there. Answers what is still missing.

    check  only look"""
    missing: list[str] = []
    for step in steps:
        problem = step.missing()
        if problem is None:
            typer.echo(f"there     {step.name}")
        elif check or step.make is None:
            typer.echo(f"MISSING   {step.name}: {problem}")
            missing.append(step.name)
        else:
            step.make()
            typer.echo(f"created   {step.name}")
    return missing
