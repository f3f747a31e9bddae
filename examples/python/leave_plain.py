"""Gives answers up, with nats-py alone: one by leaving its inbox, another with a word to the fleet.

python leave_plain.py MODEL PROMPT
"""

import asyncio
import json
import secrets
import sys

import fleet

LIMIT_S = 60


async def main(model: str, prompt: str) -> None:
    nc = await fleet.connect()
    body = json.dumps({"model": model, "prompt": prompt, "stream": True, "deadline_s": LIMIT_S}).encode()

    inbox = nc.new_inbox()
    chunks = await nc.subscribe(inbox)
    await nc.publish(fleet.on("generate"), body, reply=inbox)
    for _ in range(2):
        fleet.check(await chunks.next_msg(timeout=LIMIT_S))
    await chunks.unsubscribe()  # the node notices at its next token
    print("left    : after 2 chunks", flush=True)

    inbox, request_id, secret = nc.new_inbox(), secrets.token_hex(8), secrets.token_hex(8)
    chunks = await nc.subscribe(inbox)
    headers = {"Sollol-Request-Id": request_id, "Sollol-Cancel-Secret": secret}
    await nc.publish(fleet.on("generate"), body, reply=inbox, headers=headers)
    fleet.check(await chunks.next_msg(timeout=LIMIT_S))
    cancel = {"request_id": request_id, "secret": secret}
    await nc.publish(fleet.on("cancel"), json.dumps(cancel).encode())
    code = None
    while (msg := await chunks.next_msg(timeout=LIMIT_S)).data:
        code = (msg.headers or {}).get("Nats-Service-Error-Code")
    print("cancel  :", code)
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
