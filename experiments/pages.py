"""First paint and interactions of the inspector on a month of Helios, in a real browser: experiments/results/pages.json.

    python -m rltune.simulate +trace=helios begin=2020-09-01 end=2020-10-01 policy=las nodes=100 oversized=drop \
      runtimes=unknown name=helios-las
    python experiments/pages.py runs/helios-las [runs/OTHER]

Needs Playwright and a Chromium (RLTUNE_CHROMIUM, else the system's). Times are of the page's own clock: from navigation to the
first paint and to the last of the first pictures; from an input to the picture that follows it (answer of the server, drawing).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from rltune.inspect.recorded import summary_of

VISITS, REPEATS = 7, 30
AIMS_MS = {"first paint": 2000, "interactions": 100}
OUT = Path(__file__).parent / "results" / "pages.json"
DRAWN = "body[data-lines][data-moments][data-pictures]"
# An input, then the milliseconds until the page has drawn what follows: all of `what` have counted up, and a frame has passed.
MEASURE = """async ([act, what]) => {
  const of = () => what.map((name) => document.body.dataset[name]);
  const before = of(), begun = performance.now();
  ({
    slide: () => {
      const slider = document.querySelector('#slider');
      slider.value = String(1000 + 8000 * Math.random());
      slider.dispatchEvent(new Event('input'));
    },
    next: () => document.querySelector('#on').click(),
    closer: () => document.querySelector('#closer').click(),
    wider: () => document.querySelector('#wider').click(),
    whole: () => document.querySelector('#whole').click(),
    why: () => {
      const waits = [...document.querySelectorAll('table')].find((t) => t.caption.textContent === 'Jobs that waited longest');
      const jobs = waits.querySelectorAll('button');
      jobs[Math.floor(Math.random() * jobs.length)].click();
    },
  }[act])();
  while (of().some((now, k) => now === before[k])) await new Promise((done) => setTimeout(done, 1));
  await new Promise(requestAnimationFrame);
  return performance.now() - begun;
}"""
ACTS = {
    "move the slider": ("slide", ["moments"]),
    "step to the next start": ("next", ["moments"]),
    "zoom in": ("closer", ["lines", "moments", "pictures"]),
    "zoom out": ("wider", ["lines", "moments", "pictures"]),
    "whole run": ("whole", ["lines", "moments", "pictures"]),
    "why a job waited": ("why", ["answers"]),
    "why a job waited, and the moment it began": ("why", ["answers", "moments"]),
}


def main() -> None:
    """Serve, look, write."""
    from playwright.sync_api import sync_playwright

    runs = [Path(word) for word in sys.argv[1:]]
    if not runs:
        sys.exit("error: name one or two run directories: python experiments/pages.py runs/helios-las")
    begun = time.perf_counter()
    command = [sys.executable, "-m", "rltune.inspect", *map(str, runs), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = next(line for line in server.stdout if line.startswith("page"))
        ready_s = time.perf_counter() - begun
        program = os.environ.get("RLTUNE_CHROMIUM") or shutil.which("chromium")
        with sync_playwright() as playwright:
            root = os.geteuid() == 0
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if root else [])
            found = measured(browser, line.split()[1])
            found["browser"] = f"Chromium {browser.version}"
            browser.close()
    finally:
        server.terminate()
        server.wait()
    found |= described(runs) | {"server_ready_s": round(ready_s, 2), "aims_ms": AIMS_MS}
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def measured(browser: Any, url: str) -> dict[str, Any]:
    """First pictures over fresh visits, the first of them with a cold server; interactions on one page."""
    visits = []
    for _ in range(VISITS):
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(url, timeout=120_000)
        page.locator(DRAWN).wait_for(timeout=120_000)
        # What is drawn last is drawn when the attribute is set; the frame after it is on the screen.
        drawn = page.evaluate("() => new Promise((done) => requestAnimationFrame(() => done(performance.now())))")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        visits.append((paint, drawn))
        page.close()
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(url, timeout=120_000)
    page.locator(DRAWN).wait_for(timeout=120_000)
    acts = {name: spread([page.evaluate(MEASURE, list(how)) for _ in range(REPEATS)]) for name, how in ACTS.items()}
    first, later = visits[0], visits[1:]
    return {
        "first_visit_ms": {"first paint": round(first[0], 1), "all pictures": round(first[1], 1)},
        "later_visits_ms": {
            "first paint": spread([x[0] for x in later]),
            "all pictures": spread([x[1] for x in later]),
        },
        "interactions_ms": acts,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and worst."""
    found = {"median": np.median(values), "p95": np.percentile(values, 95), "worst": max(values)}
    return {name: round(float(value), 1) for name, value in found.items()}


def described(runs: list[Path]) -> dict[str, Any]:
    """What was looked at, on what machine."""
    told = []
    for run in runs:
        summary = summary_of(run)
        told.append(
            {"run": run.name, "trace": summary["trace"]["label"], "source": summary["trace"]["source"], "jobs": summary["trace"]["jobs"],
             "nodes": summary["cluster"]["nodes"], "gpus": summary["cluster"]["gpus"], "simulation": summary["simulation"]["policy"]}
        )  # fmt: skip
    return {
        "command": f"python experiments/pages.py {' '.join(f'runs/{run.name}' for run in runs)}",
        "looked_at": told,
        "machine": {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1)},
        "window": "1400 x 900",
        "repeats": {"visits": VISITS, "each interaction": REPEATS},
    }


if __name__ == "__main__":
    main()
