#!/usr/bin/env bash
# Compile infra/requirements.lock from pyproject.toml. torch is pinned first and its accelerator packages are left out:
# pip takes from torch's own metadata what the chosen build needs.
set -euo pipefail
cd "$(dirname "$0")/.."
resolved=$(uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links --constraint <(echo 'torch==2.13.0'))
{
  echo "# Compiled from pyproject.toml by 'make lock'; torch stays first: it decides which accelerator packages come along."
  grep -E '^torch==' <<<"$resolved" | sed 's/+.*//'
  grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' <<<"$resolved"
} >infra/requirements.lock
