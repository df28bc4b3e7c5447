"""Prints the events of a stream as lines of JSON, read with sseclient-py and resumed by hand.

    read_sseclient.py URL TOKEN
"""

import json
import sys
import time

import requests
from sseclient import SSEClient


def main(url: str, token: str) -> None:
    last_id = ""
    while True:
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        try:
            with requests.get(url, headers=headers, stream=True) as response:
                response.raise_for_status()
                for event in SSEClient(response).events():
                    last_id = event.id
                    print(json.dumps({"id": event.id, "type": event.event, "data": event.data}), flush=True)
        except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError):
            time.sleep(0.02)


main(*sys.argv[1:])
