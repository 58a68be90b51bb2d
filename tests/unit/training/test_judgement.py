import pytest

from treedraft.core.errors import UnavailableError
from treedraft.inference.toy import make_toy_model
from treedraft.training.evaluation import judgement, report
from treedraft.training.evaluation.held_out import HeldOutPrompt
from treedraft.training.evaluation.settings import EvaluationSettings

PROMPTS = (HeldOutPrompt("prose", "The quick brown fox"),)
SETTINGS = EvaluationSettings(
    temperatures=(0.0,), max_tokens=8, budgets=(1, 16), depths=(1,), cost_rows=(1, 2),
    cost_repeats=3, cost_context=8,
)  # fmt: skip


@pytest.fixture
def judge(tmp_path):
    target = make_toy_model(tmp_path / "target", seed=1)
    drafter = make_toy_model(tmp_path / "drafter", seed=2, noise_of=target, noise=0.05)

    def run(**options):
        return judgement.judge_and_write(
            str(target), drafter, prompts=PROMPTS, settings=SETTINGS, **options
        )

    return run


def test_the_report_and_its_picture_lie_in_the_folder_asked_for(judge, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(judgement.picture, "draw", lambda found, file: drawn.append((found, file)))
    out = tmp_path / "new" / "folder"
    found = judge(out=out)
    assert report.from_json((out / report.FILE_NAME).read_text()) == found
    assert drawn == [(found, out / "report.svg")]
    assert (found.target.name, found.target.dtype) == ("target", "float32")
    assert (found.drafter.name, found.num_prompts) == ("drafter", 1)


def test_without_matplotlib_there_is_a_report_without_a_picture(judge, tmp_path, monkeypatch):
    def refuse(*_):
        raise UnavailableError("a picture needs matplotlib")

    monkeypatch.setattr(judgement.picture, "draw", refuse)
    said = []
    judge(out=tmp_path, progress=said.append)
    assert (tmp_path / report.FILE_NAME).is_file()
    assert said[-1] == "a picture needs matplotlib"


def test_nothing_is_written_where_no_folder_is_named(judge, tmp_path):
    before = set(tmp_path.iterdir())
    judge()
    assert set(tmp_path.iterdir()) == before
