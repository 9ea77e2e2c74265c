"""Whatever the hub does wrong ends in right numbers or in one clear line."""

import re
import shutil
import socket

import pytest

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.hub.transport import Patience, Transport
from dynamics.errors import CheckpointError, StepError
from tests.checkpoints.writers import assert_same, neox, write_checkpoint
from tests.hub.standin import Repository
from tests.hub.test_remote_reading import CONFIG, like_pythia

BLOB = "GET /blob/"
LARGE_RANGE = r"GET /blob/.* bytes=(?!0-)"  # of the tensor, not of the header


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint whose embedding takes several connections."""
    folder = tmp_path_factory.mktemp("written")
    return write_checkpoint(folder, like_pythia(30000, 96, 1), config=CONFIG)


@pytest.fixture
def folder(written, publish):
    publish(written, "step1")
    return written


@pytest.fixture
def checkpoint(folder, hub):
    return open_hub_series("org/model", hub=hub).checkpoints[0]


def assert_right(checkpoint, folder):
    for role in ("input_embedding", "output_embedding", "final_norm_weight"):
        assert_same(checkpoint.tensor(role), Checkpoint(folder, 0).tensor(role))


def assert_one_line(checkpoint, message):
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.tensor("output_embedding")
    assert "\n" not in str(error.value)
    assert "model@step1" in str(error.value)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("match", ["HEAD", BLOB, "GET .*config.json", ""])
def test_what_passes_is_waited_for(checkpoint, folder, standin, status, match):
    standin.fail(status, match, times=3)
    assert_right(checkpoint, folder)


@pytest.mark.parametrize("match", ["HEAD", BLOB, "GET .*config.json"])
def test_what_does_not_pass_is_given_up(checkpoint, standin, match):
    standin.fail(503, match)
    assert_one_line(checkpoint, r"127\.0\.0\.1:\d+ answered 503 Service Unavailable \(5 tries\)")
    assert sum(bool(re.search(match, f"{m} {path}")) for m, path, _ in standin.requests) <= 5 * 8


def test_too_many_requests_says_what_raises_the_limit(checkpoint, standin):
    standin.fail(429, "HEAD")
    assert_one_line(checkpoint, "429 Too Many Requests.*set HF_TOKEN")


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"resolvers";r=0;t=41'}, 42),
        ({"RateLimit": '"resolvers";r=0;t=4000'}, 330),
        ({"RateLimit": '"resolvers";r=17;t=41'}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_waits_are_those_asked_for(checkpoint, folder, standin, monkeypatch, headers, asked):
    waits = []
    wait_after = Patience.wait_after

    def impatient(self, failures, error):
        waits.append(wait_after(self, failures, error))
        return 0

    monkeypatch.setattr(Patience, "wait_after", impatient)
    standin.fail(429, "HEAD", times=2, headers=headers)
    assert_right(checkpoint, folder)
    assert len(waits) == 2
    if asked is not None:
        assert waits == [asked, asked]
    else:  # ever longer, never twice the same
        assert 0.005 <= waits[0] <= 0.01 <= waits[1] <= 0.02


@pytest.mark.parametrize("after", [0, 1, 100_000])
@pytest.mark.parametrize("match", [BLOB, LARGE_RANGE])
def test_a_cut_connection_goes_on_where_it_was(checkpoint, folder, standin, after, match):
    standin.fail("cut", match, times=4, after=after)
    assert_right(checkpoint, folder)


def test_after_a_cut_only_the_rest_is_fetched(checkpoint, folder, standin):
    standin.fail("cut", LARGE_RANGE, times=4, after=100_000)
    tensor = checkpoint.tensor("input_embedding")
    assert checkpoint.traffic.received <= tensor.nbytes + 65536 + 1024


def test_a_connection_that_is_always_cut(checkpoint, standin):
    standin.fail("cut", LARGE_RANGE)
    assert_one_line(checkpoint, r"5 tries\); try again later")


def test_a_server_that_falls_silent(checkpoint, folder, standin):
    standin.fail("stall", LARGE_RANGE, times=2)
    assert_right(checkpoint, folder)


def test_a_server_that_only_drips(folder, standin):
    patience = Patience(tries=2, first_wait=0.01, timeout=0.1, slowest=10**9)
    standin.mbit = 2
    hub = Hub(standin.endpoint, transport=Transport(patience))
    checkpoint = open_hub_series("org/model", hub=hub).checkpoints[0]
    assert_one_line(checkpoint, r"is silent or far too slow \(2 tries\)")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no range", "ignores byte ranges .status 200 in place of 206.*HF_ENDPOINT.*hf download"),
        ("page", "ignores byte ranges .status 200"),
        ("short", "sent Content-Length '.*', where '.*' was expected|sent Content-Range"),
        ("shifted", "sent Content-Range 'bytes .*', where 'bytes .*' was expected"),
        ("encoded", "sent Content-Encoding 'gzip'"),
        ("drop Content-Range", "sent Content-Range ''"),
        (404, "answered 404 Not Found when bytes"),
        (416, "answered 416"),
    ],
)
@pytest.mark.parametrize("match", [BLOB, LARGE_RANGE])
def test_a_wrong_answer_is_refused(checkpoint, standin, kind, match, message):
    if kind in ("page", 404, 416) or str(kind).startswith("drop"):
        match = BLOB  # these do not know ranges
    standin.fail(kind, match)
    assert_one_line(checkpoint, message)


def test_a_server_that_ignores_ranges_does_not_send_the_file(checkpoint, standin):
    standin.fail("no range", BLOB)
    assert_one_line(checkpoint, "ignores byte ranges")
    assert checkpoint.traffic.received < 10_000


@pytest.mark.parametrize("status", [401, 403, 410])
def test_an_expired_address_is_asked_for_again(checkpoint, folder, standin, status):
    checkpoint.vocab_size  # noqa: B018
    standin.expire()
    standin.fail(status, LARGE_RANGE, times=3)
    heads = sum(method == "HEAD" for method, _, _ in standin.requests)
    assert_right(checkpoint, folder)
    assert 1 <= sum(method == "HEAD" for method, _, _ in standin.requests) - heads <= 4


def test_an_address_that_is_refused_for_good(checkpoint, standin):
    standin.fail(403, LARGE_RANGE.replace(" bytes=(?!0-)", ""))
    assert_one_line(checkpoint, r"answered 403 Forbidden \(5 tries\)")


def test_a_file_that_changes_while_it_is_read(tmp_path, written, publish, hub, standin):
    folder = shutil.copytree(written, tmp_path / "copy")
    publish(folder, "step1")
    checkpoint = open_hub_series("org/model", hub=hub).checkpoints[0]
    checkpoint.vocab_size  # noqa: B018
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    standin.expire()
    assert_one_line(checkpoint, "changed while it was being read; read again")


def test_a_branch_that_moves_is_read_as_it_was(tmp_path, folder, checkpoint, standin, publish):
    other = write_checkpoint(tmp_path / "other", neox())
    standin.repositories["org/model"].tags["kept"] = folder
    publish(other, "step1")
    assert_right(checkpoint, folder)


def test_another_commit_than_was_asked_for(checkpoint, folder, hub, standin):
    wrong = HubRevision(hub, "org/model", "step1")
    wrong.open("model.safetensors")
    wrong.commit, wrong._files = "0" * 40, {}
    wrong._hub = _Answering(wrong._hub)
    with pytest.raises(CheckpointError, match=f"answers with commit .* in place of {'0' * 40}"):
        wrong.open("model.safetensors")


class _Answering:
    """A hub that gives the branch whatever commit it is asked for."""

    def __init__(self, hub):
        self.hub = hub
        self.offline = False
        self.transport = hub.transport

    def cached(self, *_):
        return None

    def locate(self, repo, revision, filename, _commit):
        return self.hub.locate(repo, revision, filename)


def test_a_mirror_that_leaves_headers_out(checkpoint, folder, standin):
    for header in ("X-Error-Code", "X-Error-Message", "X-Repo-Commit", "X-Linked-Etag"):
        standin.fail(f"drop {header}")
    assert_right(checkpoint, folder)
    assert checkpoint.file_sha256("input_embedding") is None


def test_a_mirror_that_does_not_tell_the_length(checkpoint, standin):
    standin.fail("drop X-Linked-Size")
    assert_one_line(checkpoint, "does not send the length of the file")


def test_a_web_page_in_place_of_the_refs(hub, standin, folder):
    standin.fail("page", "GET /api")
    with pytest.raises(CheckpointError, match="did not answer with JSON; check HF_ENDPOINT"):
        open_hub_series("org/model", hub=hub)


def test_a_damaged_config(checkpoint, standin):
    standin.fail("page", "config.json")
    assert_one_line(checkpoint, "config.json: is damaged")


def test_damage_in_the_header_is_refused_as_in_a_folder(tmp_path, hub, publish):
    folder = write_checkpoint(tmp_path / "folder", neox(), "zip")
    content = bytearray((folder / "pytorch_model.bin").read_bytes())
    content[64 + 10] ^= 0x55
    (folder / "pytorch_model.bin").write_bytes(content)
    publish(folder, "step1")
    local, remote = Checkpoint(folder, 1), open_hub_series("org/model", hub=hub).checkpoints[0]
    with pytest.raises(CheckpointError) as here:
        local.tensor("input_embedding")
    with pytest.raises(CheckpointError) as there:
        remote.tensor("input_embedding")
    assert str(here.value).split(": ", 1)[1] == str(there.value).split(": ", 1)[1]


def test_gated(checkpoint, folder, hub, standin, monkeypatch):
    standin.repositories["org/model"].gated = True
    message = "org/model: is gated, and {}; accept its terms at .*/org/model and set HF_TOKEN"
    with pytest.raises(CheckpointError, match=message.format("no token is set")):
        checkpoint.tensor("input_embedding")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(
        CheckpointError, match=message.format("the token that is set has no access")
    ):
        checkpoint.tensor("input_embedding")
    monkeypatch.setenv("HF_TOKEN", standin.token)
    assert_right(checkpoint, folder)
    to_storage = [headers for _, path, headers in standin.requests if path.startswith("/blob")]
    assert to_storage
    assert not any("authorization" in {name.lower() for name in each} for each in to_storage)


def test_a_repository_that_does_not_exist(hub, standin, folder):
    standin.repositories |= {"org/pythia-160m": Repository(), "other/model": Repository()}
    with pytest.raises(
        CheckpointError, match=r"org/modell: http.* has no such repository"
    ) as error:
        open_hub_series("org/modell", hub=hub)
    assert "similar names are org/model; check the name, or set HF_TOKEN" in str(error.value)
    with pytest.raises(CheckpointError, match="is private; check the name") as error:
        open_hub_series("nobody/anything", hub=hub)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("repo", ["a/b/c", "org/", "a b", "../x"])
def test_a_name_that_is_none(hub, repo):
    with pytest.raises(CheckpointError, match="is no repository of a hub; namespace/name"):
        open_hub_series(repo, hub=hub)


def test_a_revision_that_does_not_exist(hub, folder):
    missing = Checkpoint(HubRevision(hub, "org/model", "step10"), 10)
    with pytest.raises(CheckpointError, match=r"no revision 'step10' among its 1 .* are step1$"):
        missing.tensor("input_embedding")


def test_a_step_that_does_not_exist(hub, publish, folder):
    publish(folder, "step512")
    series = open_hub_series("org/model", hub=hub)
    with pytest.raises(StepError, match="step 7 does not exist; the nearest are 1 and 512"):
        series.select("7")


def test_a_revision_without_weights(tmp_path, hub, publish):
    (tmp_path / "empty").mkdir()
    publish(tmp_path / "empty", "step1")
    checkpoint = open_hub_series("org/model", hub=hub).checkpoints[0]
    assert_one_line(checkpoint, "org/model@step1: holds no weights; looked for model.safetensors")


def test_an_endpoint_that_is_down():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{taken.getsockname()[1]}"
        hub = Hub(down, transport=Transport(Patience(first_wait=0.001)))
        message = r"org/model: 127.0.0.1:\d+ cannot be reached .* check the network and HF_ENDPOINT"
        with pytest.raises(CheckpointError, match=message) as error:
            open_hub_series("org/model", hub=hub)
    assert "\n" not in str(error.value)


def test_other_files_than_weights(tmp_path, hub, publish):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid")
    publish(folder, "step1")
    checkpoint = open_hub_series("org/model", hub=hub).checkpoints[0]
    assert_one_line(checkpoint, "git-lfs pointer")
    (folder / "model.safetensors").write_bytes(b"")
    checkpoint = open_hub_series("org/model", hub=hub).checkpoints[0]
    assert_one_line(checkpoint, "neither safetensors nor")


def test_tensors_of_a_family_that_is_not_known(tmp_path, hub, publish):
    write_checkpoint(tmp_path / "folder", {"net.words": neox()["embed_out.weight"]})
    publish(tmp_path / "folder", "step1")
    checkpoint = open_hub_series("org/model", hub=hub).checkpoints[0]
    assert_one_line(checkpoint, "no input embedding is known by these keys")
