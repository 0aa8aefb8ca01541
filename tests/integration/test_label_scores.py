"""Ranking the rows to label by an artifact of a run, over a real MLflow store."""

import json


def test_the_scores_of_a_run_rank_the_rows(store, invoke):
    from tunesmith.tracking import runs

    run = runs.create("labels", "losses", kind="sft")
    rows = [json.loads(line) for line in (store / "experiments/smoke/conversations.jsonl").read_text().splitlines()]
    run.json({row["id"]: float(n) for n, row in enumerate(rows)}, "losses.json")
    run.finish("FINISHED")
    arguments = ["labels", "export", "experiments/smoke/conversations.jsonl", "--to", "prodigy", "--out", "tasks.jsonl"]
    done = invoke(*arguments, "--count", "2", "--scores", f"runs:/{run.id}/losses.json", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["ids"] == [rows[-1]["id"], rows[-2]["id"]]
    done = invoke(*arguments, "--scores", f"runs:/{run.id}/loses.json")
    assert done.exit_code == 2
    assert f"--scores runs:/{run.id}/loses.json: the run has no such JSON artifact" in done.stderr
    done = invoke(*arguments, "--scores", "runs:/0123456789abcdef0123456789abcdef/losses.json")
    assert done.exit_code in {1, 2}
    assert "Traceback" not in done.stderr
