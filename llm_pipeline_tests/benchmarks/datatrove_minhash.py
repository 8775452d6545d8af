"""MinHash deduplication by datatrove, for bench_dedup.py; runs in an interpreter that has datatrove and prints JSON.

    python datatrove_minhash.py CORPUS.parquet FOLDER stock|whitespace

`stock`: its defaults (English words by spaCy, 64-bit hashes, 14 buckets of 8); `whitespace`: words between spaces and 32-bit hashes.
"""

from __future__ import annotations

import json
import re
import struct
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.utils.hashing import HashConfig


class Spaces:
    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def peak_memory() -> float:
    """MB of this process; unlike `getrusage` without those of the process that started it."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1e3


def main(corpus: Path, folder: Path, words: str) -> None:
    config = MinhashConfig(n_grams=5, **({"hash_config": HashConfig(precision=32)} if words == "whitespace" else {}))
    signature = MinhashDedupSignature(f"{folder}/signatures", config=config)
    if words == "whitespace":
        signature.word_tokenizer = Spaces()
    reader = {"data_folder": str(corpus.parent), "glob_pattern": corpus.name}
    begun = time.process_time()
    steps = [
        (1, [ParquetReader(**reader), signature]),
        (config.num_buckets, [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)]),
        (1, [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/clusters", config=config, save_cluster_id=True)]),
        (1, [ParquetReader(**reader), MinhashDedupFilter(f"{folder}/clusters")]),
    ]
    for number, (tasks, pipeline) in enumerate(steps):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{folder}/logs/{number}").run()
    seconds = time.process_time() - begun
    members = list(struct.iter_unpack("<2I", Path(folder, "clusters", "000000.clusters").read_bytes()))
    peak = peak_memory()
    print(json.dumps({"seconds": seconds, "peak": peak, "members": members}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
