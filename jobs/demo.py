"""The demonstration: a small synthetic catalog, dubbed from a real S3 server back to it, and a page that shows it.

    python -m jobs.demo                                    # make demo
    python -m jobs.demo --video talk.mp4 --audio fr.wav    # make demo VIDEO=talk.mp4 AUDIO=fr.wav

Exit codes are those of ``talklip``: 0 all dubbed, 3 some not, 2 it could not start.
"""

import sys

if __name__ == "__main__":
    # Not above: the processes that render the catalog import this file too, and need none of what it takes.
    from jobs.demonstration import main

    sys.exit(main())
