"""Gives answers up with the client of SOLLOL Bus: leaving an answer is all there is to it.

python leave_sdk.py MODEL PROMPT
"""

import asyncio
import sys

from fleet_sdk import settings

from sollol_bus import Client, SollolError


async def main(model: str, prompt: str) -> None:
    async with Client(settings()) as client:
        async with client.generate_stream(model, prompt) as stream:
            async for _ in stream:
                break
        print("left    : after the first chunk", flush=True)

        try:
            async with client.generate_stream(model, prompt) as stream:
                async for _ in stream:
                    stream.cancel()
        except SollolError as error:
            print("cancel  :", error.body.http_status)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:3]))
    except SollolError as error:
        sys.exit(f"{error.body.http_status}: {error}")
