"""What keeps webhooks without a key in order: those signalled, and calls that are under way.

Processes that are there already are signalled as before: what their workflows hold is not known.

Revision: 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema forward."""
    with op.batch_alter_table("governance_process") as table:
        table.add_column(
            sa.Column("webhooks_signalled", sa.Integer(), nullable=False, server_default="1")
        )
        table.add_column(sa.Column("called_until", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("governance_process") as table:
        table.alter_column("webhooks_signalled", existing_type=sa.Integer(), server_default=None)


def downgrade() -> None:
    """Bring the schema back."""
    with op.batch_alter_table("governance_process") as table:
        table.drop_column("called_until")
        table.drop_column("webhooks_signalled")
