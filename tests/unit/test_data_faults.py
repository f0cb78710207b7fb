"""All faults of a run's data come together, whichever part they are in."""

from r1mega.data.faults import data_faults

GOOD = [("chain_sum", {}, 1.0)]


def test_a_good_run_has_none(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "1?", "answer": "1"}\n')
    assert data_faults(GOOD, None, "short", {"right": 1.0}) == []
    assert data_faults([], str(path), "r1_zero", {}) == []


def test_tasks_template_and_mixture_are_reported_together():
    faults = data_faults([("countdwn", {}, 1.0)], None, "shrt", {"right": 0.5})
    assert [fault.split(":")[0] for fault in faults] == [
        "data.tasks[0].name",
        "data.template",
        "pretrain.mixture",
        "data.tasks[0].name",
    ]


def test_a_prompts_file_is_read_and_cannot_pretrain(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("{\n[]\n")
    faults = data_faults([], str(path), "short", {"right": 1.0})
    assert [fault.split(": ")[0] for fault in faults] == [
        f"{path}:1",
        f"{path}:2",
        "data.prompts_file",
    ]
