"""The page: one custom element that draws everything, and NiceGUI, which brings it to the browser and back.

NiceGUI keeps its application in module globals, so a process has one dashboard.
"""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path
from typing import Final

import msgspec
from fastapi import FastAPI, Request
from nicegui import ui
from nicegui.events import GenericEventArguments
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from sollol_agents.dashboard.access import COOKIE, Person, Sessions
from sollol_agents.dashboard.login import GuardedApp, Login
from sollol_agents.dashboard.operation_runner import OperationCall, OperationRunner
from sollol_agents.dashboard.operations import OperationContext
from sollol_agents.dashboard.pages import Page, Pages
from sollol_bus.parts import Spawn
from sollol_bus.version import VERSION
from sollol_schemas.acts import Operator

log = logging.getLogger(__name__)

WEB: Final = Path(__file__).parent / "web"
_HISTORY: Final = 50
"""Messages kept for a page whose connection broke for a moment."""
_RECONNECT_S: Final = 5.0


class Console(ui.element, component="web/console.js", esm={"sollol-dashboard": "web"}):
    """The element on the page; `apply` takes updates, `told` takes answers, and it emits `drawn`, `show` and `ask`."""

    def __init__(self, person: Person, *, can_log_out: bool) -> None:
        super().__init__()
        self._props["version"] = VERSION
        self._props["person"] = person.name
        self._props["may-operate"] = person.may_operate
        self._props["can-log-out"] = can_log_out


class Site:
    """The web application of one dashboard.

    Args:
        pages: Where open pages are kept.
        context: What operations work with.
        sessions: Who may come in.
        hosts: Host names that browsers may use.
        spawn: Starts a task that the actor owns.
    """

    def __init__(
        self, pages: Pages, context: OperationContext, sessions: Sessions, hosts: tuple[str, ...], spawn: Spawn
    ) -> None:
        self._pages = pages
        self._context = context
        self._sessions = sessions
        self._hosts = hosts
        self._spawn = spawn

    def application(self) -> ASGIApp:
        """The application to serve; to be made once in a process."""
        login = Login(self._sessions)
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.router.routes += [
            Route("/login", login.show),
            Route("/login", login.take, methods=["POST"]),
            Route("/logout", login.leave, methods=["POST"]),
            Route("/healthz", _healthy),
            Mount("/assets", StaticFiles(directory=WEB)),
        ]
        ui.run_with(
            app,
            root=self._page,
            title="SOLLOL",
            favicon=WEB / "icon.svg",
            dark=None,
            language="en-US",
            tailwind=False,
            binding_refresh_interval=None,
            reconnect_timeout=_RECONNECT_S,
            message_history_length=_HISTORY,
            show_welcome_message=False,
        )
        return GuardedApp(app, self._sessions, self._hosts)

    def _page(self, request: Request) -> None:
        """Somebody opens the page."""
        session = request.cookies.get(COOKIE, "")
        person = self._sessions.person(session, time.monotonic())
        ui.add_head_html('<link rel="stylesheet" href="/assets/style.css"><script src="/assets/theme.js"></script>')
        if person is None or self._pages.is_full:
            text = "Please log in again." if person is None else "Too many pages of this dashboard are open."
            ui.html(f'<main class="login"><p class="panel" role="alert">{text}</p></main>', sanitize=False)
            return
        console = Console(person, can_log_out=self._sessions.is_login_needed)
        client = ui.context.client

        def send(method: str, text: str) -> None:
            if not client.is_deleted:
                console.run_method(method, text)

        def person_now() -> Person | None:
            return self._sessions.person(session, time.monotonic())

        def may_operate() -> bool:
            now = person_now()
            return now is not None and now.may_operate

        def leave() -> None:
            if not client.is_deleted:
                client.run_javascript("location.reload()")

        page = Page(lambda text: send("apply", text), lambda: person_now() is not None, leave)
        runner = OperationRunner(
            msgspec.structs.replace(self._context, owner=person.owner),
            lambda text: send("told", text),
            may_operate,
            self._spawn,
            operator=_operator(person, request),
        )

        def on_ask(event: GenericEventArguments) -> None:
            try:
                runner.ask(msgspec.convert(event.args, OperationCall))
            except msgspec.ValidationError as error:
                log.info("a page asks in a strange way: %s", error, extra={"action": "ask_not_understood"})

        def on_show(event: GenericEventArguments) -> None:
            page.show(str(event.args))
            self._pages.add(page)

        console.on("drawn", lambda event: page.on_drawn(event.args))
        console.on("show", on_show)
        console.on("ask", on_ask)

        def close() -> None:
            self._pages.remove(page)
            runner.close()

        client.on_delete(close)


def _operator(person: Person, request: Request) -> Operator:
    return Operator(
        who=person.name, host=socket.gethostname(), address=request.client.host if request.client is not None else ""
    )


async def _healthy(_: Request) -> Response:
    return PlainTextResponse("ok")
