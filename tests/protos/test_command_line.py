"""Options come from flags, environment, YAML and defaults; programs end with a sentence and an agreed exit code."""

import importlib.metadata
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from trapline import command_line, errors


class Work(command_line.Options):
    """Does the work."""

    model_config = SettingsConfigDict(env_prefix="PROBE_")

    data: CliPositionalArg[Path] = Field(description="folder to work on")
    batch_size: int = Field(32, ge=1, description="images in a batch")
    share: float = Field(0.15, gt=0, lt=1, description="share held out")
    watch: bool = Field(False, description="go on")  # pydantic's way to say a default
    config: Path | None = Field(None, description="YAML file of options")
    names: list[str] = Field([], description="several words")


@pytest.fixture(name="run")
def _run(monkeypatch):
    """Runs the verb in this process; gives its exit code and the options that it saw."""
    for name in [name for name in os.environ if name.startswith("PROBE_")]:
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGTERM)

    def run(*words, work=lambda _options: 0):
        seen = []
        verb = command_line.Verb(
            name="work", options=Work, run=lambda options: (seen.append(options), work(options))[1]
        )
        code = command_line.main("probe", [verb], list(words))
        return code, seen[0] if seen else None

    yield run
    signal.signal(signal.SIGTERM, before)


# A program of its own for what only a process shows: signals, pipes, exit codes.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from pydantic import Field
from pydantic_settings import CliPositionalArg
from trapline import command_line

class Work(command_line.Options):
    "Does the work."
    kind: CliPositionalArg[str] = Field(description="what to do")

def work(options):
    if options.kind == "wait":
        try:
            print("ready", flush=True)
            signal.pause()
        finally:
            print("cleaned up", flush=True)
    if options.kind == "full":
        os.set_blocking(1, False)
        try:
            while True:
                os.write(1, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(1, True)
        print("waits for its reader")
        command_line.tell("full")
        signal.pause()
    for line in range(int(options.kind)):
        print("line", line)
    return 0

sys.exit(command_line.main("probe", [command_line.Verb(name="work", options=Work, run=work)]))
"""


@pytest.fixture(name="program")
def _program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


def environment() -> dict[str, str]:
    """This environment, with Python's own buffering of pipes."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(run, monkeypatch, tmp_path):
    """The four sources, in their agreed order, for one option each."""
    assert run("work", "d")[1].batch_size == 32
    config = tmp_path / "options.yaml"
    config.write_text("batch-size: 4\nshare: 0.4\nwatch: true\n")
    _, options = run("work", "d", "--config", str(config))
    assert (options.batch_size, options.share, options.watch) == (4, 0.4, True)
    monkeypatch.setenv("PROBE_BATCH_SIZE", "5")
    monkeypatch.setenv("PROBE_WATCH", "false")
    _, options = run("work", "d", "--config", str(config))
    assert (options.batch_size, options.share, options.watch) == (5, 0.4, False)
    _, options = run("work", "d", "--config", str(config), "--batch-size", "6", "--watch")
    assert (options.batch_size, options.share, options.watch) == (6, 0.4, True)


def test_the_config_file_can_be_named_by_its_variable(run, monkeypatch, tmp_path):
    """`--config` is an option like the others; a YAML key may be in snake case."""
    config = tmp_path / "options.yaml"
    config.write_text("batch_size: 7\n")
    monkeypatch.setenv("PROBE_CONFIG", str(config))
    assert run("work", "d")[1].batch_size == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("batch-size: 4\nbatchsize: 5\nother: 1\n", "has unknown options: batchsize, other"),
        ("- a\n", "must hold lines of `option: value`"),
        ("a: [", "is not valid YAML"),
        ("batch-size: zero\n", "--batch-size: must be a valid integer"),
    ],
)
def test_a_bad_config_file_is_named_with_what_is_wrong(run, tmp_path, capsys, content, words):
    """The sentence names the file's fault; exit code 2."""
    config = tmp_path / "options.yaml"
    config.write_text(content)
    assert run("work", "d", "--config", str(config)) == (2, None)
    said = capsys.readouterr().err
    assert said.startswith("probe work: error: ")
    assert words in said
    assert said.count("\n") == 1


def test_an_empty_config_file_changes_nothing_and_a_missing_one_is_named(run, tmp_path, capsys):
    """A file with comments only is fine; one that is not there is a usage error."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing yet\n")
    assert run("work", "d", "--config", str(empty))[0] == 0
    assert run("work", "d", "--config", str(tmp_path / "none.yaml"))[0] == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--batch-size", "0"], "--batch-size: must be greater than or equal to 1 (got '0')"),
        (["--batch-size", "many"], "--batch-size: must be a valid integer"),
        (["--share", "1"], "--share: must be less than 1 (got '1')"),
    ],
)
def test_a_bad_value_gets_a_sentence_with_its_flag(run, capsys, words, sentence):
    """The flag, what it must be, what was given, and where to read more; exit code 2, one line, no traceback."""
    assert run("work", "d", *words) == (2, None)
    said = capsys.readouterr().err
    assert sentence in said
    assert "(see `probe work --help`)" in said
    assert said.count("\n") == 1


def test_a_bad_variable_of_the_environment_gets_a_sentence(run, monkeypatch, capsys):
    """Also where the option takes several values and its variable is no JSON."""
    monkeypatch.setenv("PROBE_NAMES", "plain words")
    assert run("work", "d") == (2, None)
    assert "write several values as JSON" in capsys.readouterr().err
    monkeypatch.setenv("PROBE_NAMES", '["a", "b"]')
    assert run("work", "d")[1].names == ["a", "b"]


@pytest.mark.parametrize(
    "words", [[], ["other"], ["--"], ["--", "work"], ["--", "work", "d"], ["-x"], ["work"], ["work", "d", "--bogus"]]
)
def test_a_wrong_command_line_ends_with_usage(run, capsys, words):
    """Exit code 2 and the usage on stderr, whatever is missing or too much."""
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: probe")


def test_help_and_version_are_answered_on_stdout(run, capsys):
    """The program's help lists its verbs, a verb's help its options with their defaults."""
    for words, expected in {
        ("--help",): "Does the work.",
        ("--version",): f"probe {importlib.metadata.version('trapline')}",
        ("work", "--help"): "images in a batch (default: 32)",
    }.items():
        with pytest.raises(SystemExit) as ended:
            run(*words)
        assert not ended.value.code
        said = capsys.readouterr()
        assert expected in said.out
        assert said.err == ""


@pytest.fixture(name="shelf")
def _shelf():
    """Runs a program with verbs of one and of two words; gives its exit code and the verbs that ran."""

    def shelf(*words, error=None):
        ran = []

        def work(name):
            def run(_options):
                ran.append(name)
                if error:
                    raise error
                return 0

            return run

        names = ("work", "shelf list", "shelf clear")
        verbs = [command_line.Verb(name=name, options=Work, run=work(name)) for name in names]
        return command_line.main("probe", verbs, list(words)), ran

    return shelf


def test_a_verb_may_have_two_words(shelf, capsys):
    """The two words choose it, among verbs of one word too, and its errors name both."""
    assert shelf("shelf", "clear", "d") == (0, ["shelf clear"])
    assert shelf("shelf", "list", "d") == (0, ["shelf list"])
    assert shelf("work", "d") == (0, ["work"])
    assert shelf("shelf", "list", "d", error=errors.UsageError("not so"))[0] == 2
    assert capsys.readouterr().err == "probe shelf list: error: not so\n"


def test_the_first_of_two_words_has_help_of_its_own(shelf, capsys):
    """Alone or with a wrong second word it is a usage error that names the second words."""
    for words, code, stream, expected in [
        (["--help"], 0, "out", "shelf clear  Does the work."),
        (["shelf", "--help"], 0, "out", "\n  clear  Does the work."),
        (["shelf", "clear", "--help"], 0, "out", "usage: probe shelf clear"),
        (["shelf"], 2, "err", "usage: probe shelf VERB ..."),
        (["shelf", "burn"], 2, "err", "invalid choice: 'burn' (choose from 'list', 'clear')"),
    ]:
        with pytest.raises(SystemExit) as ended:
            shelf(*words)
        assert (ended.value.code or 0) == code
        assert expected in getattr(capsys.readouterr(), stream)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.UsageError("name another folder"), 2, "probe work: error: name another folder\n"),
        (errors.TraplineError("it failed"), 1, "probe work: error: it failed\n"),
        (errors.QueueFull("full; wait"), 1, "probe work: error: full; wait\n"),
        (KeyboardInterrupt(), 130, "probe work: interrupted\n"),
    ],
)
def test_errors_of_ours_end_with_their_sentence_and_code(run, capsys, error, code, said):
    """No traceback for anything that a user did."""

    def work(_options):
        raise error

    assert run("work", "d", work=work)[0] == code
    assert capsys.readouterr().err == said


def test_the_works_own_exit_code_is_the_programs(run):
    """Some items failed: 1."""
    assert run("work", "d", work=lambda _options: 1)[0] == 1


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_program_after_its_clean_up(program, sent, code):
    """Ctrl-C is 130 and SIGTERM 143; `finally` runs in both and nothing prints a traceback."""
    process = subprocess.Popen([*program, "work", "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "cleaned up\n")
    assert "Traceback" not in err


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_reader_that_pauses_holds_up_no_end_asked_for(program, sent, code):
    """Ctrl-C in `| less` ends the program, though nobody takes what it has printed; the pipe is left as it was."""
    read, write = os.pipe()
    command = [*program, "work", "full"]
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            assert process.stderr.readline() == "full\n"
            process.send_signal(sent)
            said = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert (process.returncode, "Traceback" in said) == (code, False)
    assert os.get_blocking(write)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-"])
def test_an_output_that_is_closed_is_none(program, redirection):
    """The work is done as ever, and what goes to one output is not printed on the other."""
    for words, code in (("work 3", 0), ("work 0 --bogus", 2)):
        command = f"'{program[0]}' '{program[1]}' {words} {redirection}"
        done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (code, "")
        assert done.stdout == ("line 0\nline 1\nline 2\n" if (code, redirection) == (0, "2>&-") else "")


@pytest.mark.parametrize("words", [["work", "3"], ["work", "100000"], ["--help"], ["work", "--help"]])
def test_a_reader_that_leaves_is_no_failure(program, words):
    """`| head -1` and `| true` end quietly with 0, for little and for much output."""
    read, write = os.pipe()
    process = subprocess.Popen([*program, *words], stdout=write, stderr=subprocess.PIPE, text=True, env=environment())
    os.close(write)
    os.close(read)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 0


@pytest.mark.parametrize("words", [["work", "3"], ["work", "100000"]])
def test_a_full_disk_is_a_sentence(program, words):
    """Output that finds no room ends with exit 1 and what to do, for little and for much of it."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*program, *words], check=False, stdout=full, stderr=subprocess.PIPE, text=True, env=environment()
        )
    assert (done.stderr, done.returncode) == ("probe: error: the disk is full; make room, and run this again\n", 1)


def test_no_memory_is_a_sentence(run, capsys):
    """Where memory runs out outside of what knows a better size, exit 1 and what to do, never a traceback."""

    def work(_options):
        return bytes(1 << 62)

    assert run("work", "d", work=work)[0] == 1
    said = "probe: error: there is not enough memory; end other programs, and run this again\n"
    assert capsys.readouterr().err == said


def test_head_gets_its_line(program):
    """What was asked for arrives before the reader leaves."""
    command = f"'{program[0]}' '{program[1]}' work 100000 | head -1"
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, check=False, capture_output=True, text=True, env=environment())
    assert (done.stdout, done.stderr, done.returncode) == ("line 0\n", "", 0)
