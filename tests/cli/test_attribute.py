"""`dynamics attribute` on tiny random models."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dynamics.attribution.inseq import from_inseq
from dynamics.attribution.methods import METHODS
from dynamics.attribution.result import Attribution
from tests.models import tiny

TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A causal LM, a classifier, a regression, and a series of two steps of a causal LM."""
    folder = tmp_path_factory.mktemp("models")
    tiny.write(folder / "causal", "gpt_neox")
    tiny.write(folder / "labels", "bert", "classification")
    tiny.write(folder / "number", "bert", "regression")
    for step, heads in ((0, 1), (8, 2)):
        tiny.write(folder / f"series/step-{step}", "gpt_neox", num_attention_heads=heads)
    return folder


@pytest.fixture
def attribute(dynamics, models, monkeypatch):
    """Run `dynamics attribute` beside the models; standard output and error."""
    monkeypatch.chdir(models)

    def run(*arguments):
        status, out, err = dynamics("attribute", *arguments)
        assert status == 0, err
        return out, err

    return run


@pytest.fixture
def refused(fails, models, monkeypatch):
    monkeypatch.chdir(models)
    return lambda *arguments: fails("attribute", *arguments)


def lines(text):
    return [Attribution.from_dict(json.loads(line)) for line in text.splitlines()]


def from_python(folder, *texts, **settings):
    """What the functions behind the command give."""
    import dynamics

    return list(dynamics.attribute(dynamics.load_model(folder), texts, **settings))


def test_json_is_what_the_function_gives(attribute, models):
    out, err = attribute("causal", TEXT, "--json")
    (one,), (expected,) = lines(out), from_python(models / "causal", TEXT)
    np.testing.assert_array_equal(one.scores, expected.scores)
    assert (one.tokens, one.targets) == (expected.tokens, expected.targets)
    assert one.asked["target"] == "predicted"
    assert "attributing" not in err


def test_a_table_names_model_target_and_what_a_causal_prediction_reads(attribute):
    out, _ = attribute("causal", TEXT, "--target", " dog", "--foil", " man", "--top", "2")
    words = " ".join(out.split())
    assert "last layer · normxlogit · norm module_output · logit raw · sound protocol" in words
    assert "target ' dog' rather than ' man' at position 6" in words
    assert "the representation of a token predicts what follows that token" in words
    assert len(re.findall(r"^ +\d+ +\d+ ", out, re.MULTILINE)) == 2


def test_layers_tell_how_far_their_lens_is(attribute):
    out, _ = attribute("causal", TEXT, "--layers", "all")
    assert "KL(final || lens), nats" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  layer")] == [*"012"]
    chosen = lines(attribute("causal", TEXT, "--layers", "2,0", "--json")[0])
    assert [each.layer for each in chosen] == [2, 0]


def test_a_regression_is_ranked_both_ways_by_name(attribute):
    out, _ = attribute("number", TEXT)
    assert "\ndescending: " in out
    assert "\nascending: " in out


def test_all_methods_are_run_but_those_that_do_not_fit_which_are_named(attribute):
    out, err = attribute("labels", TEXT, "--method", "all", "--json")
    given = [each.method for each in lines(out)]
    told = re.findall(r"^left out: (\w+): ", err, re.MULTILINE)
    assert sorted([*given, *told]) == sorted(METHODS)
    assert "left out: inverse_log_frequency: inverse_log_frequency needs the counts" in err
    assert "normxlogit" in given


def test_where_no_method_can_answer_the_reason_is_told_once(refused):
    assert "has no label 'maybe'" in refused("labels", TEXT, "--method", "all", "--target", "maybe")


def test_several_methods_and_the_words_of_a_text(attribute):
    options = ["--method", "norm", "--method", "logit", "--word-level", "--json"]
    norm, logit = lines(attribute("labels", TEXT, *options)[0])
    assert (norm.method, logit.method) == ("norm", "logit")
    assert len(norm.tokens) == len(TEXT.split()) + 2


def test_counts_are_those_of_the_models_tokenizer(attribute, refused, models, tmp_path):
    (tmp_path / "text.txt").write_text("the cat the dog\n")
    from dynamics.corpus.count import count_corpus

    counts = tmp_path / "counts.parquet"
    made = count_corpus(str(tmp_path / "text.txt"), str(models / "causal"), vocab_size=tiny.V)
    made.write(counts)
    options = ["--method", "inverse_log_frequency", f"counts={counts}", "--json"]
    (one,) = lines(attribute("causal", "the cat", *options)[0])
    assert one.scores[0, 0] < one.scores[1, 0]
    assert one.asked["counts"].startswith("sha256:")
    assert "tokenizer" in refused("labels", TEXT, *options)


def test_a_continuation_that_is_given_is_explained_token_by_token(attribute):
    options = ["--continuation", "ran on", "--target", "given", "--exclude-readout", "--json"]
    (one,) = lines(attribute("causal", "the cat", *options)[0])
    assert [(each.position, each.token) for each in one.targets] == [(2, " ran"), (3, " on")]
    assert np.isnan(one.scores[1:, 0]).all()
    assert not np.isnan(one.scores[:2, 1]).any()


def test_html_and_inseq_are_files_that_can_be_read(attribute, tmp_path):
    out, _ = attribute("labels", TEXT, "-o", tmp_path / "page.html")
    assert out == f"attributions: {tmp_path / 'page.html'}\n"
    assert "<title>Attributions of " in (tmp_path / "page.html").read_text()
    attribute("causal", TEXT, "--format", "inseq", "-o", tmp_path / "a.json")
    (one,) = from_inseq(tmp_path / "a.json")
    assert one.text == TEXT
    assert attribute("labels", TEXT, "--format", "html")[0].startswith("<!doctype html>")


def test_a_file_gives_each_line_its_own_question(attribute, models, tmp_path):
    rows = [
        {"text": TEXT, "target": "LABEL_1", "foil": "LABEL_0", "id": 3},
        {"text": "the dog ran", "text_pair": "a man was"},
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)))
    first, second = lines(attribute("labels", "--file", path, "--json")[0])
    assert (first.targets[0].token_id, first.targets[0].foil_id) == (1, 0)
    assert second.targets[0].foil_id is None
    assert second.tokens.count("[SEP]") == 2
    (expected,) = from_python(models / "labels", rows[1])
    np.testing.assert_allclose(second.scores, expected.scores, rtol=1e-5)


def test_a_plain_file_and_a_data_set_are_one_text_a_line(attribute, tmp_path):
    (tmp_path / "in.txt").write_text("the cat\r\n\nthe dog\n")
    assert [
        each.text for each in lines(attribute("labels", "--file", tmp_path / "in.txt", "--json")[0])
    ] == ["the cat", "the dog"]
    (tmp_path / "in.csv").write_text("sentence,label\nthe cat,1\na dog,2\n")
    options = ["--dataset", tmp_path / "in.csv", "column=sentence", "--json"]
    out, err = attribute("labels", *options)
    assert [each.text for each in lines(out)] == ["the cat", "a dog"]
    assert "attributing 2 of 2" in err


def test_settings_are_arguments_a_file_or_options_of_before(attribute, models, tmp_path):
    (tmp_path / "settings.yaml").write_text("norm_source: row\nlogit_form: centered\n")
    options = ["causal", TEXT, "--json"]
    arguments, no_note = attribute(*options, "norm_source=row", "logit_form=centered")
    from_file, _ = attribute(*options, "--settings", tmp_path / "settings.yaml")
    former, note = attribute(*options, "--norm-source", "row", "--logit-form=centered")
    assert arguments == from_file == former
    assert note == (
        "dynamics: instead of --norm-source and --logit-form type norm_source=row "
        "logit_form=centered\n"
    )
    assert no_note == ""
    (one,) = lines(arguments)
    assert (one.norm_source, one.logit_form) == ("row", "centered")


def test_the_first_word_is_a_text_whatever_it_looks_like(attribute):
    (one,) = lines(attribute("labels", "the=cat", "side=source", "--json")[0])
    assert one.text == "the=cat"


def write_texts(folder, count=5):
    path = folder / "in.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"{TEXT} {'a ' * n}"}) + "\n" for n in range(count))
    )
    return path


RUN = ("--method", "norm", "--method", "logit", "--layers", "0,2")


@pytest.mark.parametrize("left", [0, 1, 4, 7, 19, 20])
def test_a_run_goes_on_after_the_last_whole_line(attribute, tmp_path, left):
    path, whole, torn = write_texts(tmp_path), tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    attribute("labels", "--file", path, *RUN, "-o", whole, "batch_size=2")
    written = whole.read_text().splitlines(keepends=True)
    assert len(written) == 5 * 2 * 2
    order = [(each.text, each.method, each.layer) for each in lines(whole.read_text())]
    texts = dict.fromkeys(text for text, _, _ in order)
    assert order == [(t, m, layer) for t in texts for m in ("norm", "logit") for layer in (0, 2)]
    begun = "".join(written[:left])
    torn.write_text(begun + (written[left][:30] if left < 20 else ""))
    _, err = attribute("labels", "--file", path, *RUN, "-o", torn, "batch_size=2")
    assert torn.read_text().startswith(begun)
    assert (f"already held {left} lines" in err) == (left > 0)
    for one, other in zip(lines(torn.read_text()), lines(whole.read_text()), strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)
        assert (one.text, one.method, one.layer) == (other.text, other.method, other.layer)


def test_an_interrupt_leaves_whole_lines(attribute, dynamics, tmp_path, monkeypatch):
    path, output = write_texts(tmp_path), tmp_path / "out.jsonl"
    make, seen = Attribution.to_json, []

    def interrupted(one):
        if len(seen) == 6:
            raise KeyboardInterrupt
        seen.append(one)
        return make(one)

    arguments = ["labels", "--file", path, *RUN, "-o", output]
    with monkeypatch.context() as patched:
        patched.setattr(Attribution, "to_json", interrupted)
        status, out, err = dynamics("attribute", *arguments)
    assert (status, out) == (130, "")
    assert err.endswith("dynamics: interrupted; run the same command again to resume\n")
    assert len(lines(output.read_text())) == 6
    attribute(*arguments)
    assert len(lines(output.read_text())) == 20


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["logit_form=centered"], 'its logit_form is "raw", expected "centered"'),
        (["--exclude-readout"], "its exclude_readout is false, expected true"),
        (["--target", "LABEL_2"], 'its target is "predicted", expected "LABEL_2"'),
        (["--foil", "LABEL_2"], 'its foil is null, expected "LABEL_2"'),
        (["--method", "norm"], 'its method is "normxlogit", expected "norm"'),
        (["dtype=float64"], 'its dtype is "float32", expected "float64"'),
        (["--layers", "2"], "its layer is null, expected 2"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_lines_of_another_run_are_refused_and_kept(attribute, refused, tmp_path, changes, told):
    path, output = write_texts(tmp_path, 2), tmp_path / "out.jsonl"
    arguments = ["labels", "--file", path, "-o", output]
    attribute(*arguments)
    before = output.read_text()
    message = refused(*arguments, *changes)
    assert f"{output}, line 1, is of another run: {told}; give another output" in message
    assert output.read_text() == before


def test_lines_of_other_texts_are_refused(attribute, refused, tmp_path):
    path, output = write_texts(tmp_path, 2), tmp_path / "out.jsonl"
    attribute("labels", "--file", path, "-o", output)
    rows = path.read_text().splitlines()
    path.write_text(f"{rows[0]}\n" + json.dumps({"text": "other"}))
    message = refused("labels", "--file", path, "-o", output)
    assert f"{output}, line 2, is of another run: its text is" in message
    path.write_text(rows[0])
    message = refused("labels", "--file", path, "-o", output)
    assert f"{output} has more lines than the 1 of this run" in message
    output.write_text("a\n")
    message = refused("labels", "--file", path, "-o", output)
    assert f"{output}, line 1, is no attribution of this command" in message


def test_a_text_is_followed_over_the_steps_of_a_series(attribute, models, tmp_path):
    out, _ = attribute("series", TEXT, "--steps", "all", "--target", " dog")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  step")] == ["0", "8"]
    output = tmp_path / "out.jsonl"
    arguments = ["series", TEXT, "--steps", "all", "--layers", "0,2", "-o", output]
    attribute(*arguments)
    whole = output.read_text()
    made = lines(whole)
    assert [(each.model, each.revision, each.layer) for each in made] == [
        ("series", f"step {step}", layer) for step in (0, 8) for layer in (0, 2)
    ]
    expected = from_python(models / "series/step-8", TEXT, layers=[0, 2])
    np.testing.assert_array_equal(made[3].scores, expected[1].scores)
    assert not np.array_equal(made[1].scores, made[3].scores)
    output.write_text("".join(whole.splitlines(keepends=True)[:3]))
    _, err = attribute(*arguments)
    assert output.read_text() == whole
    assert "already held 3 lines" in err


BAD_LINES = {
    '{"text": ""}': "line 2: the text is empty",
    '{"text": " "}': "line 2: the text is empty",
    '{"text": 3}': "line 2: 'text' is a int, expected a string",
    '{"text": "a", "target": 1}': "line 2: 'target' is a int, expected a string",
    '{"text": "a"': "line 2 is not JSON",
    '{"sentence": "a"}': "line 2 is no JSON object with an entry 'text'",
    "[]": "line 2 is no JSON object with an entry 'text'",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named(refused, tmp_path, line):
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"text": "a"}}\n{line}\n')
    assert f"{path}, {BAD_LINES[line]}" in refused("causal", "--file", path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("causal", "TEXT is missing or empty; give it, or --file, or --dataset"),
        ("causal x --file in.txt", "TEXT and --file give the input twice; leave one out"),
        ("causal --file gone.jsonl", "gone.jsonl cannot be read: No such file"),
        ("causal --file series", "series cannot be read: Is a directory"),
        ("causal --dataset causal/config.json column=x", "has no text in a column 'x'; its col"),
        ("causal --dataset causal/config.json:test", "(split test) cannot be read: "),
        ("causal x --method normxlogti", "there is no method 'normxlogti'; did you mean 'normx"),
        ("causal x --layers a,b", "cannot read the layers 'a,b'; give 'all' or numbers, like 0,"),
        ("causal x --layers 7", "has no layer 7; its layers are 0 (embeddings) to 2"),
        ("causal x --json --format html", "--json and --format html contradict each other"),
        ("causal x -o out.txt", "out.txt needs --format json, html or inseq"),
        ("series --steps all --file in.txt", "--steps follows one text over a series"),
        ("series x --steps 3", "step 3 does not exist"),
        ("gone x", "there is no folder 'gone' here, and 'gone' is no public series; "),
        ("causal the --target id:x", "and a target is one; name one of them, or its number as id"),
        (
            "causal x norm_source=rows",
            "norm_source: norm source 'rows' is unknown; it is one of row",
        ),
        ("causal x norm_sorce=row", "unknown key 'norm_sorce'; did you mean 'norm_source'?"),
        ("causal the cat", "cannot read the setting 'cat'; expected key=value"),
        ("causal --file in.txt batch_size=0", "batch_size: input should be greater than or equal"),
        ("labels x --target maybe", "has no label 'maybe'; it has LABEL_0 (0), "),
    ],
)
def test_a_mistake_is_told_on_one_line(refused, models, arguments, told):
    (models / "in.txt").write_text("the cat\n")
    assert told in refused(*arguments.split())
    assert not (models / "out.txt").exists()


def test_an_empty_file_holds_no_text(refused, tmp_path):
    (tmp_path / "in.txt").write_text("\n \n")
    assert "holds no text; give one input a line" in refused(
        "causal", "--file", tmp_path / "in.txt"
    )


def change_weights(folder):
    """What training on under the same name does to a folder."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors.values()))
    first.view(-1)[0] += 0.5
    save_file(tensors, path, {"format": "pt"})


def test_lines_made_with_other_weights_are_refused_and_kept(attribute, refused, models, tmp_path):
    shutil.copytree(models / "labels", tmp_path / "labels")
    path, output = write_texts(tmp_path, 3), tmp_path / "out.jsonl"
    arguments = [tmp_path / "labels", "--file", path, "-o", output]
    attribute(*arguments)
    assert "already held 3 lines" in attribute(*arguments)[1]
    before = output.read_text()
    change_weights(tmp_path / "labels")
    message = refused(*arguments)
    assert f'{output}, line 1, was made with other weights ("sha256:' in message
    assert message.endswith("; give another output")
    assert output.read_text() == before


def test_a_step_with_other_weights_is_refused(attribute, refused, models, tmp_path):
    shutil.copytree(models / "series", tmp_path / "series")
    output = tmp_path / "out.jsonl"
    arguments = [tmp_path / "series", TEXT, "--steps", "all", "-o", output]
    attribute(*arguments)
    before = output.read_text()
    change_weights(tmp_path / "series/step-8")
    assert f"{output}, line 2, was made with other weights" in refused(*arguments)
    assert output.read_text() == before
    output.write_text(before.splitlines(keepends=True)[0])
    _, err = attribute(*arguments)
    assert "already held 1 lines" in err
    assert output.read_text() != before
