"""The `anynet` command: finds the sub-command's module in anynet_dist/commands, and only then imports it.

A command's module has `configure(parser)` and `run(args)`; the first line of its docstring is its help.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NoReturn

from anynet_dist import commands
from anynet_dist.system import distributed
from anynet_dist.system.errors import LostRankError, StoppedEarly, UserError, nearest_name, unknown_name
from anynet_dist.system.failures import note_failure
from anynet_dist.system.install import own_version
from anynet_dist.system.json_lines import json_line, json_wanted
from anynet_dist.system.limits import names_open_files, raise_open_files, refusal, too_many_open_files
from anynet_dist.system.redaction import redact
from anynet_dist.system.threads import limit_spinning

DESCRIPTION = (
    "Train image classifiers from the AnyNet design space on a CPU, one GPU, many GPUs or a cluster."
)
# Other ranks hold errors back this long: the same error ends rank 0, upon which the launcher stops them.
# So long do those left over by a rank that is gone wait, too: the launcher, which looks at its processes now
# and then, takes the first that it finds ended for the cause.
OTHER_RANKS_WAIT_S = 5.0


class Parser(argparse.ArgumentParser):
    """Raises UserError, names the nearest option, and leaves a config's overrides in `args.overrides`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see '{self.prog} --help')")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As usual, but what is unknown is a config's override or refused."""
        parsed, unknown = super().parse_known_args(self._joined(args), namespace)
        if hasattr(parsed, "overrides"):
            parsed.overrides = [*parsed.overrides, *unknown]
        elif unknown:
            nearest = nearest_name(unknown[0].partition("=")[0], self._option_string_actions)
            hint = f"; did you mean '{nearest}'?" if nearest else ""
            self.error(f"unexpected argument '{unknown[0]}'{hint}")
        return parsed, []

    def _joined(self, words: Sequence[str] | None) -> list[str]:
        """`--sbatch --x` as `--sbatch=--x`, because argparse takes no option as another one's value."""
        joined: list[str] = []
        for word in sys.argv[1:] if words is None else words:
            if joined and joined[-1] in (self.get_default("takes_options") or ()):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def format_help(self) -> str:
        """The usual help, and the config's options where the command takes them."""
        if self.get_default("overrides") is None:
            return super().format_help()
        from anynet_dist.config.arguments import config_help

        return f"{super().format_help()}\n{config_help()}"


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python does, without credentials."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def run() -> int:
    """Run this process's command line and return the exit code; nothing but it can be this process's end.

    One rank of several ends without tearing Python down: a thread of gloo that drops a tensor meanwhile
    would abort the process, with a run that is done (pytorch issue 190489).
    """
    sys.excepthook = _print_traceback
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks must end no command
            stream.reconfigure(errors="backslashreplace")
    raise_open_files()
    exit_codes: list[int] = []
    if distributed.world_size() > 1:
        atexit.register(_end_at_once, exit_codes)  # as the first of all, it is called as the last
    exit_codes.append(main())
    return exit_codes[0]


def _end_at_once(exit_codes: list[int]) -> None:
    if exit_codes:  # otherwise Python shows its own error
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_codes[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's) and return the exit code.

    A launcher takes the exit code 75 of a run that saved and stopped for a failure; a script that looks for
    the run's `resume_me` instead sets another one in ANYNET_STOPPED_EXIT_CODE.
    """
    limit_spinning()
    try:
        _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except UserError as error:
        if not isinstance(error, LostRankError):  # the effect of another rank's failure
            note_failure(error, error.exit_code, with_traceback=False)
        _print_error(error)
        return error.exit_code
    except StoppedEarly as stopped:
        if distributed.is_main():
            print(_shown("warning", str(stopped)))  # noqa: T201
        asked = os.environ.get("ANYNET_STOPPED_EXIT_CODE", "")
        return int(asked) if distributed.is_number(asked) else stopped.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has stopped, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a disk that is full, a folder that cannot be written, a device that is gone
        note_failure(error, UserError.exit_code, with_traceback=True)
        _print_error(refusal(error))
        return UserError.exit_code
    except SystemExit as ended:
        if isinstance(ended.code, int) and ended.code:
            note_failure(ended, ended.code, with_traceback=True)
        raise
    except Exception as error:
        note_failure(error, 1, with_traceback=True)
        if not names_open_files(error):
            raise
        _print_error(UserError(too_many_open_files()))
        return UserError.exit_code
    return 0


def _dispatch(argv: list[str]) -> None:
    if argv and argv[0] == "help":
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
    elif argv[0] == "--version":
        sys.stdout.write(f"anynet {own_version()}\n")
    elif argv[0] not in commands.command_names():
        raise unknown_name("command", argv[0], commands.command_names())
    else:
        module = importlib.import_module(commands.module_name(argv[0]))
        parser = Parser(prog=f"anynet {argv[0]}", description=module.__doc__)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        module.configure(parser)
        module.run(parser.parse_args(argv[1:]))


def _overview() -> str:
    """The help of `anynet` itself, the commands by what they are for."""
    lines = ["usage: anynet COMMAND ...", "", DESCRIPTION]
    for title, names in commands.grouped().items():
        lines += ["", f"{title}:", *(f"  {name:11} {commands.summary(name)}" for name in names)]
    return "\n".join([*lines, "", "'anynet help COMMAND' explains each one.", ""])


def _print_error(error: UserError) -> None:
    rank = distributed.rank()
    lost = isinstance(error, LostRankError)
    if rank != 0 and not lost:
        _await_the_launcher()
    name = f"anynet [rank {rank}]" if rank else "anynet"
    lines = [str(error)] if json_wanted() else [f"{name}: error: {line}" for line in str(error).splitlines()]
    for line in lines:
        print(_shown("error", line), file=sys.stderr, flush=True)  # noqa: T201
    if lost:
        from torch.distributed import is_torchelastic_launched

        if is_torchelastic_launched():
            _await_the_launcher()


def _shown(level: str, text: str) -> str:
    return json_line(level, text) if json_wanted() else text


def _await_the_launcher() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a trainer may have taken it over
    time.sleep(OTHER_RANKS_WAIT_S)
