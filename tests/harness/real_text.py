#!/usr/bin/env python3
"""Must-show 2: gigabytes of real text through the broker and back, with and without kill -9.

Collects text files of this machine into one file of lines `KEY<TAB>LINE` (the key names the file),
writes it with `ringctl produce` to a topic of 32 partitions, reads it back with `ringctl consume`,
and compares per key: the same lines in the same order. That is equality as a multiset and
order per key at once. With --kills N the broker is killed with SIGKILL and started again N
times while the producer runs, spread over its input.

    cargo build --release --workspace
    python3 tests/harness/real_text.py --bin target/release --bytes 2000000000 --kills 10

Prints each step's time and rate; exit code 0 only if everything is exactly equal.
"""

import argparse
import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

DEFAULT_SOURCES = [
    "/usr/share/doc", "/var/lib/apt/lists", "/usr/lib/python3", "/usr/share", "/usr/include", "/usr/lib",
    os.path.expanduser("~/.cargo/registry/src"), os.path.expanduser("~/.rustup/toolchains"),
]
PARTITIONS = 32
LINE_MAX = 8 << 20


def say(text):
    print(text, flush=True)


def rate(step, size, start):
    seconds = time.time() - start
    say(f"{step}: {size / 1e6:.0f} MB in {seconds:.1f} s, {size / 1e6 / seconds:.0f} MB/s")


def text_files(sources):
    seen = set()
    for source in sources:
        for folder, folders, names in os.walk(source):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if os.path.islink(path) or not os.path.isfile(path) or path in seen:
                    continue
                seen.add(path)
                yield path


def collect(path, sources, wanted):
    """Writes at least `wanted` bytes of keyed lines; reads the sources again under new keys if needed."""
    total, files, lines, turn = 0, 0, 0, 0
    with open(path, "wb", buffering=1 << 20) as out:
        while total < wanted:
            before = total
            for source in text_files(sources):
                try:
                    with open(source, "rb") as handle:
                        content = handle.read(64 << 20)
                except OSError:
                    continue
                if b"\0" in content[:8192] or not content:
                    continue
                key = b"%d.%d\t" % (turn, files)
                rows = [row for row in content.split(b"\n") if len(row) < LINE_MAX]
                block = b"".join(key + row + b"\n" for row in rows)
                out.write(block)
                total += len(block)
                files += 1
                lines += len(rows)
                if total >= wanted:
                    break
            turn += 1
            if total == before:
                sys.exit("no text files found")
    say(f"corpus: {files} files, {lines} lines, {total} bytes, {turn} pass(es)")
    return total


def digest(path):
    """Per key: count of lines and an order-sensitive hash of them."""
    found = {}
    with open(path, "rb", buffering=1 << 20) as handle:
        for line in handle:
            key, _, value = line.partition(b"\t")
            count, state = found.get(key, (0, 0))
            found[key] = (count + 1, hash((state, value)))
    return found


class Broker:
    def __init__(self, options, data):
        self.options, self.data = options, data
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % probe.getsockname()[1]
        self.log = open(os.path.join(options.work, "broker.log"), "ab")
        self.process = None
        self.starts = []

    def start(self):
        command = [os.path.join(self.options.bin, "ringlog"), "--data", self.data, "--listen", self.address]
        if self.options.shards:
            command += ["--shards", str(self.options.shards)]
        start = time.time()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log)
        atexit.register(self.process.kill)
        for line in self.process.stdout:
            self.log.write(line)
            if b"is ready" in line:
                break
        else:
            sys.exit("the broker did not start; see %s" % self.log.name)
        self.starts.append(time.time() - start)
        threading.Thread(target=shutil.copyfileobj, args=(self.process.stdout, self.log), daemon=True).start()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)


def ringctl(options, broker, *words):
    return [os.path.join(options.bin, "ringctl"), "--broker", broker.address, *words]


def produce(options, broker, corpus, total):
    start = time.time()
    errors = os.path.join(options.work, "produce.err")
    with open(corpus, "rb") as source, open(errors, "wb") as said:
        command = ringctl(options, broker, "produce", "text", "--key-separator", "\\t",
                          "--compression", options.compression)
        process = subprocess.Popen(command, stdin=source, stderr=said)
        atexit.register(process.kill)
        for kill in range(options.kills):
            # The producer's place in its input says how far it is.
            goal = total * (kill + 1) // (options.kills + 1)
            while process.poll() is None and position(process) < goal:
                time.sleep(0.005)
            at = position(process)
            broker.kill()
            broker.start()
            say(f"  kill -9 number {kill + 1} at {at / 1e6:.0f} MB of input; "
                f"ready again after {broker.starts[-1] * 1000:.0f} ms")
        if process.wait() != 0:
            sys.exit("produce failed: " + open(errors).read())
    rate("produce", total, start)
    say("  " + open(errors).read().strip().splitlines()[-1])


def position(process):
    try:
        with open(f"/proc/{process.pid}/fdinfo/0") as info:
            return int(info.readline().split()[1])
    except (OSError, ValueError, IndexError):
        return 1 << 62


def consume(options, broker, target, total):
    start = time.time()
    with open(target, "wb") as out:
        command = ringctl(options, broker, "consume", "text", "--format", "%k\\t%s\\n")
        if subprocess.run(command, stdout=out).returncode != 0:
            sys.exit("consume failed")
    rate("consume", os.path.getsize(target), start)
    if os.path.getsize(target) != total:
        say(f"sizes differ: {total} bytes went in, {os.path.getsize(target)} came out")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/release", help="folder of ringlog and ringctl")
    parser.add_argument("--work", help="folder for corpus and data (default: a temporary one)")
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--compression", default="none")
    parser.add_argument("sources", nargs="*", default=DEFAULT_SOURCES, help="folders to take text from")
    options = parser.parse_args()
    made = options.work is None
    options.work = options.work or tempfile.mkdtemp(prefix="ringlog-text-")
    os.makedirs(options.work, exist_ok=True)
    corpus, back = os.path.join(options.work, "corpus"), os.path.join(options.work, "back")
    data = os.path.join(options.work, "data")
    shutil.rmtree(data, ignore_errors=True)
    total = os.path.getsize(corpus) if os.path.exists(corpus) else collect(corpus, options.sources, options.bytes)
    broker = Broker(options, data)
    broker.start()
    subprocess.run(ringctl(options, broker, "topic", "create", "text", "--partitions", str(PARTITIONS),
                           "--config", "max.message.bytes=15728640"), check=True)
    produce(options, broker, corpus, total)
    consume(options, broker, back, total)
    code = broker.stop()
    verified = subprocess.run([os.path.join(options.bin, "ringctl"), "verify", data]).returncode
    wanted, found = digest(corpus), digest(back)
    wrong = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    records = sum(count for count, _ in found.values())
    say(f"{records} records, {len(found)} keys, {len(wrong)} keys differ; "
        f"broker's exit code {code}, verify's {verified}; "
        f"slowest start {max(broker.starts) * 1000:.0f} ms")
    for key in wrong[:5]:
        say(f"  {key.decode()}: {wanted.get(key, (0,))[0]} went in, {found.get(key, (0,))[0]} came out")
    if made:
        shutil.rmtree(options.work, ignore_errors=True)
    sys.exit(1 if wrong or code or verified else 0)


if __name__ == "__main__":
    main()
