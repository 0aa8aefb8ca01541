import pytest

FORMATS = ("json", "json-min", "prodigy")


@pytest.fixture(params=FORMATS)
def tool(request):
    return request.param
