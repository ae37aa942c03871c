"""Processes that processes start: whose they are, and whether their end was handled.

Revision: 0009, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

PARENT = "ix_governance_process_parent_id"


def upgrade() -> None:
    """Bring the schema forward."""
    # Defaults stay: processes of the version before may still run, and know no such columns.
    with op.batch_alter_table("governance_process") as table:
        table.add_column(sa.Column("parent_id", sa.String(36), nullable=True))
        table.add_column(sa.Column("level", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("children", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(
            sa.Column("ends_with_parent", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        table.add_column(sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(PARENT, "governance_process", ["parent_id"])


def downgrade() -> None:
    """Bring the schema back."""
    op.drop_index(PARENT, "governance_process")
    with op.batch_alter_table("governance_process") as table:
        for column in ("reported_at", "ends_with_parent", "children", "level", "parent_id"):
            table.drop_column(column)
