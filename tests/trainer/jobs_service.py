"""A service without gRPC: runs the jobs of a runs root until SIGTERM. Arguments: the runs root, and the setting."""

import asyncio
import json
import signal
import sys
from pathlib import Path

from trainer.jobs.changes import Changes
from trainer.jobs.devices import devices
from trainer.jobs.folders import STORE, locked_root
from trainer.jobs.runner import Runner
from trainer.jobs.setting import Setting
from trainer.jobs.store import Store
from trapline.errors import TraplineError


async def main():
    root, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    parallel = options.pop("parallel", 1)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    with locked_root(root):
        store = Store(root / STORE, Changes())
        runner = Runner(store, devices=devices(parallel, ()), setting=Setting(runs_root=root, **options))
        await runner.start()
        print("ready", flush=True)
        await stopping.wait()
        await runner.stop(5)
        await store.close()


try:
    asyncio.run(main())
except TraplineError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
