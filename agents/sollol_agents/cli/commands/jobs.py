"""`sollol jobs`: durable jobs from the terminal."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import msgspec

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.commands.jobs_views import show_answer, show_jobs, show_status
from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.commands.requesting import Model, Options, Prompt, body_fields, read_prompt
from sollol_agents.cli.declared import Commands, Parameter
from sollol_agents.cli.exit_codes import FAILED, OK
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import counted, is_terminal, note, say, show_json
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.sections import routing_section
from sollol_bus.errors import ConfigError, Conflict, RequestTimedOut
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import JobAnswer, make_job
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.context import RequestKind
from sollol_schemas.jobs import TERMINAL, JobListReply, JobState
from sollol_schemas.routing import Routing

jobs = Commands(name="jobs", help="Submit, follow and steer durable jobs.")

_LETTERS_MAX = 1000

JobName = Annotated[str, Parameter(help="The job's id.")]
Limit = Annotated[int, Parameter(help="Jobs to show at most.")]
States = Annotated[
    list[str] | None,
    Parameter(name="--state", help=f"Only jobs in this state, repeatable: {', '.join(JobState)}."),
]
Timeout = Annotated[float | None, Parameter(help="Seconds to wait; without it as long as it takes.")]


@jobs.command("submit")
@of_commands.for_clients(routing=routing_section())
def submit(
    model: Model,
    prompt: Prompt = None,
    *,
    routing: Routing,
    bus: BusConfig,
    log: LogConfig,
    id_: Annotated[
        str | None, Parameter(name="--id", help="An id of your choice: submitting it again is harmless.")
    ] = None,
    embed: Annotated[
        bool, Parameter(has_negative=False, show_default=False, show=False, help="Embed the text, not answer it.")
    ] = False,
    delay_s: Annotated[float, Parameter(help="Seconds before which it does not start.")] = 0.0,
    not_before: Annotated[
        str | None, Parameter(show=False, help="Instant before which it does not start: 2026-01-31T18:00:00Z.")
    ] = None,
    max_tries: Annotated[int | None, Parameter(show=False, help="Tries before it is dead.")] = None,
    callback_subject: Annotated[
        str, Parameter(show=False, help="Subject that gets the result; below `callbacks.`.")
    ] = "",
    callback_url: Annotated[
        str, Parameter(show=False, help="Address that gets the result by POST, on a permitted host.")
    ] = "",
    option: Options = None,
    wait: Annotated[
        bool, Parameter(has_negative=False, show_default=False, help="Wait for the answer and print it.")
    ] = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Stores a job and prints its id."""
    log_lines.set_up(log)
    text = read_prompt(prompt)
    fields = body_fields(system=None, format_=None, option=option, keep_alive=None)
    body = {"model": model, ("input" if embed else "prompt"): text, **fields}
    job = make_job(
        body,
        kind=RequestKind.EMBED if embed else RequestKind.GENERATE,
        not_before=not_before,
        deadline_s=routing.deadline_s,
        max_tries=max_tries,
        callback_subject=callback_subject,
        callback_url=callback_url,
        routing=msgspec.structs.replace(routing, deadline_s=None),
    )

    async def main() -> int:
        async with running.connected(bus) as client:
            job_id = await client.jobs.submit(job, job_id=id_, priority=routing.priority, delay_s=delay_s)
            if not wait:
                show_json({"job_id": job_id}) if json_ else say(job_id)
                if is_terminal() and not json_:
                    note(f"`sollol jobs wait {job_id}` waits for its answer")
                return 0
            note(f"job {job_id}")
            return _told(await client.jobs.end(job_id), json_=json_)

    return running.run(main)


@jobs.command("list")
@of_commands.for_clients()
def list_jobs(
    *,
    bus: BusConfig,
    log: LogConfig,
    state: States = None,
    limit: Limit = 50,
    watch: of_commands.WatchFlag = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Lists the latest jobs, and how many wait."""

    async def ask(client: Client) -> JobListReply:
        return await client.jobs.latest(*(state or ()), limit=limit)

    return listing(bus, log, ask, show_jobs, json_=json_, is_watched=watch)


@jobs.command("status")
@of_commands.for_clients()
def status(job: JobName, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Shows what is known about a job."""
    return listing(bus, log, lambda c: c.jobs.get(job), show_status, json_=json_)


@jobs.command("wait")
@of_commands.for_clients()
def wait(
    job: JobName, *, bus: BusConfig, log: LogConfig, timeout_s: Timeout = None, json_: of_commands.JsonFlag = False
) -> int:
    """Waits until a job has ended and prints its answer."""
    return _answer(bus, log, job, json_=json_, is_waiting=True, timeout_s=timeout_s)


@jobs.command("result")
@of_commands.for_clients()
def result(job: JobName, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Prints the answer of a job that is done."""
    return _answer(bus, log, job, json_=json_, is_waiting=False)


@jobs.command("cancel")
@of_commands.for_clients()
def cancel(job: JobName, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Cancels a job, whether it waits or runs."""
    return listing(bus, log, lambda c: c.jobs.cancel(job), show_status, json_=json_)


@jobs.command("dead")
@of_commands.for_clients()
def dead(*, bus: BusConfig, log: LogConfig, limit: Limit = 50, json_: of_commands.JsonFlag = False) -> int:
    """Lists the jobs that ended without an answer, and why."""
    return listing(bus, log, lambda c: c.jobs.dead(limit), show_jobs, json_=json_)


@jobs.command("retry")
@of_commands.for_clients()
def retry(
    *job_ids: Annotated[str, Parameter(help="Ids of dead or failed jobs.")],
    bus: BusConfig,
    log: LogConfig,
    every: Annotated[
        bool, Parameter(name="--all", has_negative=False, show_default=False, help="Every dead or failed job.")
    ] = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Runs dead or failed jobs again, under their ids."""
    if bool(job_ids) == every:
        raise ConfigError("name the jobs to run again, or give --all")

    async def again(client: Client) -> list[str]:
        if job_ids:
            return [await client.jobs.retry(name) for name in job_ids]
        done: list[str] = []
        for name in [job.job_id for job in (await client.jobs.dead(_LETTERS_MAX)).jobs]:
            with suppress(Conflict):  # somebody else ran it again just now
                done.append(await client.jobs.retry(name))
        return done

    def show(names: list[str]) -> None:
        for name in names:
            say(name)

    return listing(bus, log, again, show, json_=json_)


@jobs.command("purge")
@of_commands.for_clients()
def purge(
    job: Annotated[str | None, Parameter(help="Only this job.")] = None,
    *,
    bus: BusConfig,
    log: LogConfig,
    state: States = None,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Forgets jobs that have ended, with their results."""

    async def ask(client: Client) -> dict[str, Any]:
        return {"purged": await client.jobs.purge(*(state or ()), job_id=job)}

    return listing(bus, log, ask, lambda reply: say(f"{counted(reply['purged'], 'job')} forgotten"), json_=json_)


def _answer(
    bus: BusConfig, log: LogConfig, job_id: str, *, json_: bool, is_waiting: bool, timeout_s: float | None = None
) -> int:
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus) as client:
            if not is_waiting:
                return _told(await client.jobs.answer(job_id), json_=json_)
            try:
                answer = await client.jobs.end(job_id, timeout_s=timeout_s)
            except RequestTimedOut as error:
                note(f"sollol: {error}")
                return FAILED
            return _told(answer, json_=json_)

    return running.run(main)


def _told(answer: JobAnswer, *, json_: bool) -> int:
    """Prints how a job ended; anything but done is a failure."""
    is_answered = answer.state is JobState.DONE and answer.error is None
    if json_:
        show_json({"status": answer.status, "result": answer.result})
    elif is_answered:
        show_answer(answer)
    elif answer.state not in TERMINAL:
        note(f"sollol: job {answer.job_id} is {answer.state}; `sollol jobs wait` waits for it")
    elif answer.error is not None:
        raise answer.error
    return OK if is_answered else FAILED
