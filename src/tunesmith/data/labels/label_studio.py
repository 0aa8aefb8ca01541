"""Label Studio: tasks and a labelling configuration out, its JSON and JSON-MIN exports in.

Written and read by the open-source release; tried against 1.23.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.labels.returned import Returned
from tunesmith.data.labels.task import Judgement, answer_text, carried, dialogue, exported_row, opened
from tunesmith.data.readers.arrays import read_json
from tunesmith.errors import DataError
from tunesmith.records import Row

CONVERSATION_CONFIG = """<View>
  <Paragraphs name="dialogue" value="$dialogue" layout="dialogue" nameKey="role" textKey="content"/>
  <Header value="Is the last answer right, and said as it should be?"/>
  <Choices name="verdict" toName="dialogue" choice="single" showInline="true" required="true">
    <Choice value="Keep it" alias="keep" hotkey="1"/>
    <Choice value="Fix it (rewrite below)" alias="fix" hotkey="2"/>
    <Choice value="Drop the row" alias="drop" hotkey="3"/>
  </Choices>
  <Header value="The whole answer as it should be"/>
  <TextArea name="rewrite" toName="dialogue" value="$answer" rows="6" maxSubmissions="1" editable="true"/>
</View>
"""

PAIRWISE_CONFIG = """<View>
  <Paragraphs name="dialogue" value="$dialogue" layout="dialogue" nameKey="role" textKey="content"/>
  <Header value="Which answer is better?"/>
  <Pairwise name="preference" toName="answer_a,answer_b"/>
  <Text name="answer_a" value="$answer_a"/>
  <Text name="answer_b" value="$answer_b"/>
  <Choices name="tie" toName="dialogue" choice="single">
    <Choice value="Neither is better" alias="tie" hotkey="3"/>
  </Choices>
</View>
"""

SIDES = {"left": "a", "right": "b"}


def config(*, pairwise: bool) -> str:
    """The labelling configuration to paste into a project, or to create it with over the API."""
    return PAIRWISE_CONFIG if pairwise else CONVERSATION_CONFIG


def tasks(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Tasks to import into a project with `config`."""
    return [{"data": {**carried(row, batch=len(rows)), **_shown(exported_row(row))}} for row in rows]


def _shown(row: Row) -> dict[str, Any]:
    if "answers" in row:
        first, second = (answer_text(turns) for turns in row["answers"])
        return {"dialogue": dialogue(row), "answer_a": first, "answer_b": second}
    return {"dialogue": dialogue(row), "answer": row["messages"][-1]["content"]}


def read_label_studio(path: pathlib.Path) -> Returned:
    """Read an export, JSON (a task with its annotations) or JSON-MIN (an annotation with its task).

    JSON-MIN leaves out cancelled annotations, and tasks with no other. Raises `DataError` naming file,
    line and key of the first task that did not come from `labels export`, or was changed.
    """
    found = Returned()
    for place, task in read_json(path):
        where = str(place)
        whole = "data" in task
        data = task["data"] if whole else task
        if not isinstance(data, dict):
            raise DataError(f"{where}: data: must be an object")
        row = opened(data, where=f"{where}: data" if whole else where)
        found.task(row, data.get("batch_size"), where=where)
        if whole:
            _annotations(found, row, task.get("annotations"), where=where)
        elif task.get("annotation_id") is None:
            found.counts["unannotated"] += 1
        else:
            found.annotation(_minimal(task, row, where=where), where=where)
    return found


def _annotations(found: Returned, row: Row, annotations: Any, *, where: str) -> None:
    if not isinstance(annotations, list):
        raise DataError(f"{where}: annotations: must be a list; export as JSON or JSON-MIN")
    found.counts["unannotated"] += not annotations
    for n, annotation in enumerate(annotations):
        here = f"{where}: annotations[{n}]"
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result", []), list):
            raise DataError(f"{here}: must be an object with a list in result")
        if annotation.get("was_cancelled"):
            found.counts["cancelled"] += 1
            continue
        values: dict[str, Any] = {}
        for m, result in enumerate(annotation.get("result") or []):
            value = result.get("value") if isinstance(result, dict) else None
            if not isinstance(value, dict) or not isinstance(result.get("from_name"), str):
                raise DataError(f"{here}.result[{m}]: must be an object with from_name and value")
            values[result["from_name"]] = value.get("choices") or value.get("text") or value.get("selected")
        said = _judgement(annotation, row, values, annotator=annotation.get("completed_by"), where=here)
        found.annotation(said, where=here)


def _minimal(task: Mapping[str, Any], row: Row, *, where: str) -> Judgement:
    values = {key: task.get(key) for key in ("verdict", "rewrite", "preference", "tie")}
    preference = values["preference"]
    if isinstance(preference, list) and preference and isinstance(preference[0], dict):
        values["preference"] = preference[0].get("selected")
    return _judgement(task, row, values, annotator=task.get("annotator"), where=where)


def _judgement(
    annotation: Mapping[str, Any], row: Row, values: Mapping[str, Any], *, annotator: Any, where: str
) -> Judgement:
    """One annotator's judgement from the values of the controls, whichever export they come from."""
    verdict = _one(values, "verdict", where)
    if "answers" in row:
        side = _one(values, "preference", where)
        if side and side not in SIDES:
            raise DataError(f"{where}: preference: must be one of {', '.join(SIDES)}")
        verdict = _one(values, "tie", where) or SIDES.get(side, "")
    if isinstance(annotator, dict):
        annotator = annotator.get("id") or annotator.get("email")
    when, number = str(annotation.get("updated_at") or ""), annotation.get("annotation_id") or annotation.get("id")
    return Judgement(
        row["id"],
        str(annotator),
        verdict,
        rewrite=_one(values, "rewrite", where),
        when=f"{when} {number:>12}" if isinstance(number, int) else when,
        decisive=annotation.get("ground_truth") is True,
    )


def _one(values: Mapping[str, Any], key: str, where: str) -> str:
    """The one text of a control, which an export gives bare, in a list, or not at all."""
    value = values.get(key)
    members = value if isinstance(value, list) else [value] if value else []
    if len(members) > 1 or not all(isinstance(member, str) for member in members):
        raise DataError(f"{where}: {key}: at most one text is expected")
    return members[0] if members else ""
