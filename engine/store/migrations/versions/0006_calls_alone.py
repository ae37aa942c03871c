"""Instances whose calls are made in a process of their own, and webhooks that others asked about.

Revision: 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema forward."""
    with op.batch_alter_table("instance_pace") as table:
        table.add_column(sa.Column("alone_until", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("received_webhook") as table:
        table.add_column(sa.Column("keys_asked_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Bring the schema back."""
    with op.batch_alter_table("received_webhook") as table:
        table.drop_column("keys_asked_at")
    with op.batch_alter_table("instance_pace") as table:
        table.drop_column("alone_until")
