"""The pace of a plugin instance's calls; a process' own choice of its next poll.

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema forward."""
    op.create_table(
        "instance_pace",
        sa.Column("instance_id", sa.String(36), nullable=False),
        sa.Column("next_call_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("instance_id"),
    )
    with op.batch_alter_table("governance_process") as table:
        table.add_column(sa.Column("poll_again_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Bring the schema back."""
    with op.batch_alter_table("governance_process") as table:
        table.drop_column("poll_again_at")
    op.drop_table("instance_pace")
