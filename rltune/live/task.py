"""What a job of the replay runs: a little work and sleep for so many seconds, and progress to its log. Standard library only.

``task.py SECONDS FOLDER [SLICES=SPEED,...]``: on a MIG slice of so many compute slices it goes by that speed. On SIGTERM it writes
to FOLDER how far it is and ends; begun with RLTUNE_RESUME=1 it goes on from there.
"""

import os
import signal
import sys
import time

STEP_S, TELL_S = 0.1, 0.5
MOST_S = 1.0
"""Of one step: a process that was stopped meanwhile has done nothing."""
OVER: list[bool] = []


def main(total_s: float, folder: str, speeds: str = "") -> None:
    signal.signal(signal.SIGTERM, lambda *_: OVER.append(True))
    path = os.path.join(folder, f"{os.environ['RLTUNE_JOB'].replace('/', '_')}.{os.environ.get('RLTUNE_RANK', '0')}")
    done = float(read(path)) if os.environ.get("RLTUNE_RESUME") == "1" else 0.0
    known = dict(x.split("=") for x in speeds.split(",") if x)
    speed = float(known.get(os.environ.get("RLTUNE_COMPUTE_SLICES", ""), 1.0))
    print(f"on {os.environ.get('RLTUNE_PROFILE')}, from {done:.1f} of {total_s:.1f} s", flush=True)
    last = told = time.monotonic()
    while done < total_s and not OVER:
        sum(range(2000))
        time.sleep(min(STEP_S, (total_s - done) / speed))
        now = time.monotonic()
        done, last = done + min(MOST_S, now - last) * speed, now
        if now - told >= TELL_S:
            told = now
            print(f"{min(100, 100 * done / total_s):.0f} %", flush=True)
    if done < total_s:
        with open(path + ".part", "w") as file:
            file.write(str(done))
        os.replace(path + ".part", path)
        print("saved", flush=True)
    else:
        print("100 %", flush=True)


def read(path: str) -> str:
    """How far an earlier run was; it may have been ended before it began to count."""
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return "0"


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
