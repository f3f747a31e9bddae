"""Asks, streams and watches with nats-py alone: everything a caller needs to know about the protocol.

python plain.py MODEL PROMPT
"""

import asyncio
import json
import os
import sys

import nats
import nats.aio.msg


def check(msg: nats.aio.msg.Msg) -> None:
    headers = msg.headers or {}
    if "Nats-Service-Error-Code" in headers:
        sys.exit(f"{headers['Nats-Service-Error-Code']}: {headers.get('Nats-Service-Error')}")
    if headers.get("Status") == "503":
        sys.exit("nobody listens: is `sollol up` running?")


async def main(model: str, prompt: str) -> None:
    nc = await nats.connect(os.environ.get("SOLLOL_NATS", "nats://127.0.0.1:4222"))
    decisions = await nc.subscribe("sollol.v1.events.routing.*")
    await nc.flush()

    body = {"model": model, "prompt": prompt}
    whole = await nc.request("sollol.v1.generate", json.dumps(body).encode(), timeout=60)
    check(whole)
    print("whole   :", json.loads(whole.data)["response"].strip())
    print("where   :", json.loads(whole.headers["Sollol-Decision"])["node_id"])

    inbox = nc.new_inbox()
    chunks = await nc.subscribe(inbox)
    await nc.publish("sollol.v1.generate", json.dumps({**body, "stream": True, "priority": 8}).encode(), reply=inbox)
    print("stream  :", end="", flush=True)
    count = 0
    while True:
        msg = await chunks.next_msg(timeout=60)  # a request may be lost with a server that stops
        check(msg)
        if not msg.data:  # the empty message ends the stream
            break
        print(json.loads(msg.data)["response"], end="", flush=True)
        count += 1
    await chunks.unsubscribe()
    print()
    if msg.headers["Sollol-Chunks"] != str(count):
        sys.exit("pieces of the answer were lost on the way")

    for _ in range(2):
        made = json.loads((await decisions.next_msg(timeout=10)).data)["decision"]
        print("decision:", made["request_id"], "on", made["node_id"], "because", made["reason"])
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
