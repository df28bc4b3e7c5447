"""Prints the events of a stream as lines of JSON, read with httpx-sse and resumed by hand.

    read_httpx_sse.py URL TOKEN
"""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse


def main(url: str, token: str) -> None:
    last_id = ""
    with httpx.Client(timeout=httpx.Timeout(60, read=None), trust_env=False) as client:
        while True:
            headers = {"Authorization": f"Bearer {token}"}
            if last_id:
                headers["Last-Event-ID"] = last_id
            try:
                with connect_sse(client, "GET", url, headers=headers) as source:
                    source.response.raise_for_status()
                    for event in source.iter_sse():
                        last_id = event.id
                        print(json.dumps({"id": event.id, "type": event.event, "data": event.data}), flush=True)
            except httpx.TransportError:
                time.sleep(0.02)


main(*sys.argv[1:])
