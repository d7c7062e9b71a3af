"""A job's process that trains nothing: writes a run, tells of it, waits while RUNS_ROOT/hold is there, succeeds.

With seed 13 it fails, with seed 17 it tells 500 progresses.
"""

import json
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
options = json.loads((folder / "order.json").read_text())["options"]
run = Path(options["out"])
(run / "plots").mkdir(parents=True, exist_ok=True)
(run / "checkpoint").mkdir(exist_ok=True)
(run / "model.onnx").write_bytes(b"model" * 400_000)
(run / "plots" / "curves.png").write_bytes(b"curves")
(run / "checkpoint" / "weights").write_bytes(b"weights")


def tell(**told: object) -> None:
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), **told}) + "\n")


tell(sentence="3 photos to train on")
for done in range(500 if options["seed"] == 17 else 3):
    tell(progress={"phase": "fine-tune", "done": str(done), "total": "500", "figures": f"loss {1 / (1 + done):.2f}"})
while (folder.parent / "hold").exists():
    time.sleep(0.01)
if options["seed"] == 13:
    tell(failed="the photos are all alike")
else:
    tell(succeeded={"result": "test accuracy 98 %", "evaluation": {"accuracy": 0.98, "imageCount": "50"}})
