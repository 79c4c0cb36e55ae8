"""How a script's main ends when it runs in this process."""

from collections.abc import Callable

import pytest


def exit_code(main: Callable[[list[str]], int], *argv: object) -> int:
    """What the process would end with; argparse raises where other mistakes return."""
    try:
        return main([str(argument) for argument in argv])
    except SystemExit as ended:
        return ended.code


def refusal(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], *argv: object) -> str:
    """The message of a run that must end with exit code 2, without traceback, and without argparse's list of all flags."""
    capsys.readouterr()
    code = exit_code(main, *argv)
    message = capsys.readouterr().err
    assert code == 2 and "error: " in message and "Traceback" not in message
    return message[message.index("error: ") :]
