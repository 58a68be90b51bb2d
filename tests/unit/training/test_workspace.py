import pytest

from treedraft.core.errors import TreedraftError
from treedraft.training.workspace import MANIFEST, StageIdentity, StageState, Workspace

IDENTITY = StageIdentity({"train": {"layers": 4, "temperatures": {0.5: 1.0}}}, {"prompts": "abc"})


def reason_of(call, *arguments):
    with pytest.raises(TreedraftError) as caught:
        call(*arguments)
    return caught.value.reason, str(caught.value)


def test_a_stage_goes_from_missing_to_begun_to_finished(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.state("train", IDENTITY) is StageState.MISSING
    assert reason_of(workspace.fingerprint_of, "train")[0] == "STAGE_MISSING"
    workspace.begin("train", IDENTITY)
    assert workspace.state("train", IDENTITY) is StageState.BEGUN
    assert reason_of(workspace.fingerprint_of, "train")[0] == "STAGE_MISSING"
    workspace.finish("train", IDENTITY, {"steps": 7})
    workspace = Workspace(tmp_path)
    assert workspace.state("train", IDENTITY) is StageState.FINISHED
    assert workspace.fingerprint_of("train") == IDENTITY.fingerprint
    assert workspace.manifest("train").result == {"steps": 7}


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (StageIdentity({"train": {"layers": 3}}, IDENTITY.inputs), "train.layers was 4, is 3"),
        (StageIdentity(IDENTITY.settings, {"prompts": "x"}), "prompts was 'abc', is 'x'"),
    ],
)
def test_a_stage_of_other_settings_or_inputs_is_refused_by_name(tmp_path, identity, words):
    workspace = Workspace(tmp_path)
    workspace.begin("train", IDENTITY)
    reason, message = reason_of(workspace.state, "train", identity)
    assert reason == "STAGE_CHANGED"
    assert words in message
    workspace.discard(["train"])
    assert workspace.state("train", identity) is StageState.MISSING


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 1}'])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, text):
    workspace = Workspace(tmp_path)
    workspace.begin("train", IDENTITY)
    (workspace.folder("train") / MANIFEST).write_text(text)
    assert reason_of(workspace.state, "train", IDENTITY)[0] == "WORKSPACE_CORRUPT"
