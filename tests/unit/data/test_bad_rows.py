"""Bad input is named by file, line and key, never shown, and never read beyond its limit."""

import json
import tracemalloc

import pytest

from tunesmith.data.dataset import load_rows
from tunesmith.data.formats import check_conversation, check_kto, check_preference
from tunesmith.data.readers import place as places
from tunesmith.data.rows import stream_rows
from tunesmith.data.sources import read_source
from tunesmith.errors import DataError

SECRET = "hunter2"
TALK = {"messages": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": SECRET}]}
PAIR = {"prompt": SECRET, "chosen": SECRET, "rejected": f"{SECRET}!"}


def refusal(path, check=check_conversation):
    with pytest.raises(DataError) as caught:
        load_rows(path, check)
    message = str(caught.value)
    return tail(message, path)


def tail(message, path):
    """What a message says after the file's name: one line without content."""
    assert message.startswith(str(path))
    rest = message.removeprefix(str(path))
    assert SECRET not in rest
    assert "\n" not in rest
    return rest


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f'{{"messages": "{SECRET}"'.encode(), ":5431: broken JSON at column 23: Expecting ',' delimiter"),
        (f'"{SECRET}"'.encode(), ":5431: a row must be an object, not str"),
        (b"3", ":5431: a row must be an object, not int"),
        (f'{{"a": "{SECRET}\xff"}}'.encode("latin-1"), ":5431: not UTF-8 at byte 14; re-save"),
        (f'{{"a": "{SECRET}\0"}}'.encode(), ":5431: NUL byte at byte 14; the file is damaged"),
        (f'{{"a": "{SECRET}\\ud800"}}'.encode(), ":5431: half of a surrogate pair"),
        (f'{{"a": NaN, "b": "{SECRET}"}}'.encode(), ":5431: broken JSON: NaN is not JSON; write null"),
        (f'{{"{SECRET}": {"9" * 5000}}}'.encode(), ":5431: broken JSON: a number with too many digits"),
        (b'{"a": ' + b"[" * 100_000, ":5431: broken JSON: nested too deeply"),
        (json.dumps(PAIR).encode(), ":5431: mixed formats: this row looks like preference, the rows"),
        (json.dumps({SECRET: 1}).encode(), ":5431: messages: a list of at least a user and an assistant turn"),
        (json.dumps({"messages": [{"role": SECRET, "content": "x"}] * 2}).encode(), ":5431: messages[0].role: must be"),
        (json.dumps({"messages": [{"role": ["user"], "content": "x"}] * 2}).encode(), ":5431: messages[0].role: must"),
        (json.dumps({**TALK, "id": {"a": SECRET}}).encode(), ":5431: id: every row needs a non-empty text here"),
        (json.dumps({**TALK, "id": "row-17"}).encode(), ":5431: id: already used on line 18; ids must be unique"),
    ],
)
def test_line_5431(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    rows = (json.dumps({**TALK, "id": f"row-{n}"}).encode() for n in range(5430))
    path.write_bytes(b"\n".join(rows) + b"\n" + line + b"\n" + json.dumps(TALK).encode())
    assert refusal(path).startswith(message)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.jsonl", "", ": is empty; it needs one JSON object a line"),
        ("rows.json", " \n", ": is empty; it needs a list of JSON objects"),
        ("rows.csv", "", ": is empty"),
        ("rows.csv", "prompt,completion\n", ": has a header but no rows"),
        ("rows.csv", "prompt,,completion\na,b,c\n", ":1: the header needs a different name for each column"),
        ("rows.csv", "prompt,completion\na,b\n\nc,d,e\n", ":3: 0 cells under a header of 2"),
        ("rows.csv", f'prompt,completion\na,b\n"{SECRET},d\n', ":3: broken CSV: unexpected end of data"),
        ("rows.csv", f"messages\n[{SECRET}\n", ":2: messages: broken JSON at column 2"),
        ("rows.csv", f"chosen,rejected\n{SECRET},\n", ":2: rejected: is missing"),
        ("rows.json", f'["{SECRET}"]', ":1: a row must be an object, not str"),
        ("rows.json", f'"{SECRET}"', ":1: a JSON file must hold a list of objects"),
        ("rows.json", f'[\n{{"a": 1,\n "{SECRET}": }}]', ":3: broken JSON at column 13: Expecting value"),
        ("rows.json", '[\n{"a": 1}\n{"a": 2}]', ":3: broken JSON: expecting ',' or ']'"),
        ("rows.json", '[\n{"a": 1}\n,]', ":3: broken JSON: a comma before the end"),
        ("rows.json", f'[{{"a": 1}},\n{{"a": "{SECRET}', ":2: broken JSON at column 7: Unterminated string"),
        ("rows.json", '[{"a": 1}', ":1: broken JSON: expecting ',' or ']'; is the file cut?"),
        ("rows.json", '[{"a": 1},', ":1: broken JSON"),
        ("rows.json", '[\n{"a": 1}]\n3', ":3: broken JSON: text after the end of the list"),
        ("rows.json", "[\n\0]", ":2: NUL byte"),
        ("rows.json", '[{"a": NaN}]', ":1: broken JSON: NaN is not JSON"),
        ("rows.parquet", SECRET, ": not a Parquet file, or damaged after row 0"),
        ("rows.xlsx", SECRET, ": unknown kind of file; its name must end in one of .jsonl"),
        ("rows.jsonl", '{"prompt": "a"}', ":1: has only prompt, which is not enough (needed are preference"),
        ("rows.jsonl", f'{{"{SECRET}": "a"}}', ":1: has none of the known keys (needed are"),
        ("rows.jsonl", f'{{"conversations": [{{"from": "{SECRET}", "value": "a"}}]}}', ":1: conversations[0].from: "),
        ("rows.jsonl", '{"conversations": [{"from": "human"}]}', ":1: conversations[0]: must be an object"),
        ("rows.jsonl", '{"instruction": "", "output": "b"}', ":1: instruction: must be a non-empty text"),
        ("rows.jsonl", '{"instruction": "a", "output": "b", "history": [["a"]]}', ":1: history[0]: must be a list of"),
    ],
)
def test_a_broken_file(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_then_convert(path)
    assert tail(str(caught.value), path).startswith(message)


def read_then_convert(path):
    """Read to the end before the shape of rows is looked at."""
    list(read_source(path))
    list(stream_rows(path))


@pytest.mark.parametrize(
    ("row", "check", "message"),
    [
        ({"prompt": SECRET, "chosen": SECRET}, check_preference, ":2: rejected: is missing"),
        ({"prompt": SECRET, "rejected": SECRET}, check_preference, ":2: chosen: is missing"),
        ({**PAIR, "rejected": " "}, check_preference, ":2: rejected: must be a non-empty text or a list of messages"),
        ({**PAIR, "rejected": []}, check_preference, ":2: rejected: must be a non-empty text or a list of messages"),
        ({**PAIR, "rejected": [{"role": "user", "content": SECRET}]}, check_preference, ":2: chosen and rejected:"),
        ({"chosen": SECRET, "rejected": SECRET}, check_preference, ":2: prompt: is missing, and chosen and rejected"),
        ({**PAIR, "prompt": [{"role": "critic", "content": "x"}]}, check_preference, ":2: prompt[0].role: must be one"),
        ({"prompt": SECRET, "completion": SECRET}, check_preference, ":2: mixed formats: this row looks like"),
    ],
)
def test_a_broken_preference(tmp_path, row, check, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(PAIR)}\n{json.dumps(row)}\n", encoding="utf-8")
    assert refusal(path, check).startswith(message)


def test_a_label_must_be_true_or_false_and_stay(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "a", "completion": "b", "label": True}
    for bad, message in [({**row, "label": SECRET}, ":2: label: must be true or"), ({**row, "label": 1}, ":2: label:")]:
        path.write_text(f"{json.dumps(row)}\n{json.dumps(bad)}\n", encoding="utf-8")
        load_rows.cache_clear()
        assert refusal(path, check_kto).startswith(message)
    path.write_text(f'{{"prompt": "a", "completion": "b"}}\n{json.dumps(row)}\n', encoding="utf-8")
    load_rows.cache_clear()
    assert refusal(path).startswith(":2: mixed formats: this row looks like kto, the rows before it like prompt_compl")


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [("rows.jsonl", '{"prompt": "', '"}'), ("rows.json", '[{"prompt": "', '"}]'), ("rows.csv", 'prompt\n"', '"')],
)
def test_a_line_of_50_mb_is_refused_without_loading_it(tmp_path, monkeypatch, name, start, end):
    assert places.MAX_ROW_BYTES < 50e6
    monkeypatch.setattr(places, "MAX_ROW_BYTES", 2**20)
    path = tmp_path / name
    with path.open("w") as file:
        file.write(start)
        for _ in range(50):
            file.write("x" * 2**20)
        file.write(end)
    tracemalloc.start()
    with pytest.raises(DataError, match=r":[12]: longer than 1 MiB, the most that one row may have; split it"):
        list(stream_rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_csv_cell_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "MAX_ROW_BYTES", 10_000)
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\na,"b\n' + "c,d\n" * 10_000, encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.csv:2: longer than"):
        list(stream_rows(path))


def peak_of(path, count):
    """Peak of traced memory while `count` rows stream by, in bytes."""
    tracemalloc.start()
    assert sum(1 for _ in stream_rows(path)) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(("ending", "most"), [("jsonl", 20_000), ("json", 5_000), ("csv", 5_000), ("parquet", 5_000)])
def test_memory_stays_flat_as_rows_stream(tmp_path, ending, most):
    from tests.unit.data.test_formats import write

    peaks = {}
    for count in (most // 10, most):
        rows = [{"prompt": f"question {n} {'?' * 100}", "completion": f"answer {n}"} for n in range(count)]
        path = write(tmp_path / f"rows-{count}.{ending}", rows)
        del rows
        sum(1 for _ in stream_rows(path))
        peaks[count] = peak_of(path, count)
    assert peaks[most] < 1.3 * peaks[most // 10] + 200_000
    assert peaks[most] < 2e6
