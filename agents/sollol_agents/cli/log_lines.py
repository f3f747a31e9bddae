"""Logging of every command: readable lines on a terminal, JSON lines otherwise, always on stderr."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Literal, TextIO

import msgspec
from msgspec import Meta

from sollol_agents.cli.repeats import Count, Repeats
from sollol_bus.observe import request_log
from sollol_bus.observe.harmless import in_line, in_text
from sollol_schemas.instants import instant

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
REPEATED = "repeated"
"""The field of a line that stands for so many of its kind."""
_TEXT_MAX = 4000
"""Characters of one text in a line: what strangers chose is no longer."""
_EACH = (request_log.REQUESTS, request_log.PROMPTS)
_LEAST_WIDTH = 40
_INNER = frozenset(
    {
        "actor_running",
        "actor_stopped",
        "bucket_away",
        "bus_cluster_changed",
        "effect_lost",
        "ends_said_again",
        "learned_record",
        "learned_restore",
        "learned_save",
        "node_claimed",
        "node_draining",
        "office_left",
        "office_lost",
        "office_taken",
        "port_moved",
        "pull_retry",
        "pull_silent",
        "pull_status",
        "question_unanswered",
        "recorder_migrated",
        "recorder_prune",
        "rest_read",
        "server_start",
        "stream_update",
    }
)
"""Actions of the machinery, or told otherwise: for programs that read the log, and at `debug`, not for onlookers."""
_OF_THE_SERVER = "sollol_bus.transport.connection"
"""The logger of what the NATS server says."""
_REFUSED_QUESTIONS = ("permissions violation for publish to", 'permissions violation for subscription to "_inbox')
"""What the server says of a question that may not be asked, and of the inbox for its answer."""
_ENCODER = msgspec.json.Encoder(enc_hook=repr)


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severity that is logged.")
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json"], Meta(description="Form of a log line; auto: text on a terminal, else JSON.")
    ] = "auto"
    requests: Annotated[bool, Meta(description="One line for each decision and each outcome.")] = True
    prompts: Annotated[
        bool, Meta(description="Also the text of requests, up to 2000 bytes of each; never logged otherwise.")
    ] = False


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and whatever was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, object] = {
            "at": instant(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": in_line(record.getMessage(), limit=_TEXT_MAX),
        }
        line |= {k: _bounded(v) for k, v in record.__dict__.items() if k not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line).decode()


class PlainLines(logging.Formatter):
    """Time, level when it matters, message; for whoever looks for a fault, milliseconds and the logger too.

    Args:
        is_exact: Whether somebody looks for a fault.
        width: Tells how many columns there are; None: any number, and each record is one line.
    """

    def __init__(self, *, is_exact: bool = True, width: Callable[[], int] | None = None) -> None:
        super().__init__()
        self.is_exact = is_exact
        self._width = width

    def format(self, record: logging.LogRecord) -> str:
        """The record as one readable line, with the traceback below when there is one."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")
        name = record.name.removeprefix("sollol_agents.").removeprefix("sollol_")
        head = f"{at[:-3]} {name:<22} " if self.is_exact else f"{at[:-7]}  "
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        times = record.__dict__.get(REPEATED)
        again = f" ({times} times within a minute)" if times else ""
        text = f"{head}{level}{in_line(record.getMessage(), limit=_TEXT_MAX)}{again}"
        if self._width is not None:
            text = self._folded(text, max(_LEAST_WIDTH, self._width()), " " * len(head))
        return f"{text}\n{in_text(self.formatException(record.exc_info))}" if record.exc_info else text

    @staticmethod
    def _folded(text: str, width: int, indent: str) -> str:
        """The text in lines that end between two words."""
        lines = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        return "\n".join(lines)


def _bounded(value: object) -> object:
    return in_line(value, limit=_TEXT_MAX) if isinstance(value, str) else value


class SparingHandler(logging.StreamHandler[TextIO]):
    """Writes lines, of those that come again and again the first and then how often they came.

    Lines about requests have a switch of their own and are all written; so is everything below `info`.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._repeats: Repeats[logging.LogRecord] = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record, unless it is one of many."""
        now = self._clock()
        for count in self._repeats.ended(now):
            self._tell(count)
        event = (record.name, getattr(record, "action", record.msg))
        if record.levelno < logging.INFO or record.name in _EACH or self._repeats.is_shown(event, record, now):
            super().emit(record)

    def close(self) -> None:
        """Writes what was only counted."""
        for count in self._repeats.rest():
            self._tell(count)
        super().close()

    def _tell(self, count: Count[logging.LogRecord]) -> None:
        count.line.__dict__[REPEATED] = count.times
        super().emit(count.line)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record of the event loop tells anything: this remark comes with every TLS connection that ends."""
    return not str(record.msg).startswith("returning true from eof_received()")


def is_for_people(record: logging.LogRecord) -> bool:
    """Whether somebody who looks on understands a line: what warns, and what happened to nodes, requests, members."""
    return record.levelno > logging.INFO or getattr(record, "action", "") not in _INNER


@contextlib.contextmanager
def only_trouble() -> Iterator[None]:
    """Lets nothing but warnings through where a person is about to be told the rest in one piece."""
    handlers = logging.getLogger().handlers
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        if isinstance(handler.formatter, PlainLines) and not handler.formatter.is_exact:
            handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@contextlib.contextmanager
def refusals_told_by_errors() -> Iterator[None]:
    """Leaves out that the server refuses what a command asks: the error that it ends with says so. Not at `debug`."""
    logger = logging.getLogger(_OF_THE_SERVER)
    logger.addFilter(_is_no_refused_question)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_refused_question)


def _is_no_refused_question(record: logging.LogRecord) -> bool:
    text = record.getMessage().lower()
    is_refused = any(part in text for part in _REFUSED_QUESTIONS)
    return not is_refused or logging.getLogger().level <= logging.DEBUG


def set_up(config: LogConfig) -> None:
    """Sends all logging to stderr in the form that was chosen."""
    is_seen = sys.stderr.isatty()
    is_text = config.format == "text" or (config.format == "auto" and is_seen)
    is_exact = config.level == "debug"
    handler = SparingHandler(sys.stderr)
    width = (lambda: shutil.get_terminal_size().columns) if is_seen and not is_exact else None
    handler.setFormatter(PlainLines(is_exact=is_exact, width=width) if is_text else JsonLines())
    if is_text and not is_exact:
        handler.addFilter(is_for_people)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    request_log.set_up(requests=config.requests, prompts=config.prompts)
    logging.getLogger("asyncio").addFilter(_is_news)
    if config.level != "debug":
        # one line for each HTTP call to an engine would drown everything else
        for noisy in ("httpx", "httpcore", "asyncio", "aiosqlite"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
