"""An index of what the reconciler looks at every second, and one of a workspace's unfinished leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOVING = sa.text("state IN ('starting', 'stopping')")
_UNFINISHED = sa.text("state <> 'ended'")


def upgrade() -> None:
    op.create_index(
        "ix_lease_parts_moving", "lease_parts", ["lease_id"], sqlite_where=_MOVING, postgresql_where=_MOVING
    )
    op.create_index(
        "ix_leases_workspace", "leases", ["workspace_id"], sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED
    )


def downgrade() -> None:
    op.drop_index("ix_leases_workspace", "leases")
    op.drop_index("ix_lease_parts_moving", "lease_parts")
