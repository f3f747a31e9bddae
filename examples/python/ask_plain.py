"""Asks, streams and watches with nats-py alone: everything a caller needs to know about the protocol.

python plain.py MODEL PROMPT [SECONDS]
"""

import asyncio
import json
import sys

import fleet


async def main(model: str, prompt: str, limit_s: float = 60) -> None:
    nc = await fleet.connect()
    if fleet.HEARS_DECISIONS:
        decisions = await nc.subscribe("sollol.v1.events.routing.*")
        await nc.flush()

    # The fleet stops working on it when we stop waiting.
    body = {"model": model, "prompt": prompt, "deadline_s": limit_s}
    timeout = limit_s + fleet.PATIENCE_S
    whole = await fleet.ask(nc, "generate", body, timeout)
    where = json.loads(whole.headers["Sollol-Decision"])
    print("whole   :", json.loads(whole.data)["response"].strip())
    print("where   :", where["node_id"])
    asked = {where["request_id"]: where}

    inbox = nc.new_inbox()
    chunks = await nc.subscribe(inbox)
    body |= {"stream": True, "priority": 8}
    await nc.publish(fleet.on("generate"), json.dumps(body).encode(), reply=inbox)
    print("stream  :", end="", flush=True)
    count = 0
    while not fleet.is_end(msg := fleet.check(await chunks.next_msg(timeout=timeout)), count):
        if count == 0:
            where = json.loads(msg.headers["Sollol-Decision"])
            asked[where["request_id"]] = where
        print(json.loads(msg.data)["response"], end="", flush=True)
        count += 1
    await chunks.unsubscribe()
    print()

    while asked:
        if fleet.HEARS_DECISIONS:
            made = json.loads((await decisions.next_msg(timeout=10)).data)["decision"]
        else:
            made = next(iter(asked.values()))  # its answer told it, too
        if asked.pop(made["request_id"], None):
            print("decision:", made["request_id"], "on", made["node_id"], "because", made["reason"])
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3], *map(float, sys.argv[3:4])))
