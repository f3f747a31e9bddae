"""Asks, streams and watches with the client of SOLLOL Bus.

python ask_sdk.py MODEL PROMPT [SECONDS]
"""

import asyncio
import sys

from fleet_sdk import settings

from sollol_bus import Client, Routing, SollolError


async def watch(client: Client, made: asyncio.Queue) -> None:  # not for a client among members
    async for event in client.watch_decisions():
        made.put_nowait(event.decision)


async def main(model: str, prompt: str, limit_s: float = 60) -> None:
    async with Client(settings()) as client, asyncio.TaskGroup() as group:
        made = asyncio.Queue()
        watching = None if settings().creds_file else group.create_task(watch(client, made))

        answer = await client.generate(model, prompt, routing=Routing(deadline_s=limit_s))
        print("whole   :", answer.text.strip())
        print("where   :", answer.decision.node_id, "in", answer.figures.actual_s, "s")

        print("stream  :", end="", flush=True)
        async with client.generate_stream(model, prompt, routing=Routing(priority=8, deadline_s=limit_s)) as stream:
            async for chunk in stream:  # leaving this loop early cancels the request
                print(chunk.text, end="", flush=True)
        print()

        asked = {one.request_id: one.decision for one in (answer, stream.answer)}
        while asked:
            decision = await asyncio.wait_for(made.get(), 10) if watching else next(iter(asked.values()))
            if asked.pop(decision.request_id, None):
                print("decision:", decision.request_id, "on", decision.node_id, "because", decision.reason)
        if watching:
            watching.cancel()


if __name__ == "__main__":
    failed = ""
    try:
        asyncio.run(main(*sys.argv[1:3], *map(float, sys.argv[3:4])))
    except* SollolError as group:
        failed = "\n".join(f"{error.body.http_status}: {error}" for error in group.exceptions)
    sys.exit(failed or 0)
