from tests.corpus.conftest import shared_data

__all__ = ["shared_data"]
