"""Whom a node's device servers run as, as the node says it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("device_users", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("nodes", "device_users")
