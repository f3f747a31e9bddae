"""Submits durable jobs, follows them and fetches their answers with the SDK.

python jobs_sdk.py MODEL PROMPT [COUNT]
"""

import asyncio
import sys

from fleet_sdk import settings

from sollol_bus import Batch, Client, SollolError, make_job


async def main(model: str, prompt: str, count: int = 3) -> None:
    async with Client(settings()) as client:
        job_id = await client.generate_async(model, prompt, priority="high")
        print("stored  :", job_id)
        answer = await client.wait_for_task(job_id, timeout_s=60)
        print("answer  :", answer.text.strip())
        print("where   :", answer.status.node_id, "after", answer.status.tries, "tries")

        jobs = [make_job({"model": model, "prompt": prompt}) for _ in range(count - 1)]
        async for _, one in Batch(client.jobs, f"batch-{job_id}").answers(enumerate(jobs)):
            print("answer  :", one.text.strip())


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:3], *map(int, sys.argv[3:4])))
    except SollolError as error:
        sys.exit(f"{error.body.http_status}: {error}")
