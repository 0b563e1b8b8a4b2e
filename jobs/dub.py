"""Dub every title of a manifest on the cluster this job runs on.

ray job submit --working-dir . -- python jobs/dub.py s3://in/manifest.jsonl --output s3://out/
"""

from __future__ import annotations

import sys

from talklip_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["dub", "run"]
    sys.exit(main())
