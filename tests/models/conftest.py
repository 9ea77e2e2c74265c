from tests.hub.conftest import hub, publish, standin

__all__ = ["hub", "publish", "standin"]
