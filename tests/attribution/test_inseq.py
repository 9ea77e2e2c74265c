import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dynamics.attribution.inseq import from_inseq, to_inseq
from dynamics.attribution.result import Target
from dynamics.errors import ConfigError, CorpusError
from tests.attribution.sample_attributions import make

STOCK = Path(__file__).with_name("inseq_file.json")
NAN = float("nan")

CASES = {
    "next token": [make()],
    "generated tokens": [
        make(3, tokens=[*make().tokens[:5], " t0"], checks={"delta": [0, 0.5, 1]})
    ],
    "label": [make(task="classification")],
    "layers": [make(layer=each, checks={"kl_nats": [each]}) for each in (0, 1, 4)],
    "layers of a label": [make(layer=each, task="masked") for each in (0, 2)],
    "steps": [make(revision=f"step {each}") for each in (1, 2)],
    "words": [make(2).to_word_level()],
    "texts": [make(), make(text="other", notes=["cut off"])],
}


def write(path, *attributions):
    path.write_text(to_inseq(attributions))
    return path


def assert_same(read, given):
    for one, before in zip(read, given, strict=True):
        assert one.to_dict() == before.to_dict()


@pytest.mark.parametrize("name", CASES)
def test_what_we_write_we_read(tmp_path, name):
    assert_same(from_inseq(write(tmp_path / "a.json", *CASES[name])), CASES[name])


def test_a_causal_prediction_is_what_inseq_calls_generated():
    (sequence,) = json.loads(make(2).to_inseq())["attributes"]["sequence_attributions"]
    assert sequence["__instance_type__"] == [
        "inseq.data.attribution",
        "CoarseFeatureAttributionSequenceOutput",
    ]
    parts = sequence["attributes"]
    assert parts["source_attributions"] is None
    assert (parts["attr_pos_start"], parts["attr_pos_end"]) == (5, 7)
    target = [each["attributes"] for each in parts["target"]]
    assert [each["token"] for each in target] == [*make().tokens[:5], " t0", " t1"]
    assert [each["id"] for each in target] == [*make().token_ids[:5], 80, 81]
    assert len(parts["source"]) == 5


def test_a_label_is_the_target_of_a_source():
    one = make(task="classification", targets=[Target(0, 1, "positive")])
    (sequence,) = json.loads(one.to_inseq())["attributes"]["sequence_attributions"]
    parts = sequence["attributes"]
    assert parts["target_attributions"] is None
    assert [each["attributes"]["token"] for each in parts["source"]] == make().tokens
    assert [each["attributes"] for each in parts["target"]] == [{"token": "positive", "id": 1}]


def test_a_stock_file_is_read():
    decoder, source, target = from_inseq(STOCK)
    assert (decoder.method, decoder.model, decoder.text) == ("occlusion", "some/model", "once upon")
    assert decoder.tokens == ["once", "upon", "a", "time"]
    assert decoder.targets == [Target(2, 1, "a"), Target(3, 4, "time")]
    np.testing.assert_array_equal(decoder.scores, [[1, 3], [2, 4], [NAN, -5], [NAN, NAN]])
    assert decoder.checks == {"probability": [0.25, 0.5]}
    assert decoder.ranking(1) == [1, 0, 2]
    assert (decoder.task, source.side, target.side) == ("causal", "source", "target")
    assert source.tokens == ["un", "chat"]
    np.testing.assert_array_equal(source.scores, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(target.scores, [[5, 6], [NAN, 7], [NAN, NAN]])
    assert source.targets == target.targets == [Target(1, 1, "a"), Target(2, 3, "cat")]


def test_a_gzipped_file_is_read(tmp_path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(STOCK.read_bytes()))
    assert_same(from_inseq(path), from_inseq(STOCK))


def test_scores_changed_in_inseq_are_those_that_are_read(tmp_path):
    content = json.loads(to_inseq([make()]))
    other = json.loads(to_inseq([replace(make(), scores=make().scores * 2)]))
    content["attributes"]["sequence_attributions"] = other["attributes"]["sequence_attributions"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (read,) = from_inseq(tmp_path / "a.json")
    np.testing.assert_array_equal(read.scores, make().scores * 2)
    np.testing.assert_array_equal(read.norm, make().norm)


def test_tokens_changed_in_inseq_leave_our_own_part_behind(tmp_path):
    content = json.loads(to_inseq([make()]))
    (sequence,) = content["attributes"]["sequence_attributions"]
    sequence["attributes"]["target"][1]["attributes"]["token"] = " Twice"
    (tmp_path / "a.json").write_text(json.dumps(content))
    (read,) = from_inseq(tmp_path / "a.json")
    assert read.tokens[1] == " Twice"
    assert read.norm is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "not of nothing"),
        ([make(), make(method="norm")], "not of norm of tiny, normxlogit of tiny; write one file"),
    ],
    ids=["none", "two methods"],
)
def test_one_file_is_of_one_model_and_method(given, told):
    with pytest.raises(ConfigError, match=told):
        to_inseq(given)


def broken(change):
    content = json.loads(STOCK.read_text())
    change(content["attributes"]["sequence_attributions"][0])
    return json.dumps(content)


BAD = {
    "no JSON": ("<script>", "is no file that Inseq saved"),
    "other JSON": ("[1, 2]", "is no file that Inseq saved"),
    "no tensor": (broken(lambda s: s["attributes"].update(target_attributions="AAAA")), "Safetens"),
    "not base64": (broken(lambda s: s["attributes"].update(target_attributions="?")), "no file"),
    "too few tokens": (broken(lambda s: s["attributes"]["target"].pop(0)), "for 3 tokens"),
    "no token": (broken(lambda s: s["attributes"].update(target=[3])), "is no file that Inseq"),
}


@pytest.mark.parametrize("name", BAD)
def test_another_file_is_refused(tmp_path, name):
    content, told = BAD[name]
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CorpusError, match=told):
        from_inseq(tmp_path / "a.json")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"gone\.json cannot be read: No such file"):
        from_inseq(tmp_path / "gone.json")


def test_finer_scores_are_to_be_aggregated_first(tmp_path):
    content = json.loads(to_inseq(CASES["layers"]))
    (sequence,) = content["attributes"]["sequence_attributions"]
    sequence["__instance_type__"][1] = "GranularFeatureAttributionSequenceOutput"
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"scores of shape \(6, 1, 3\).*\.aggregate\(\) in Inseq"):
        from_inseq(tmp_path / "a.json")


def test_classes_named_in_a_file_are_not_imported(tmp_path):
    content = json.loads(STOCK.read_text())
    content["attributes"]["info"]["__instance_type__"] = ["antigravity", "Nothing"]
    content["__instance_type__"] = ["antigravity", "Nothing"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert_same(from_inseq(tmp_path / "a.json"), from_inseq(STOCK))


@pytest.mark.filterwarnings("ignore")  # what Inseq and its requirements warn of is theirs
@pytest.mark.parametrize("name", CASES)
def test_inseq_itself_reads_and_writes_them(tmp_path, name):
    inseq = pytest.importorskip("inseq", reason="inseq is not installed")
    given = CASES[name]
    output = inseq.FeatureAttributionOutput.load(write(tmp_path / "a.json", *given))
    assert output.info["attribution_method"] == "normxlogit"
    first = output[0]
    tensor = first.source_attributions
    tensor = first.target_attributions if tensor is None else tensor
    scores = given[0].scores[: len(tensor)]
    layer = tensor[..., 0] if tensor.ndim == 3 else tensor
    np.testing.assert_array_equal(layer[: len(scores)].numpy(), scores)
    assert first.aggregate().get_scores_dicts(do_aggregation=False)
    assert output.show(display=False, return_html=True)
    output.save(tmp_path / "b.json")
    assert_same(from_inseq(tmp_path / "b.json"), given)
