"""Kill commands at random moments and damage what they read; check that nothing is lost.

    python tests/stress.py --minutes 60 [--seed 0] [--folder FOLDER]

Commands run in children forked from this process, which has torch loaded, so that a round takes
seconds; torchrun is a process of its own. Most kinds are killed at a random moment: with SIGKILL,
or as batch systems do, with SIGTERM and ten seconds later SIGKILL. Then they are repeated until
they finish; the result must equal that of an undisturbed command bit for bit. Under torchrun, the
kill may also hit one of the two workers, which torchrun restarts. Two kinds run mutated command
lines, and ordinary commands on damaged files: both must end in an exit status of the command line,
without a traceback. One line per kind is printed at the end; the exit status is 1 if
anything failed. SIGINT and SIGTERM end it early, with the same lines.
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dirprune.bench
import dirprune.cli.program
import dirprune.cli.shipping
import dirprune.report.runs.page
import dirprune.study.compare
import dirprune.study.tune
import dirprune.survey.survey
import dirprune.train.loop
from dirprune.cli import main as dirprune_main

SMALL = ["--model", "mlp", "--width", "0.1", "--threads", "1"]
TRAIN = ["train", *SMALL, "--epochs", "6", "--c", "0.05"]
COMPARE = ["compare", *SMALL, "--epochs", "2", "--c", "0.1", "--seeds", "1"]
COMPARE += ["--methods", "sgd", "grda"]
TUNE = ["tune", *SMALL, "--tune-epochs", "2", "--mus", "0.51", "0.6", "--cs", "0.05", "0.2"]
LANDSCAPE = ["--samples", "200", "--test-samples", "100", "--points", "5", "--grid", "4"]
LANDSCAPE += ["--curve-epochs", "2", "--eigenvectors", "2", "--steps", "5", "--probes", "1"]
LANDSCAPE += ["--what", "hessian,directional,curve,plane,along,training"]
TORCHRUN = ["torchrun", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
TORCHRUN += ["-m", "dirprune", *TRAIN, "--device", "cpu"]
BENCH = ["--vs", "torch", "--batch", "1", "--threads", "1", "--rounds", "2"]
EXIT_STATUSES = {0, 1, 2, 130, 141}
LONGEST = 90.0
"""Seconds after which a mutated command is ended: it may have been told to train for a day."""
OUTLIVED = 120.0
"""Seconds in which a killed command's processes must have ended. They notice when their imports
are done, which on a busy machine takes half a minute."""
GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""
STOPPED = {-signal.SIGKILL, -signal.SIGTERM, 130}
"""Exit statuses of a command that was killed."""
UNREPEATABLE = {"seconds", "peak_memory_mib", "time", "command", "started", "plan"}
"""Figures of an epoch or a landscape that no second run repeats."""


@dataclass
class Tally:
    """What has happened to one kind of command."""

    rounds: int = 0
    kills: int = 0
    failures: list[str] = field(default_factory=list)


class Failure(AssertionError):
    """A command has lost something, or shown a traceback."""


class Commands:
    """Runs commands in forked children.

    Args:
        folder: Where all of them write.
        random_state: Decides the moments of the kills and every mutation.
    """

    def __init__(self, folder: Path, random_state: random.Random) -> None:
        self.folder, self.random = folder, random_state
        self.log = folder / "output.txt"
        self.tally = Tally()

    def run(
        self,
        words: list[str],
        limit: float | None = None,
        signals: Sequence[int] = (signal.SIGKILL,),
        targets: Callable[[int], list[int]] | None = None,
    ) -> int | None:
        """Run a command.

        Args:
            words: The command line without "dirprune", or one of torchrun.
            limit: Seconds after which it is killed; by default never.
            signals: What it is then sent, ``GRACE`` seconds apart.
            targets: The processes that receive the signals, from that of the command; by default
                it, and of torchrun also its workers.

        Returns:
            The exit status, or None if it was killed.
        """
        self.log.write_text("")
        child = os.fork()
        if child == 0:
            self._be(words)
        deadline = time.monotonic() + (math.inf if limit is None else limit)
        left, is_torchrun = list(signals), words[0] == "torchrun"
        try:
            while True:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    code = os.waitstatus_to_exitcode(status)
                    expected = STOPPED | ({1} if is_torchrun else set())
                    stopped = len(left) < len(signals) and code in expected
                    return None if stopped else code
                if time.monotonic() >= deadline and left:
                    number = left.pop(0)
                    workers = _children(child) if is_torchrun else []
                    for pid in targets(child) if targets else [child, *workers]:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, number)
                    deadline += GRACE
                time.sleep(0.005)
        finally:
            _wait_for_session(child)

    def killed_and_repeated(self, words: list[str], seconds: float) -> None:
        """Kill a command once or twice at random moments, then let it finish."""
        for _ in range(self.random.randint(1, 2)):
            restarts = words[0] == "torchrun" and self.random.random() < 0.5
            signals = self.random.choice([(signal.SIGKILL,), (signal.SIGTERM, signal.SIGKILL)])
            limit = self.random.uniform(0, seconds)
            if restarts:
                status = self.run(words, limit, signals[:1], self.one_worker)
                self.tally.kills += 1
            else:
                status = self.run(words, limit, signals)
            if status == 0:
                return
            if restarts or status is not None:
                self._fail(status, words)
            self.tally.kills += 1
        status = self.run(words)
        if status != 0:
            self._fail(status, words)

    def one_worker(self, child: int) -> list[int]:
        """One of torchrun's two workers, if they exist."""
        workers = _children(child)
        return self.random.sample(workers, min(1, len(workers)))

    def _fail(self, status: int | None, words: list[str]) -> None:
        raise Failure(f"exit status {status} of {' '.join(words)}: {self.output()[-8000:]}")

    def check_status(self, words: list[str]) -> None:
        """Run a command that may fail, but in words."""
        status = self.run(words, LONGEST)
        if status is not None and status not in EXIT_STATUSES:
            raise Failure(f"exit status {status} of {words}: {self.output()[-8000:]}")
        if status is not None and "--debug" not in words and "Traceback" in self.output():
            raise Failure(f"traceback of {words}: {self.output()[-8000:]}")

    def output(self) -> str:
        """What the last command printed."""
        return self.log.read_text(errors="backslashreplace")

    def _be(self, words: list[str]) -> None:
        status = 70
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            os.chdir(self.folder)
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            if words[0] == "torchrun":
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                launcher = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
                os.execve(sys.executable, launcher, environment)
            status = dirprune_main(words)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _wait_for_session(leader: int) -> None:
    """Wait until no process of a child's session is left; they must end by themselves."""
    deadline = time.monotonic() + OUTLIVED
    while time.monotonic() < deadline:
        left = [p.name for p in Path("/proc").glob("[0-9]*") if _session(int(p.name)) == leader]
        if not left:
            return
        time.sleep(0.02)
    raise Failure(f"processes {', '.join(left)} outlive the command that started them")


def _children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended since
        return []


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # it has ended since
        return -1


def results(run: Path) -> dict[str, Any]:
    """What a repeated run must repeat: the bytes of the weights, and the figures of each epoch."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    kept = [{k: v for k, v in record.items() if k not in UNREPEATABLE} for record in records]
    return {"weights": (run / "model.safetensors").read_bytes(), "metrics": kept}


def check_equal(run: Path, expected: dict[str, Any]) -> None:
    """Fail if a run differs from an undisturbed one."""
    found = results(run)
    for name in expected:
        if found[name] != expected[name]:
            raise Failure(f"{run}: other {name} than without the kill")


class Stress:
    """The kinds of rounds.

    Args:
        folder: An empty folder.
        random_state: As for :class:`Commands`.
    """

    def __init__(self, folder: Path, random_state: random.Random) -> None:
        self.commands = Commands(folder, random_state)
        self.folder, self.random = folder, random_state
        self.undisturbed: dict[str, tuple[dict[str, Any], float]] = {}
        self.kinds: dict[str, Callable[[], None]] = {
            "train": lambda: self.train("train", TRAIN),
            "target": lambda: self.train("target", [*TRAIN, "--target-sparsity", "0.8"]),
            "overwrite": self.overwrite,
            "compare": self.compare,
            "parts": self.parts,
            "tune": self.tune,
            "landscape": self.landscape,
            "two processes": lambda: self.train("two", TORCHRUN),
            "command line": self.command_line,
            "damaged file": self.damaged_file,
        }

    def reference(self, name: str, words: list[str]) -> tuple[dict[str, Any], float]:
        """The results and seconds of an undisturbed run."""
        if name not in self.undisturbed:
            out, start = self.folder / f"reference-{name}", time.monotonic()
            status = self.commands.run([*words, "--out", str(out)])
            if status != 0:
                raise Failure(f"reference {name}: {status}: {self.commands.output()[-2000:]}")
            self.undisturbed[name] = results(out), time.monotonic() - start
        return self.undisturbed[name]

    def fresh(self, name: str) -> Path:
        """A folder that does not exist."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        return out

    def train(self, name: str, words: list[str]) -> None:
        """A run that is killed and resumed ends in the same bits."""
        expected, seconds = self.reference(name, words)
        out = self.fresh("run")
        self.commands.killed_and_repeated([*words, "--out", str(out), "--resume"], seconds)
        check_equal(out, expected)

    def overwrite(self) -> None:
        """A folder whose run is being replaced holds the old run or the new one, whole."""
        other = [*TRAIN, "--seed", "2"]
        old, _ = self.reference("train", TRAIN)
        new, seconds = self.reference("other", other)
        out = self.fresh("replaced")
        shutil.copytree(self.folder / "reference-train", out)
        words = [*other, "--out", str(out)]
        if self.commands.run([*words, "--overwrite"], self.random.uniform(0, seconds)) is None:
            self.commands.tally.kills += 1
        status = self.commands.run([*words, "--resume"])
        if status not in (0, 2):
            raise Failure(f"resuming after --overwrite: {status}: {self.commands.output()}")
        check_equal(out, new if status == 0 else old)

    def compare(self) -> None:
        """A comparison that is killed leaves no process; repeated, it ends in the same bits."""
        self.compared(self.fresh("compare"), [[]])

    def parts(self) -> None:
        """The same of a comparison in parts; the last part completes it."""
        self.compared(self.fresh("parts"), [["--part", "1/2"], ["--part", "2/2"]])

    def compared(self, out: Path, parts: list[list[str]]) -> None:
        """Kill and repeat a comparison or its parts."""
        reference = self.folder / "reference-compare"
        seconds = self.seconds_of([*COMPARE, "--out", str(reference)], "compare")
        for part in parts:
            self.commands.killed_and_repeated([*COMPARE, *part, "--out", str(out)], seconds)
        for summary in reference.glob("*/*/summary.json"):
            run = summary.parent.relative_to(reference)
            check_equal(out / run, results(reference / run))

    def tune(self) -> None:
        """A tuning that is killed and repeated chooses the same, from the same trials."""
        reference, out = self.folder / "reference-tune", self.fresh("tune")
        seconds = self.seconds_of([*TUNE, "--out", str(reference)], "tune")
        self.commands.killed_and_repeated([*TUNE, "--out", str(out)], seconds)
        for path in reference.glob("*/model.safetensors"):
            check_equal(out / path.parent.name, results(path.parent))
        if (out / "tune.json").read_bytes() != (reference / "tune.json").read_bytes():
            raise Failure(f"{out}: another choice than without the kill")

    def landscape(self) -> None:
        """A landscape that is killed and repeated has the same figures and directions."""
        self.reference("train", TRAIN)
        self.reference("other", [*TRAIN, "--seed", "2"])
        words = ["landscape", *(str(self.folder / f"reference-{n}") for n in ("train", "other"))]
        words += [*LANDSCAPE, "--out"]
        reference, out = self.folder / "reference-landscape", self.fresh("landscape")
        seconds = self.seconds_of([*words, str(reference)], "landscape")
        self.commands.killed_and_repeated([*words, str(out)], seconds)
        records = [json.loads((f / "landscape.json").read_text()) for f in (out, reference)]
        for name in records[1].keys() - UNREPEATABLE:
            if records[0].get(name) != records[1][name]:
                raise Failure(f"{out}: other {name} than without the kill")
        for path in reference.glob("*.safetensors"):
            if path.read_bytes() != (out / path.name).read_bytes():
                raise Failure(f"{out}: other {path.name} than without the kill")

    def seconds_of(self, words: list[str], name: str) -> float:
        """Run a command undisturbed, once; return its seconds."""
        if name not in self.undisturbed:
            start = time.monotonic()
            status = self.commands.run(words)
            if status != 0:
                raise Failure(f"reference {name}: {status}: {self.commands.output()}")
            self.undisturbed[name] = {}, time.monotonic() - start
        return self.undisturbed[name][1]

    def command_line(self) -> None:
        """No command line ends in a traceback."""
        self.reference("train", TRAIN)
        run, out = str(self.folder / "reference-train"), str(self.fresh("mutated"))
        words = self.random.choice(
            [
                [*TRAIN, "--out", out],
                ["report", run, "--out", f"{out}.html"],
                ["export", run, "--out", f"{out}.dpz"],
                ["bench", run, *BENCH],
                ["landscape", run, run, "--budget", "1s", "--out", out],
                ["tune", *TRAIN[1:], "--tune-epochs", "1", "--mus", "0.5", "--out", out],
                [*COMPARE, "--out", out],
            ]
        )
        self.commands.check_status(self.mutate_words(list(words)))

    def mutate_words(self, words: list[str]) -> list[str]:
        """Drop, repeat, exchange, replace or misspell one to three words."""
        odd = [
            "", "-", "--", "-1", "0", "nan", "inf", "1e309", "2147483648", "9" * 30, "\x00", "é",
            "\udce9", "None", "True", "--debug", "--resume", "--overwrite", "-o", "/", "/dev/null",
            "/proc/self", "a" * 5000, "--help", "--version", "--recipe", "[", "{}", "..", "gRDA",
        ]  # fmt: skip
        for _ in range(self.random.randint(1, 3)):
            at = self.random.randrange(len(words))
            change = self.random.randrange(6)
            if change == 0 and len(words) > 1:
                del words[at]
            elif change == 1:
                words.insert(at, words[at])
            elif change == 2:
                other = self.random.randrange(len(words))
                words[at], words[other] = words[other], words[at]
            elif change == 3:
                words[at] = self.random.choice(odd)
            elif change == 4:
                words.insert(at, self.random.choice(odd))
            elif words[at]:
                letter = self.random.randrange(len(words[at]))
                words[at] = words[at][:letter] + words[at][letter + 1 :]
        return words

    def damaged_file(self) -> None:
        """No file of a run, however damaged, ends in a traceback."""
        self.reference("train", TRAIN)
        source, run = self.folder / "reference-train", self.fresh("damaged")
        exported = source / "model.dpz"
        if not exported.exists():
            self.commands.run(["export", str(source), "--out", str(exported)])
        shutil.copytree(source, run)
        for file in (run / "report.html", run / ".lock"):
            file.unlink(missing_ok=True)
        files = sorted(p for p in run.rglob("*") if p.is_file() and "tfevents" not in p.name)
        self.damage(self.random.choice(files))
        out = str(self.fresh("out"))
        words = self.random.choice(
            [
                ["report", str(run)],
                ["export", str(run), "--out", f"{out}.dpz"],
                [*TRAIN, "--out", str(run), "--resume"],
                [*TRAIN, "--out", str(run), "--overwrite"],
                ["landscape", str(run), str(source), "--budget", "1s", "--out", out],
                ["bench", str(run), *BENCH],
            ]
        )  # fmt: skip
        self.commands.check_status(words)

    def damage(self, path: Path) -> None:
        """Change bytes, cut the file off, or change one value of its JSON."""
        data = bytearray(path.read_bytes())
        change = self.random.randrange(4)
        if change == 0 and path.suffix == ".json":
            record = json.loads(data)
            replace_one_value(record, self.random)
            data = bytearray(json.dumps(record).encode())
        elif change == 1:
            del data[self.random.randrange(len(data) + 1) :]
        elif change == 2:
            at = self.random.randrange(len(data) + 1)
            data[at:at] = self.random.randbytes(self.random.randint(1, 50))
        else:
            for _ in range(self.random.randint(1, 8)):
                data[self.random.randrange(len(data))] = self.random.randrange(256)
        path.write_bytes(data)


def replace_one_value(value: Any, random_state: random.Random) -> None:
    """Replace or delete one entry somewhere inside nested dictionaries and lists, in place."""
    odd = [None, True, 0, -1, 1e300, "", "x", [], {}, [1], {"a": 1}, "evil:build", 2**63]
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = random_state.choice(keys)
        if isinstance(value[key], (dict, list)) and value[key] and random_state.random() < 0.7:
            value = value[key]
        elif random_state.random() < 0.3:
            del value[key]
            return
        else:
            value[key] = random_state.choice(odd)
            return


def repeat(stress: Stress, tallies: dict[str, Tally], end: float) -> None:
    """Go through the kinds until the time is over."""
    while True:
        for name, play in stress.kinds.items():
            if time.monotonic() >= end:
                return
            tally = stress.commands.tally = tallies[name]
            tally.rounds += 1
            try:
                play()
            except Failure as failure:
                tally.failures.append(str(failure))
                print(f"{name}, round {tally.rounds}: {failure}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept; by default a temporary one")
    parser.add_argument("--kinds", nargs="+", help="by default all")
    options = parser.parse_args()
    # The children change their folder; processes that they start import the same dirprune.
    os.environ["PYTHONPATH"] = str(Path(dirprune.__file__).resolve().parents[1])
    folder = options.folder or Path(tempfile.mkdtemp(prefix="dirprune-stress-"))
    folder.mkdir(parents=True, exist_ok=True)
    stress = Stress(folder.resolve(), random.Random(options.seed))
    if options.kinds:
        stress.kinds = {name: stress.kinds[name] for name in options.kinds}
    tallies = {name: Tally() for name in stress.kinds}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        repeat(stress, tallies, time.monotonic() + 60 * options.minutes)
    for name, tally in tallies.items():
        print(
            f"{name}: {tally.rounds} rounds, {tally.kills} kills, {len(tally.failures)} failures"
        )
    if options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
