"""Submits durable jobs, follows them and fetches their answers with the SDK.

python jobs_sdk.py MODEL PROMPT
"""

import asyncio
import os
import sys

from sollol_bus import Batch, Client, SollolError, make_job


async def main(model: str, prompt: str) -> None:
    async with Client(os.environ.get("SOLLOL_NATS", "nats://127.0.0.1:4222")) as client:
        job_id = await client.generate_async(model, prompt, priority="high")
        print("stored  :", job_id)
        answer = await client.wait_for_task(job_id, timeout_s=60)
        print("answer  :", answer.text.strip())
        print("where   :", answer.status.node_id, "after", answer.status.tries, "tries")

        jobs = [make_job({"model": model, "prompt": prompt}) for _ in range(3)]
        async for number, one in Batch(client.jobs, f"batch-{job_id}").answers(enumerate(jobs)):
            print("batch   :", number, one.text.strip())


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2]))
    except SollolError as error:
        sys.exit(f"{error.body.code}: {error}")
