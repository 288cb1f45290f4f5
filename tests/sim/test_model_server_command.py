"""`picker model-server` as a process: its one line of output, its signals, its exit codes."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

COMMAND = """
import argparse
from picker.cli import model_server
parser = argparse.ArgumentParser()
model_server.configure(parser)
raise SystemExit(model_server.run(parser.parse_args()))
"""
DEADLINE_S = 60


def command(*flags: str) -> list[str]:
    return [sys.executable, "-c", COMMAND, "--port", "0", *flags]


@contextmanager
def started(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address; it is gone afterwards."""
    process = subprocess.Popen(command(*flags), stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on ")
            yield process, line.removeprefix("listening on ").strip()
        finally:
            process.kill()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_it_is_told_to_stop(signum: signal.Signals) -> None:
    with started("--metrics", "sglang", "--lora", "a", "--lora", "b") as (process, address):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=DEADLINE_S) as response:
            assert b"sglang:num_queue_reqs" in response.read()
        with urllib.request.urlopen(f"http://{address}/v1/models", timeout=DEADLINE_S) as response:
            assert b'"id": "b"' in response.read()
        process.send_signal(signum)
        assert process.wait(DEADLINE_S) == 0


def test_a_gpu_has_its_memory_and_flags_change_it() -> None:
    def blocks(*flags: str) -> bytes:
        with (
            started(*flags) as (_, address),
            urllib.request.urlopen(f"http://{address}/metrics", timeout=DEADLINE_S) as response,
        ):
            (config,) = [line for line in response if line.startswith(b"vllm:cache_config_info{")]
            return config.split(b'num_gpu_blocks="')[1].split(b'"')[0]

    assert [blocks(), blocks("--gpu", "h100"), blocks("--gpu", "h100", "--num-blocks", "99")] == [
        b"65536",
        b"27000",
        b"99",
    ]


def test_the_die_fault_ends_the_process() -> None:
    with started() as (process, address):
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(f"http://{address}/admin/faults", data=b'{"die": true}', timeout=DEADLINE_S)
        assert process.wait(DEADLINE_S) == 70


@pytest.mark.parametrize(
    "flags",
    [["--num-blocks", "0"], ["--stream-interval", "0"], ["--error-rate", "2"], ["--host", "no.such.host.invalid"]],
)
def test_settings_that_make_no_sense_are_usage_errors(flags: list[str]) -> None:
    ended = subprocess.run(command(*flags), capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("picker model-server: ")
