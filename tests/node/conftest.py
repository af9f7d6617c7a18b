import pytest
from node_harness import running_node


@pytest.fixture
async def node(tmp_path):
    async with running_node(tmp_path) as started:
        yield started
