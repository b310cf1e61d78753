#!/usr/bin/env python3
"""Must-show 8: the broker's wall clock a week ahead, then back: nothing expires that should not.

Runs the broker under libfaketime (Debian and Ubuntu: package `faketime`), which shifts only the clock of
the broker's process, and only CLOCK_REALTIME: uptime goes on as it does when an operator or NTP sets
a clock. One topic keeps records for a day, another (the control) for a second; segments are of 4 MiB,
retention looks every 200 ms.

    cargo build --release --workspace
    python3 tests/harness/clock.py --bin target/release

Exit code 0 only if the day's records outlive every step, and the control's records do expire.
"""

import argparse
import glob
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

WEEK_S = 7 * 24 * 3600
LIBRARIES = ["/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1"]
SETTLE_S = 3


def say(text):
    print(text, flush=True)


class Broker:
    def __init__(self, binaries, folder, library):
        self.binaries, self.folder, self.library = binaries, folder, library
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.shift = os.path.join(folder, "shift")
        self.said = os.path.join(folder, "said")
        self.set_clock(0)
        self.process = None

    def set_clock(self, seconds):
        with open(self.shift + ".new", "w") as out:
            out.write(f"{seconds:+d}\n")
        os.rename(self.shift + ".new", self.shift)

    def start(self):
        environment = dict(
            os.environ, LD_PRELOAD=self.library, FAKETIME_TIMESTAMP_FILE=self.shift, FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1",
        )
        command = [
            f"{self.binaries}/ringlog", "--data", f"{self.folder}/data", "--listen", self.address,
            "--set", "log.retention.check.interval.ms=200", "--set", "segment.bytes=4194304",
        ]
        with open(self.said, "a") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        deadline = time.time() + 30
        while time.time() < deadline:
            try:
                host, port = self.address.split(":")
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        sys.exit(f"the broker did not start:\n{open(self.said).read()}")

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(30)

    def ctl(self, *words, text=None):
        command = [f"{self.binaries}/ringctl", "--broker", self.address, *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def records(self, topic):
        return len(self.ctl("consume", topic).splitlines())

    def write(self, topic, count):
        line = "x" * 2000
        self.ctl("produce", topic, text="".join(f"{number} {line}\n" for number in range(count)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bin", default="target/release", help="folder of ringlog and ringctl")
    parser.add_argument("--dir", default=None, help="where the data go (not a tmpfs: O_DIRECT)")
    arguments = parser.parse_args()
    libraries = [path for pattern in LIBRARIES for path in glob.glob(pattern)]
    if not libraries:
        sys.exit("libfaketime is not there: install the package 'faketime'")
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        broker = Broker(os.path.abspath(arguments.bin), folder, libraries[0])
        try:
            return check(broker)
        finally:
            if broker.process and broker.process.poll() is None:
                broker.process.kill()
                broker.process.wait()


def check(broker):
    broker.start()
    broker.ctl("topic", "create", "day", "--config", f"retention.ms={24 * 3600 * 1000}")
    broker.ctl("topic", "create", "second", "--config", "retention.ms=1000")
    kept = 0
    failures = []

    def step(name):
        nonlocal kept
        broker.write("day", 6000)
        kept += 6000
        time.sleep(SETTLE_S)
        found = broker.records("day")
        say(f"{name}: {found} of {kept} records")
        if found != kept:
            failures.append(name)

    step("clock right")
    broker.set_clock(WEEK_S)
    step("a week ahead")
    broker.end(signal.SIGKILL)
    broker.start()
    step("a week ahead, after kill -9")
    broker.end(signal.SIGTERM)
    broker.start()
    step("a week ahead, after a graceful restart")
    broker.set_clock(0)
    step("right again")
    broker.set_clock(-WEEK_S)
    step("a week behind")
    broker.end(signal.SIGKILL)
    broker.start()
    step("a week behind, after kill -9")
    broker.set_clock(0)
    step("right again")
    said = open(broker.said).read()
    for text in ["time retention is paused", "time retention goes on"]:
        say(f"the broker said '{text}': {said.count(text)} times")
        if text not in said:
            failures.append(text)
    broker.write("second", 6000)
    deadline = time.time() + 60
    while broker.records("second") > 0 and time.time() < deadline:
        time.sleep(0.5)
    left = broker.records("second")
    say(f"the control, kept for a second: {left} records left")
    if left:
        failures.append("the control did not expire")
    broker.end(signal.SIGTERM)
    say(f"FAILED: {failures}" if failures else "nothing expired that should not have")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
