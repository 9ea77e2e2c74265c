from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"

STORY = [
    "The cat sat on the mat, and the cat was glad.\n\nThe end.",
    "A <script>alert('hi')</script> in a <b>page</b> is the text of the page.",
    "Naïve café — 東京 über die Straße \U0001f642 the the the",
    "What ends a document? <|endoftext|> does, but not as text.",
    "\tdef f(x):\n        return x + 1\n",
]


@pytest.fixture(scope="session")
def shared_data():
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no shared data folder at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def story():
    return STORY * 7


@pytest.fixture(scope="session")
def tokenizer(story):
    from dynamics.corpus.tokenizers.loading import train_tokenizer

    return train_tokenizer(story, 300)
