"""Asks, streams and watches with the client of SOLLOL Bus.

python sdk.py MODEL PROMPT
"""

import asyncio
import os
import sys

from sollol_bus import Client, Routing, SollolError


async def watch(client: Client) -> None:
    async for event in client.watch_decisions():
        made = event.decision
        print("\ndecision:", made.request_id, "on", made.node_id, "because", made.reason)


async def main(model: str, prompt: str) -> None:
    async with Client(os.environ.get("SOLLOL_NATS", "nats://127.0.0.1:4222")) as client, asyncio.TaskGroup() as group:
        watching = group.create_task(watch(client))

        answer = await client.generate(model, prompt)
        print("whole   :", answer.text.strip())
        print("where   :", answer.decision.node_id, "in", answer.figures.actual_s, "s")

        print("stream  :", end="", flush=True)
        async with client.generate_stream(model, prompt, routing=Routing(priority=8)) as stream:
            async for chunk in stream:  # leaving this loop early cancels the request
                print(chunk.text, end="", flush=True)
        print()

        watching.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2]))
    except* SollolError as group:
        sys.exit("\n".join(f"{error.body.code}: {error}" for error in group.exceptions))
