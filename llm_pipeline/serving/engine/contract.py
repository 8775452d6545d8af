"""The contract that every engine behind the gateway must pass, asked over HTTP of any OpenAI-compatible address.

python -m llm_pipeline.serving.engine.contract http://127.0.0.1:9000 --model NAME [--case NAME ...] [--json]

Each case (contract_cases.py) is a way in which some engine has failed. An optional feature may be refused (a 4xx with OpenAI's error), but
never ignored. Exit code 0 when every case passes or is refused, 1 otherwise. Imports nothing of this project but its cases.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import aiohttp

from llm_pipeline.serving.engine.contract_cases import CASES, Broken, Refused, Subject

SECONDS = 120.0
"""Longest time of one case."""


@dataclass(frozen=True)
class Verdict:
    case: str
    status: Literal["passed", "refused", "failed"]
    detail: str = ""


async def check(url: str, model: str | None = None, key: str | None = None, only: Sequence[str] = ()) -> list[Verdict]:
    """Run the cases in order, one after another."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        subject = Subject(session, url.rstrip("/").removesuffix("/v1"), model)
        return [await _verdict(name, subject) for name in only or CASES]


async def _verdict(name: str, subject: Subject) -> Verdict:
    try:
        async with asyncio.timeout(SECONDS):
            await CASES[name](subject)
    except Refused as refusal:
        return Verdict(name, "refused", str(refusal))
    except Broken as broken:
        return Verdict(name, "failed", str(broken))
    except TimeoutError:
        return Verdict(name, "failed", f"no answer within {SECONDS:g} s")
    except (aiohttp.ClientError, ValueError, KeyError, TypeError, IndexError) as error:
        return Verdict(name, "failed", f"{type(error).__name__}: {error}"[:200])
    return Verdict(name, "passed")


def table(verdicts: Sequence[Verdict]) -> str:
    width = max(len(verdict.case) for verdict in verdicts)
    lines = [f"{verdict.status:8}{verdict.case:{width + 2}}{verdict.detail}".rstrip() for verdict in verdicts]
    failed = sum(verdict.status == "failed" for verdict in verdicts)
    return "\n".join([*lines, f"{len(verdicts) - failed} of {len(verdicts)} cases hold"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Check an OpenAI-compatible engine against the contract of the gateway.")
    parser.add_argument("url", help="such as http://127.0.0.1:9000")
    parser.add_argument("--model", help="the model's name in requests; default: the first of /v1/models")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--case", action="append", choices=list(CASES), default=[], help="only this case; may be repeated")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    verdicts = asyncio.run(check(options.url, options.model, options.key, options.case))
    print(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) if options.as_json else table(verdicts))
    sys.exit(1 if any(verdict.status == "failed" for verdict in verdicts) else 0)


if __name__ == "__main__":
    main()
