from uuid import UUID

import pytest

from schema.ids import TENANT, format_id
from tests.service.cli.duro_command import Duro


@pytest.fixture
def duro(db_url: str, key: bytes) -> Duro:
    """The command on this test's own database."""
    return Duro.on(db_url, key)


@pytest.fixture
def ten(tenant: UUID) -> str:
    """A tenant's id as the outside world writes it."""
    return format_id(TENANT, tenant)
