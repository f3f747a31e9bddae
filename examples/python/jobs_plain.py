"""Submits a durable job, follows it and fetches its answer with nats-py alone.

python jobs_plain.py MODEL PROMPT
"""

import asyncio
import json
import os
import secrets
import sys

import nats


async def main(model: str, prompt: str) -> None:
    nc = await nats.connect(os.environ.get("SOLLOL_NATS", "nats://127.0.0.1:4222"))
    job_id = f"example-{secrets.token_hex(4)}"  # an id of your own: submitting it again is harmless
    events = await nc.subscribe(f"sollol.v1.events.job.{job_id}.*")

    job = {"body": {"model": model, "prompt": prompt}}
    ack = await nc.jetstream().publish(
        f"sollol.v1.jobs.submit.5.{job_id}", json.dumps(job).encode(), headers={"Nats-Msg-Id": job_id}
    )
    print("stored  :", job_id, "in", ack.stream)  # from here on it survives everything

    news = ""
    while news not in ("done", "failed", "dead", "cancelled"):
        news = json.loads((await events.next_msg(timeout=60)).data)["news"]
        print("news    :", news)

    inbox = nc.new_inbox()
    parts = await nc.subscribe(inbox)
    question = {"job_id": job_id, "with_result": True}
    await nc.publish("sollol.v1.jobs.get", json.dumps(question).encode(), reply=inbox)
    status = json.loads((await parts.next_msg(timeout=10)).data)["status"]
    answer = b""
    while (part := (await parts.next_msg(timeout=10)).data) != b"":  # the empty message is the end
        answer += part
    await nc.close()
    if news != "done":
        sys.exit(f"{status['error']['code']}: {status['error']['message']}")
    print("answer  :", json.loads(answer)["response"].strip())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
