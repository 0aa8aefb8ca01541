"""The round trip through a real Label Studio server.

python -m venv elsewhere && elsewhere/bin/pip install label-studio
TUNESMITH_LABEL_STUDIO=elsewhere/bin/label-studio python -m pytest -m labelstudio
"""

import contextlib
import http.cookiejar
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from click.testing import CliRunner

from tunesmith.cli import main
from tunesmith.data.dataset import load_rows
from tunesmith.data.formats import check_conversation, check_preference

EXECUTABLE = os.environ.get("TUNESMITH_LABEL_STUDIO")
NAME, PASSWORD = "annotator@example.com", "a-long-password"

pytestmark = [
    pytest.mark.labelstudio,
    pytest.mark.skipif(not EXECUTABLE, reason="TUNESMITH_LABEL_STUDIO does not name Label Studio's executable"),
]


class Server:
    """A Label Studio server and a session in it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))
        self.opener.open(f"{base}/user/login/", timeout=30).read()
        form = {"email": NAME, "password": PASSWORD, "csrfmiddlewaretoken": self.token()}
        body = urllib.parse.urlencode(form).encode()
        self.opener.open(urllib.request.Request(f"{base}/user/login/", body, {"Referer": base}), timeout=30).read()

    def token(self) -> str:
        return next(cookie.value for cookie in self.cookies if cookie.name == "csrftoken")

    def call(self, method: str, path: str, body=None):
        headers = {"X-CSRFToken": self.token(), "Referer": self.base, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}{path}", data, headers, method=method)
        with self.opener.open(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [EXECUTABLE, "start", "--no-browser", "--port", str(port), "--data-dir", str(folder)]
    command += ["--username", NAME, "--password", PASSWORD]
    quiet = {"LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | quiet
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield connect(f"http://127.0.0.1:{port}", process, folder / "log.txt")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def connect(base, process, log):
    for _ in range(240):
        assert process.poll() is None, log.read_text()[-2000:]
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return Server(base)
        time.sleep(1)
    raise AssertionError(log.read_text()[-2000:])


def run(*arguments):
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def project(server, tasks):
    """A project with the written configuration, into which the written tasks were imported; its id and tasks."""
    config = tasks.with_suffix(".config.xml").read_text()
    made = server.call("POST", "/api/projects", {"title": tasks.stem, "label_config": config})
    written = json.loads(tasks.read_text())
    assert server.call("POST", f"/api/projects/{made['id']}/import", written)["task_count"] == len(written)
    return made["id"], server.call("GET", f"/api/tasks?project={made['id']}&page_size=100")["tasks"]


def annotate(server, task, result, **more):
    server.call("POST", f"/api/tasks/{task['id']}/annotations", {"result": result, **more})


def choice(name, value):
    return {"from_name": name, "to_name": "dialogue", "type": "choices", "value": {"choices": [value]}}


def exports(server, number, folder):
    for kind in ("JSON", "JSON_MIN"):
        value = server.call("GET", f"/api/projects/{number}/export?exportType={kind}&download_all_tasks=true")
        path = folder / f"{kind}.json"
        path.write_text(json.dumps(value), encoding="utf-8")
        yield kind, run("labels", "import", path, "--from", "label-studio", "--out", folder / f"{kind}.jsonl")


def test_conversations(server, root, tmp_path):
    data, tasks = root / "experiments/support.yaml", tmp_path / "conversations.json"
    sent = run("labels", "export", data, "--to", "label-studio", "--out", tasks, "--count", 6)["ids"]
    number, (kept, fixed, dropped, skipped, empty, _) = project(server, tasks)
    better = 'Mended: <b>"5 €"</b>\nRoute: billing'
    rewrite = {"from_name": "rewrite", "to_name": "dialogue", "type": "textarea", "value": {"text": [better]}}
    annotate(server, kept, [choice("verdict", "keep")])
    annotate(server, fixed, [choice("verdict", "fix"), rewrite])
    annotate(server, dropped, [choice("verdict", "keep")])
    annotate(server, dropped, [choice("verdict", "drop")])
    annotate(server, skipped, [], was_cancelled=True)
    annotate(server, empty, [])
    ids = [task["data"]["row_id"] for task in (kept, fixed, dropped, skipped, empty)]
    assert set(ids) < set(sent)
    for kind, found in exports(server, number, tmp_path):
        whole = kind == "JSON"
        assert (found["exported"], found["returned"], found["missing"]) == (6, 5 + whole, 1 - whole)
        assert found["unannotated"] == 1
        assert (found["cancelled"], found["empty"], found["judged"]) == (int(whole), 1, 4)
        assert (found["superseded"], found["written"], found["dropped"]) == (1, 2, 1)
        rows = {row["id"]: row for row in load_rows(tmp_path / f"{kind}.jsonl", check_conversation)}
        assert set(rows) == set(ids[:2])
        assert rows[ids[1]]["messages"][-1]["content"] == better
        assert rows[ids[0]]["messages"] == kept["data"]["row"]["messages"]


def test_pairs(server, root, tmp_path):
    data, tasks = root / "experiments/support/preferences.jsonl", tmp_path / "pairs.json"
    run("labels", "export", data, "--to", "label-studio", "--pairwise", "--out", tasks, "--count", 4)
    number, (left, right, tied, _) = project(server, tasks)
    for task, side in ((left, "left"), (right, "right")):
        value = {"from_name": "preference", "to_name": "answer_a", "type": "pairwise", "value": {"selected": side}}
        annotate(server, task, [value])
    annotate(server, tied, [choice("tie", "tie")])
    for kind, found in exports(server, number, tmp_path):
        assert (found["judged"], found["written"], found["tied"]) == (3, 2, 1)
        rows = {row["id"]: row for row in load_rows(tmp_path / f"{kind}.jsonl", check_preference)}
        assert rows[left["data"]["row_id"]]["chosen"] == left["data"]["row"]["answers"][0]
        assert rows[right["data"]["row_id"]]["chosen"] == right["data"]["row"]["answers"][1]
        assert rows[right["data"]["row_id"]]["rejected"] == right["data"]["row"]["answers"][0]
