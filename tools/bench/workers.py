"""Asking a worker: a process that answers each line of JSON with another."""

import json


class Failure(Exception):
    """What a program could not do, in its own words."""


def ask(process, request, ended="the worker ended"):
    """The answer to a request; `ended` begins the words for a worker that is gone."""
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = b""
    if not line:
        raise Failure(f"{ended} with status {process.wait()}")
    answer = json.loads(line)
    if "error" in answer:
        raise Failure(answer["error"])
    return answer
