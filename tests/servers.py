"""Real servers on loopback: MLflow's tracking server with proxied artifacts, its scoring server, a receiver."""

import contextlib
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

from tests.conftest import environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def ended(command: list[str], **options) -> Iterator[subprocess.Popen]:
    """A process that is killed, with all it has started, when the block ends."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def tracking_server(project: pathlib.Path, **more: str) -> Iterator[str]:
    """The URI of a tracking server over the project's database, which hands out artifacts itself."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{project / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(project / "artifacts"), "--serve-artifacts", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    env = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **more)
    with ended(command, cwd=project, env=env, **quiet) as server:
        uri = f"http://127.0.0.1:{port}"
        wait_until_healthy(uri, server)
        yield uri


def wait_until_healthy(uri: str, server: subprocess.Popen, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server did not start")


def clean_python(folder: pathlib.Path) -> pathlib.Path:
    """A Python with this one's packages but without Tunesmith; its folder has the programs that MLflow starts.

    The packages come by a `.pth` file; `.pth` files among them, an editable install's for one, are not followed.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    site = next((folder / "lib").glob("python*/site-packages"))
    paths = {sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")}
    (site / "packages.pth").write_text("\n".join(sorted(paths)) + "\n")
    uvicorn = folder / "bin/uvicorn"
    uvicorn.write_text(f'#!/bin/sh\nexec "{python}" -m uvicorn "$@"\n')
    uvicorn.chmod(0o755)
    return python


@contextlib.contextmanager
def scoring_server(python: pathlib.Path, folder: pathlib.Path, model: str, *, uri: str) -> Iterator["ScoringServer"]:
    """`mlflow models serve` by a Python of its own, working in `folder`, where its log is kept."""
    port = free_port()
    command = [str(python), "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    command += ["--port", str(port), "--host", "127.0.0.1", "--workers", "1"]
    log = folder / "server.log"
    env = bare_environment(python, MLFLOW_TRACKING_URI=uri)
    with log.open("w") as output, ended(command, cwd=folder, env=env, stdout=output, stderr=output) as process:
        yield ScoringServer(f"http://127.0.0.1:{port}", process, log)


def bare_environment(python: pathlib.Path, **more: str) -> dict[str, str]:
    """An environment in which that Python comes first and no sources are on its path."""
    env = environment(**more)
    del env["PYTHONPATH"]
    return {**env, "PATH": f"{python.parent}{os.pathsep}{env['PATH']}"}


class ScoringServer:
    """A scoring server that is starting, running or has given up."""

    def __init__(self, url: str, process: subprocess.Popen, log: pathlib.Path) -> None:
        self.url, self.process, self.log = url, process, log

    def ask(self, request: dict, seconds: float = 120) -> dict:
        """The reply to a request, once the server is up."""
        until = time.monotonic() + seconds
        body = json.dumps(request).encode()
        post = urllib.request.Request(f"{self.url}/invocations", body, {"Content-Type": "application/json"})
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(post, timeout=30) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                raise AssertionError(error.read().decode()[:2000]) from None
            except OSError:
                time.sleep(0.3)
        raise AssertionError(f"the server did not answer: {self.log.read_text()[-2000:]}")

    def refusal(self, seconds: float = 120) -> str:
        """What the server wrote before it gave up."""
        assert self.process.wait(timeout=seconds) != 0
        return self.log.read_text()


@contextlib.contextmanager
def receiver(
    answer: Callable[[dict], tuple[int, object]] = lambda body: (200, None), **headers: str
) -> Iterator[tuple[str, list[tuple[dict, dict]]]]:
    """The URL of an HTTP server, and the headers and bodies of the requests that it has been sent so far.

    `answer` gives the status and what is sent back as JSON.
    """
    heard: list[tuple[dict, dict]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.append((dict(self.headers), body))
            status, said = answer(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        server.server_close()
