"""Stores durable jobs and collects their answers with nats-py alone.

python jobs_plain.py MODEL PROMPT [COUNT]
"""

import asyncio
import json
import secrets
import sys

import fleet
import nats.errors
from nats.aio.client import Client

ENDS = ("done", "failed", "dead", "cancelled")
LIMIT_S = 10
LOOK_S = 2


async def answer_of(nc: Client, job_id: str) -> tuple[dict, bytes]:
    """What is known about a job, and its answer once it has one; also long after it ended."""
    inbox = nc.new_inbox()
    parts = await nc.subscribe(inbox)
    question = {"job_id": job_id, "with_result": True}
    await nc.publish(fleet.on("jobs.get"), json.dumps(question).encode(), reply=inbox)
    status = json.loads(fleet.check(await parts.next_msg(timeout=LIMIT_S)).data)["status"]
    answer, count = b"", 1
    while not fleet.is_end(part := fleet.check(await parts.next_msg(timeout=LIMIT_S)), count):
        answer += part.data
        count += 1
    await parts.unsubscribe()
    return status, answer


async def main(model: str, prompt: str, count: int = 3) -> None:
    nc = await fleet.connect()
    events = await nc.subscribe(fleet.news_of_jobs())
    await nc.flush()

    batch = f"example-{secrets.token_hex(4)}"  # ids of your own: storing a job again is harmless
    waiting = {f"{batch}-{number}" for number in range(count)}
    for job_id in waiting:
        asked = {"job_id": job_id, "job": {"body": {"model": model, "prompt": prompt}}}
        await fleet.ask(nc, "jobs.enqueue", asked, LIMIT_S)
    print("stored  :", count)  # from here on they survive everything

    while waiting:
        try:
            *_, job_id, news = (await events.next_msg(timeout=LOOK_S)).subject.split(".")
            ended = {job_id} & waiting if news in ENDS else set()
        except nats.errors.TimeoutError:
            ended = set(waiting)  # what was said while we were away is still known
        for job_id in ended:
            status, answer = await answer_of(nc, job_id)
            if status["state"] in ENDS[1:]:
                sys.exit(f"{status['error']['code']}: {status['error']['message']}")
            if status["state"] == "done":
                waiting.remove(job_id)
                print("answer  :", json.loads(answer)["response"].strip())
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3], *map(int, sys.argv[3:4])))
