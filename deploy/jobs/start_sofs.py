"""A Ray job that starts SOFS in the Ray cluster that runs the job, or what is missing of it.

    ray job submit --working-dir deploy/jobs -- \\
        /opt/sofs/bin/python start_sofs.py --root /srv/sofs --run-dir /var/lib/sofs

Arguments are those of `sofs up` (`--nodes`, `--port`, `--dns-name`, ...). The interpreter is named
with its whole path: a job's shell has the PATH of Ray's agent, not yours. The job ends when SOFS
serves; the parts are detached actors and stay, until `sofs down --run-dir /var/lib/sofs`.
"""

from __future__ import annotations

import sys

from sofs.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["up", "--address", "auto", *sys.argv[1:]]))
